"""Skips, gates, stacks and runs on small graphs."""

from __future__ import annotations

import time

from gradlint.graph.topology import topology
from gradlint.graph.topology_branches import closing_layers, unnormalized_branches
from gradlint.graph.topology_paths import feeds, in_normalized_branch, longest_run, stacks
from tests.rules.build import Net


def test_residual_add_is_a_skip():
    net = Net()
    x = net.linear()
    net.act()
    y = net.linear()
    merge = net.add(x, y)
    net.linear()
    (skip,) = topology(net.graph()).skips
    assert (skip.merge, skip.source, skip.kind, skip.projection) == (merge, x, "add", False)


def test_residual_without_shapes_is_a_skip():
    net = Net(shape=None)
    x = net.linear()
    net.act()
    net.add(x, net.linear())
    assert len(topology(net.graph()).skips) == 1


def test_projection_shortcut_with_fewer_weights_is_a_skip():
    net = Net()
    x = net.linear()
    net.act()
    net.linear()
    net.act()
    long = net.linear()
    short = net.linear(at=x)
    net.add(long, short)
    (skip,) = topology(net.graph()).skips
    assert skip.projection


def test_two_equal_branches_are_no_skip():
    net = Net()
    x = net.linear()
    a, b = net.linear(at=x), net.linear(at=x)
    net.add(a, b)
    assert topology(net.graph()).skips == ()


def test_position_bias_is_no_skip():
    net = Net()
    bias = net.node("parameter", "parameter", (), shape=(32, 64))
    y = net.linear(at=0)
    net.add(y, bias)
    assert topology(net.graph()).skips == ()


def test_mask_of_another_shape_is_no_skip():
    net = Net(shape=(32, 64))
    mask = net.node("reshape", "view", (0,), shape=(32, 1))
    y = net.linear(at=0)
    net.add(y, mask)
    assert topology(net.graph()).skips == ()


def test_mask_from_token_ids_is_no_skip():
    net = Net(shape=(32, 64), dtype="int64")
    mask = net.node("scale", "scale", (0,), attributes={"factor": -1e4})
    net.node("embedding", "embedding", (0,), shape=(32, 64))
    net.add(net.linear(), mask)
    assert topology(net.graph()).skips == ()


def test_highway_gate_is_a_skip():
    net = Net()
    x = net.linear()
    h = net.act("tanh", net.linear(at=x))
    t = net.act("sigmoid", net.linear(at=x))
    carried = net.mul(x, net.node("scale", "scale", (t,), attributes={"factor": -1.0, "offset": 1.0}))
    net.add(net.mul(h, t), carried)
    (skip,) = topology(net.graph()).skips
    assert skip.kind == "gate"


def test_dense_concatenation_is_a_skip():
    net = Net()
    x = net.linear()
    y = net.linear()
    net.node("cat", "cat", (x, y))
    (skip,) = topology(net.graph()).skips
    assert skip.kind == "cat"


def test_detached_shortcut_is_no_skip():
    net = Net()
    x = net.linear()
    cut = net.node("reshape", "detach", (x,))
    net.add(cut, net.linear(at=x))
    assert topology(net.graph()).skips == ()


def test_stack_counts_hidden_activations_only():
    net = Net().dense(3, "sigmoid")
    net.linear(1)
    net.act("sigmoid")
    (stack,) = stacks(net.graph())
    assert len(stack.activations) == 3
    assert len(stack.layers) == 3


def test_output_activations_do_not_make_a_stack():
    net = Net().dense(2, "tanh")
    net.linear(1)
    net.act("tanh")
    assert stacks(net.graph()) == ()


def test_normalisation_ends_a_stack():
    assert stacks(_with_head(Net().dense(6, "sigmoid", norm="batch_norm"))) == ()


def test_normalisation_written_by_hand_ends_a_stack():
    net = Net()
    for _ in range(4):
        y = net.linear()
        mean = net.node("reduce", "mean", (y,))
        std = net.node("reduce", "std", (y,))
        eps = net.node("scale", "shift", (std,), attributes={"offset": 1e-5})
        centred = net.node("add", "sub", (y, mean))
        net.mul(centred, eps, op="div")
        net.act("sigmoid")
    assert stacks(_with_head(net)) == ()


def test_squeeze_excite_and_gated_units_are_no_stack():
    net = Net()
    for _ in range(4):
        x = net.linear()
        pooled = net.node("pool", "adaptive_avg_pool", (x,))
        net.linear(at=pooled)
        net.act("tanh")
        net.linear()
        gate = net.act("sigmoid")
        net.mul(x, gate)
    assert stacks(_with_head(net)) == ()


def test_a_gate_on_the_zeros_before_the_first_step_is_no_stack_member():
    net = Net()
    for _ in range(4):
        x = net.linear()
        kept = net.mul(net.act("sigmoid", x), net.node("constant", "zeros", (), attributes={"value": 0.0}))
        new = net.mul(net.act("sigmoid", x), net.act("tanh", x))
        net.add(kept, new)
    assert stacks(_with_head(net)) == ()


def test_wavenet_unit_is_no_stack():
    net = Net()
    for _ in range(5):
        x = net.last
        a = net.act("tanh", net.linear(at=x))
        b = net.act("sigmoid", net.linear(at=x))
        net.mul(a, b)
    assert stacks(_with_head(net)) == ()


