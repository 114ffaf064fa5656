"""Limits that are known in closed form, and what must never be claimed."""

from __future__ import annotations

import math

import pytest
from signal_graphs import BATCH, Chain, stack

from gradlint.graph.model import InitLaw, Loss, ModelGraph, Node, Parameter
from gradlint.graph.signal import best_remedy, profile, what_if
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


def convolutions(depth, side):
    """He convolutions with padding, then a head; `side` None leaves the image's size out."""
    law = InitLaw("normal", 0.0, math.sqrt(2.0 / 144), 144, 144, 2.0)
    shape = (None, 16, side, side)
    nodes = [Node(0, "input", "input", "x", (), shape, {"law": "normal"}, feature_axis=1)]
    parameters = []
    for i in range(depth):
        attributes = {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "stride": 1, "padding": 1}
        weight = {"weight": f"w{i}"}
        nodes.append(Node(2 * i + 1, "conv", "conv2d", f"c{i}", (2 * i,), shape, attributes, weight, feature_axis=1))
        nodes.append(Node(2 * i + 2, "activation", "relu", f"r{i}", (2 * i + 1,), shape, feature_axis=1))
        parameters.append(Parameter(f"w{i}", (16, 16, 3, 3), law))
    nodes.append(Node(2 * depth + 1, "output", "output", "out", (2 * depth,)))
    return ModelGraph("net", tuple(nodes), tuple(parameters), loss=Loss("cross_entropy"))


def test_an_image_of_unknown_size_is_large():
    unknown, large = (profile(convolutions(10, side)).layers for side in (None, 512))
    assert unknown[0].activation_std == pytest.approx(large[0].activation_std, abs=0.01)
    assert unknown[0].gradient == pytest.approx(large[0].gradient, abs=0.05)
    width = [rows[0].band[1] - rows[0].band[0] for rows in (unknown, large)]
    assert width[0] > width[1] + 0.5


def test_a_zero_initialised_last_branch_leaves_the_others_readable():
    chain = Chain()
    before = chain.linear(2.0)
    start = chain.act("relu")
    chain.linear(1.0)
    end = chain.linear(0.0, std=0.0, distribution="constant")
    chain.add("add", "add", (start, end))
    chain.linear()
    found = profile(chain.graph(), batch_size=BATCH)
    rows = {row.node: row for row in found.layers}
    assert math.isfinite(rows[before].gradient)
    assert not rows[before].zero_gated
    assert rows[end - 1].zero_gated
    assert rows[end - 1].gradient is None
    assert math.isfinite({row.node: row for row in found.grown.layers}[end - 1].gradient)


def test_a_gate_that_starts_at_zero_is_evaluated_as_open():
    chain = Chain()
    start = chain.linear(2.0)
    chain.parameters.append(Parameter("alpha", (), InitLaw("constant", 0.0, 0.0)))
    chain.nodes.append(Node(2, "parameter", "parameter", "alpha", (), (), {}, {"weight": "alpha"}, batch_axis=None))
    inner = chain.linear(1.0, (start,))
    chain.add("mul", "mul", (inner, 2))
    chain.add("add", "add", (start, inner + 1))
    chain.linear()
    found = profile(chain.graph(), batch_size=BATCH)
    assert found.gradient_at[inner] == -math.inf
    assert math.isfinite(found.grown.gradient_at[inner])


def test_every_output_with_layers_of_its_own_carries_a_loss():
    chain = Chain()
    chain.linear(2.0)
    stem = chain.act("relu")
    first, second = chain.linear(inputs=(stem,)), chain.linear(inputs=(stem,))
    chain.add("output", "output", (first, second))
    graph = ModelGraph("net", tuple(chain.nodes), tuple(chain.parameters), loss=Loss("cross_entropy"), batch_size=BATCH)
    found = profile(graph, batch_size=BATCH)
    assert math.isfinite(found.gradient_at[first])
    assert math.isfinite(found.gradient_at[second])
    assert any("several outputs" in note for note in found.notes)


def test_a_tensor_of_unknown_values_widens_the_band_and_lowers_the_confidence():
    rows, confidences = [], []
    for kind in ("add", "mul"):
        chain = Chain()
        signal = chain.linear(2.0)
        unknown = chain.add("constant", "constant", (), value=None)
        chain.add(kind, kind, (signal, unknown))
        chain.linear()
        found = profile(chain.graph(), batch_size=BATCH)
        rows.append(found.layers[0].band[1] - found.layers[0].band[0])
        confidences.append(found.confidence)
    certain = profile(stack("relu", 2.0, 1), batch_size=BATCH).layers[0].band
    assert certain[1] - certain[0] < rows[0] < rows[1]
    assert confidences == ["medium", "low"]


def test_copied_layers_widen_the_band_and_are_noted():
    bands = []
    for draws in (("1", "2"), ("1", "1")):
        chain = Chain()
        for draw in draws:
            chain.linear(2.0, draw=draw)
            chain.act("relu")
        found = profile(chain.graph(), batch_size=BATCH)
        bands.append(found.layers[0].band[1] - found.layers[0].band[0])
    assert bands[1] > bands[0]
    assert any("copy" in note for note in found.notes)


def test_the_attribution_adds_up_to_the_whole_change():
    found = profile(stack("sigmoid", 1 / 3, 8), batch_size=BATCH)
    whole = sum(change for _, change in found.attribution)
    assert whole == pytest.approx(found.gradient_at[1] - found.gradient_at[17])


@pytest.mark.parametrize(("op", "gain_squared"), [("relu", 1 / 3), ("relu", 30.0)])
def test_the_best_remedy_of_a_badly_scaled_relu_net_is_its_init(op, gain_squared):
    graph = stack(op, gain_squared, 20)
    remedy = best_remedy(graph, profile(graph, batch_size=BATCH), batch_size=BATCH)
    assert remedy.change == Reinit("kaiming")
    assert abs(remedy.before) > 5
    assert abs(remedy.after) < 1


def test_a_healthy_net_needs_no_remedy():
    graph = stack("relu", 2.0, 5)
    assert best_remedy(graph, profile(graph, batch_size=BATCH), batch_size=BATCH) is None


@pytest.mark.parametrize("before", [(), ("reshape", "pad", {}), ("scale", "mul", {"factor": 2.0})])
def test_a_net_that_halves_an_image_of_unknown_size_often_has_something_left_to_normalise(before):
    chain = Chain(None)
    if before:
        kind, op, attributes = before
        chain.add(kind, op, **attributes)
    for _ in range(8):
        name = f"w{len(chain.nodes)}"
        chain.parameters.append(Parameter(name, None, InitLaw("normal", 0.0, None, gain_squared=2.0)))
        sizes = {"kernel_size": (4, 4), "stride": (2, 2), "padding": (1, 1), "in_channels": 64, "out_channels": 64}
        chain.add("conv", "conv2d", parameters={"weight": name}, **sizes)
        chain.add("normalization", "instance_norm")
        chain.act("relu")
    found = profile(chain.graph())
    assert {-2.0 < layer.gradient < 2.0 for layer in found.layers if layer.gradient is not None} == {True}


def test_targets_that_are_alike_may_make_the_weight_gradients_of_a_dense_output_larger():
    margins = []
    for side in (1, 32):
        first = profile(convolutions(3, side), batch_size=BATCH).layers[0]
        margins.append(first.weight_band[1] - first.weight_gradient)
        assert first.weight_gradient - first.weight_band[0] == pytest.approx(first.band[1] - first.gradient)
    assert margins[1] - margins[0] > 0.5 * math.log10(32 * 32)
