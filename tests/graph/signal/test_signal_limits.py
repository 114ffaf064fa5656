"""Limits that are known in closed form, and what must never be claimed."""

from __future__ import annotations

import math

import pytest
from signal_graphs import BATCH, Chain, stack

from gradlint.graph.signal import profile, what_if
from gradlint.graph.signal.elementwise import elementwise, register
from gradlint.graph.signal.whatif import AddSkips, InsertNorm, Reinit, SwapActivation


def per_layer(graph, depth):
    """log10 factor on ‖∂L/∂h‖ per hidden layer, past the first few."""
    rows = profile(graph, batch_size=BATCH).layers
    return (rows[2].gradient - rows[depth - 2].gradient) / (depth - 4)


@pytest.mark.parametrize(
    ("op", "gain_squared", "chi"),
    [("relu", 2.0, 1.0), ("relu", 1 / 3, 1 / 6), ("relu", 1.0, 0.5), ("gelu", 1 / 3, 1 / 12)],
)
@pytest.mark.parametrize("width", [128, None])
def test_a_chain_multiplies_by_chi_with_or_without_widths(op, gain_squared, chi, width):
    assert per_layer(stack(op, gain_squared, 30, width), 30) == pytest.approx(0.5 * math.log10(chi), abs=0.01)


def test_sigmoid_at_default_init_loses_a_factor_of_seven_per_layer():
    assert 10 ** per_layer(stack("sigmoid", 1 / 3, 20), 20) == pytest.approx(0.144, abs=0.005)


def test_batch_norm_and_relu_grow_the_gradient_as_yang_2019_says():
    # √(π/(π−1)) = 1.2112 in the limit of a large batch
    chain = stack("relu", 2.0, 30, norm="batch_norm")
    rows = profile(chain, batch_size=4096).layers
    # between h's of two layers: linear → norm → relu
    assert 10 ** ((rows[2].gradient - rows[28].gradient) / 26) == pytest.approx(
        math.sqrt(math.pi / (math.pi - 1)), rel=0.02
    )


def test_a_signal_of_1e_minus_400_survives():
    rows = profile(stack("relu", 1e-4, 200), batch_size=BATCH).layers
    assert -700 < rows[0].gradient < -390


def test_an_operation_without_a_rule_voids_its_path_and_is_named():
    chain = Chain()
    chain.linear()
    chain.add("unknown", "mystery")
    chain.linear()
    found = profile(chain.graph(), batch_size=BATCH)
    assert found.unknown_ops == ("mystery",)
    assert all(found.void[:4])
    assert found.layers[0].gradient is None
    assert found.layers[0].weight_gradient is None
    assert found.coverage < 1.0
    assert found.confidence != "high"


@pytest.mark.parametrize("law", [{"distribution": "pretrained"}, {"distribution": "unknown"}, {"origin": "pretrained"}])
def test_weights_of_unknown_values_void_the_path(law):
    chain = Chain()
    chain.linear(**law)
    chain.act("relu")
    chain.linear()
    assert profile(chain.graph(), batch_size=BATCH).void[1]


def test_detach_stops_the_gradient():
    chain = Chain()
    chain.linear()
    chain.add("reshape", "detach")
    chain.linear()
    found = profile(chain.graph(), batch_size=BATCH)
    assert found.gradient_at[1] == -math.inf
    assert math.isfinite(found.gradient_at[3])


def test_a_zero_initialised_branch_is_also_evaluated_as_grown():
    chain = Chain()
    start = chain.linear(2.0)
    chain.act("relu")
    inner = chain.linear(1.0)
    end = chain.linear(0.0, std=0.0, distribution="constant")
    chain.add("add", "add", (start, end))
    chain.linear()
    found = profile(chain.graph(), batch_size=BATCH)
    assert found.gradient_at[inner] == -math.inf
    assert found.grown is not None
    assert math.isfinite(found.grown.gradient_at[inner])


def test_a_layer_before_a_norm_is_scale_free():
    rows = profile(stack("relu", 2.0, 3, norm="layer_norm"), batch_size=BATCH).layers
    assert [r.scale_free for r in rows] == [True, True, True, False]


def test_saturation_is_seen_where_a_sigmoid_is_driven_hard():
    wide, narrow = (profile(stack("sigmoid", g, 2), batch_size=BATCH).layers[0].saturated for g in (400.0, 1 / 3))
    assert wide > 0.7
    assert narrow < 0.01


def test_attribution_names_the_activations_of_a_vanishing_stack():
    graph = stack("sigmoid", 1 / 3, 8)
    found = profile(graph, batch_size=BATCH).attribution
    worst = {graph.nodes[i].kind for i, _ in found[:7]}
    assert worst == {"activation"}
    assert all(change < -0.5 for _, change in found[:7])


def test_x_times_sigmoid_of_x_is_silu():
    written = Chain()
    x = written.linear(2.0)
    gate = written.act("sigmoid")
    written.add("mul", "mul", (x, gate))
    written.linear()
    fused = Chain()
    fused.linear(2.0)
    fused.act("silu")
    fused.linear()
    a, b = (profile(c.graph(), batch_size=BATCH) for c in (written, fused))
    assert a.layers[0].weight_gradient == pytest.approx(b.layers[0].weight_gradient, abs=1e-6)
    assert a.std_at[3] == pytest.approx(b.std_at[2], abs=1e-6)


def test_a_users_own_activation_can_be_registered():
    register("my_relu", lambda x: max(x, 0.0))
    assert elementwise("my_relu", {}) is not None
    assert per_layer(stack("my_relu", 2.0, 20), 20) == pytest.approx(0.0, abs=0.01)


def test_what_ifs_bring_a_vanishing_net_back():
    graph = stack("sigmoid", 1 / 3, 12)
    before = profile(graph, batch_size=BATCH).layers[0].gradient
    swapped = what_if(graph, SwapActivation("relu"), batch_size=BATCH).layers[0].gradient
    normed = what_if(graph, InsertNorm("layer"), batch_size=BATCH).layers[0].gradient
    skipped = what_if(graph, AddSkips(2), batch_size=BATCH).layers[0].gradient
    assert before < -8
    assert before < swapped
    assert before < normed
    assert skipped > -3


def test_kaiming_what_if_makes_relu_critical():
    rows = what_if(stack("relu", 1 / 3, 20), Reinit("kaiming"), batch_size=BATCH).layers
    assert rows[0].gradient == pytest.approx(0.0, abs=0.2)


def test_what_if_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="unknown init law"):
        what_if(stack("relu", 1.0, 2), Reinit("magic"))


def test_the_band_widens_with_depth_over_width():
    rows = {w: profile(stack("relu", 2.0, 50, w), batch_size=BATCH).layers[0].band for w in (16, 1024)}
    assert rows[16][1] - rows[16][0] > rows[1024][1] - rows[1024][0]


def test_an_empty_graph_gives_an_empty_profile():
    assert profile(Chain().graph()).layers == ()