def test_attention_scorer_is_no_stack_member():
    net = Net().dense(2, "tanh")
    h = net.last
    net.act("tanh", net.linear(at=h))
    net.linear(1)
    weights = net.node("softmax", "softmax")
    net.mul(h, weights)
    assert stacks(_with_head(net)) == ()


def test_actor_and_critic_are_separate():
    net = Net()
    outputs = []
    for _ in range(2):
        net.last = 0
        net.dense(2, "tanh")
        outputs.append(net.linear(1))
    net.node("output", "output", tuple(outputs))
    assert stacks(net.graph()) == ()


def test_residual_tanh_blocks_are_no_stack():
    net = Net()
    x = net.linear()
    for _ in range(5):
        net.act("tanh", net.linear(at=x))
        y = net.act("tanh", net.linear())
        x = net.add(x, y)
    assert stacks(_with_head(net)) == ()


def test_one_shared_activation_called_four_times_counts_four():
    net = Net()
    for _ in range(4):
        net.linear()
        net.node("activation", "sigmoid", module="act")
    (stack,) = stacks(_with_head(net))
    assert len(stack.activations) == 4


def test_a_weight_that_returns_is_a_recurrence_not_a_stack():
    net = Net()
    for _ in range(8):
        net.linear(weight="cell.weight")
        net.act("tanh")
    assert stacks(_with_head(net)) == ()


def test_longest_run_counts_plain_layers_and_ends_at_skips():
    plain = longest_run(_with_head(Net().dense(30, "relu", norm="batch_norm")))
    assert plain is not None
    assert (len(plain.layers), plain.has_norm) == (31, True)
    net = Net()
    x = net.linear()
    for _ in range(30):
        net.act(at=net.linear(at=x))
        x = net.add(x, net.linear())
    run = longest_run(_with_head(net))
    assert run is not None
    assert len(run.layers) == 1


def test_global_residual_is_a_path_around_all():
    net = Net()
    for _ in range(25):
        net.linear()
        net.act()
    net.add(0, net.linear())
    assert longest_run(net.graph()) is None


def test_parallel_branches_count_the_shortest():
    net = Net()
    for _ in range(3):
        x = net.last
        short = net.linear(at=x)
        net.linear(at=x)
        long = net.linear()
        net.node("cat", "cat", (short, long))
    run = longest_run(net.graph())
    assert run is not None
    assert len(run.layers) == 3


def test_feeds_sees_through_reshape_and_norm():
    net = Net()
    x = net.linear()
    net.node("reshape", "flatten")
    a = net.act()
    fed = feeds(_with_head(net), net.nodes[x])
    assert [n.id for n in fed.activations] == [a]
    assert not fed.normalized
    other = Net()
    y = other.linear()
    other.norm()
    other.act()
    assert feeds(_with_head(other), other.nodes[y]).normalized


def test_norm_behind_the_rectifier_divides_the_scale_out():
    net = Net()
    x = net.linear()
    net.act("leaky_relu")
    net.linear()
    net.norm("batch_norm")
    net.act("leaky_relu")
    assert feeds(_with_head(net), net.nodes[x]).normalized


def test_pre_norm_branch_is_normalised():
    net = Net()
    x = net.linear()
    net.norm(at=x)
    inner = net.linear()
    net.act("gelu")
    net.add(x, net.linear())
    assert in_normalized_branch(_with_head(net), net.nodes[inner])


def test_large_graphs_stay_fast():
    net = Net()
    x = net.linear()
    for _ in range(300):
        net.norm(at=x)
        net.linear()
        net.act("gelu")
        x = net.add(x, net.linear())
        net.act("tanh", net.linear(at=x))
        x = net.add(x, net.last)
    graph = _with_head(net)
    start = time.process_time()
    assert len(topology(graph).skips) == 600
    stacks(graph)
    longest_run(graph)
    assert len(graph.nodes) > 2000
    assert time.process_time() - start < 2


def _with_head(net: Net):
    net.linear(10)
    return net.graph()


def test_the_last_layer_of_a_branch_closes_it_and_its_projection_does_not():
    net = Net()
    x = net.linear()
    net.linear(128)
    net.act("relu")
    branch = net.linear(128)
    shortcut = net.linear(128, at=x)
    net.add(branch, shortcut)
    assert closing_layers(net.graph()) == {branch}


def test_a_layer_behind_whose_output_an_activation_stands_closes_nothing():
    net = Net()
    x = net.linear()
    net.linear(at=x)
    net.add(x, net.act("relu"))
    assert closing_layers(net.graph()) == frozenset()


def test_a_norm_inside_the_branch_or_behind_the_sum_normalises_it():
    def net(inside, behind):
        built = Net()
        x = built.linear()
        if inside:
            built.norm(at=x)
        y = built.linear() if inside else built.linear(at=x)
        built.add(x, y)
        if behind:
            built.norm()
        built.linear(10)
        return unnormalized_branches(built.graph(), frozenset({y}))

    assert [net(False, False), net(True, False), net(False, True)] == [True, False, False]


def test_a_sum_within_a_normalised_branch_does_not_hide_the_branch():
    net = Net()
    x = net.linear()
    net.norm()
    inner = net.linear()
    net.act()
    layer = net.linear()
    net.add(inner, layer)
    net.add(x, net.linear())
    assert in_normalized_branch(_with_head(net), net.nodes[layer])
