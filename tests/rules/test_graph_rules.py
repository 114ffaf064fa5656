"""What the rules over graphs say of hand-written nets, healthy and not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradlint.finding import Severity
from gradlint.graph.model import InitLaw, Loss, Node
from gradlint.graph.profile import Profile, RecurrenceProfile
from gradlint.location import Location
from gradlint.rule import Context
from gradlint.rules.deep_without_norm import DeepWithoutNorm
from gradlint.rules.double_softmax import DoubleSoftmax
from gradlint.rules.no_skip_connections import NoSkipConnections
from gradlint.rules.rectifier_init import RectifierInit
from gradlint.rules.saturating_stack import SaturatingStack
from gradlint.rules.vanishing_recurrence import VanishingRecurrence
from gradlint.rules.zero_or_constant_init import ZeroOrConstantInit
from gradlint.source.script import Optimizer, ParameterGroup
from gradlint.source.value import UNKNOWN
from tests.rules.build import Net, he_law, normal_law, sloped, xavier_law


def trained_by(algorithm):
    group = ParameterGroup((), "all", UNKNOWN)
    optimizer = Optimizer("optimizer", (algorithm,), Location("train.py", 90), (group,), UNKNOWN)
    return Context(optimizers=(optimizer,))


def check(rule, graph, decades=0.0, context=None, **profile):
    return list(rule.check_graph(graph, sloped(graph, decades, **profile), context or Context()))


def headed(net):
    net.linear(10)
    return net.graph()


# ---- GL101 ------------------------------------------------------------------------------------------------


def test_sigmoid_stack_severity_follows_the_number():
    graph = headed(Net().dense(5, "sigmoid"))
    severities = [check(SaturatingStack(), graph, d)[0].severity for d in (-0.1, -1.2, -1.7)]
    assert severities == [Severity.INFO, Severity.WARNING, Severity.ERROR]


def test_sgd_is_judged_more_strictly_than_adam():
    graph = headed(Net().dense(5, "tanh"))
    sgd = check(SaturatingStack(), graph, -0.9, trained_by("SGD"))[0]
    adam = check(SaturatingStack(), graph, -0.9, trained_by("Adam"))[0]
    assert (sgd.severity, adam.severity) == (Severity.WARNING, Severity.INFO)


def test_stack_is_reported_at_its_first_activation_with_the_others_related():
    graph = headed(Net().dense(4, "sigmoid"))
    (finding,) = check(SaturatingStack(), graph, -2.2)
    first, *others = (n for n in graph.nodes if n.op == "sigmoid")
    assert finding.location == first.constructor
    assert [r.location for r in finding.related] == [n.constructor for n in others]
    assert "will not train" in finding.message
    assert finding.evidence.predicted_gradient_ratio == pytest.approx(10**-6.6)


def test_two_saturating_layers_are_silent_unless_the_option_says_so():
    graph = headed(Net().dense(2, "tanh"))
    assert check(SaturatingStack(), graph) == []
    assert len(check(SaturatingStack(SaturatingStack.Options(minimum=2)), graph)) == 1


def test_low_confidence_claims_no_more_than_the_fact():
    graph = headed(Net().dense(5, "sigmoid"))
    (finding,) = check(SaturatingStack(), graph, -3, confidence="low")
    assert finding.severity is Severity.INFO


def test_void_prediction_claims_no_more_than_the_fact():
    graph = headed(Net().dense(5, "sigmoid"))
    (finding,) = check(SaturatingStack(), graph, -3, void=tuple(True for _ in graph.nodes), layers=())
    assert finding.severity is Severity.INFO
    assert finding.evidence.predicted_gradient_ratio is None


def test_uncertain_prediction_is_taken_at_its_healthy_edge():
    graph = headed(Net().dense(5, "sigmoid"))
    sure = check(SaturatingStack(), graph, -1.7)[0]
    wide = check(SaturatingStack(), graph, -1.7, uncertainty_at=tuple(3.0 * (n.id < 4) for n in graph.nodes))[0]
    assert (sure.severity, wide.severity) == (Severity.ERROR, Severity.INFO)


def test_loaded_weights_are_not_judged_by_their_init():
    graph = headed(Net().dense(5, "sigmoid"))
    assert check(SaturatingStack(), replace(graph, pretrained=True), -2) == []


# ---- GL201 ------------------------------------------------------------------------------------------------


def test_small_normal_before_relu_is_one_finding_at_the_init_call():
    graph = headed(Net().dense(5, "relu", law=normal_law(0.01, 64, 64, line=7)))
    (finding,) = check(RectifierInit(), graph, -1.7)
    assert finding.location == Location("train.py", 7)
    assert "5 layers" in finding.message
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    "law",
    [he_law(64, 64), he_law(64, 256, "fan_out"), he_law(256, 64, "fan_in"), normal_law((2 / 64) ** 0.5, 64, 64)],
)
def test_he_by_any_spelling_is_silent(law):
    assert check(RectifierInit(), headed(Net().dense(4, "relu", law=law)), 0) == []


def test_xavier_before_relu_is_info():
    (finding,) = check(RectifierInit(), headed(Net().dense(3, "relu", law=xavier_law(64, 64))), -0.15)
    assert finding.severity is Severity.INFO
    assert "0.71" in finding.message


def test_xavier_on_a_layer_that_narrows_is_still_the_wrong_pairing():
    (finding,) = check(RectifierInit(), headed(Net().dense(1, "relu", law=xavier_law(64, 32))))
    assert "0.82" in finding.message


def test_xavier_by_its_variance_is_the_same_wrong_pairing():
    law = normal_law((2 / (64 + 32)) ** 0.5, 64, 32)
    (finding,) = check(RectifierInit(), headed(Net().dense(1, "relu", law=law)))
    assert "0.82" in finding.message


def test_xavier_on_a_layer_that_widens_is_compared_with_fan_in():
    (finding,) = check(RectifierInit(), headed(Net(shape=(32, 4)).dense(1, "relu", law=xavier_law(4, 128))))
    assert "0.17" in finding.message


def test_xavier_with_the_gain_of_a_rectifier_is_silent():
    law = xavier_law(32, 64)
    told = replace(law, std=law.std * 2**0.5, gain_squared=law.gain_squared * 2)
    assert check(RectifierInit(), headed(Net(shape=(32, 32)).dense(1, "relu", law=told))) == []


def test_xavier_that_comes_to_he_by_the_layers_shape_is_silent():
    assert check(RectifierInit(), headed(Net().dense(1, "relu", law=xavier_law(1024, 64)))) == []


@pytest.mark.parametrize(
    ("std", "said"), [(0.01, "at no more than 0.64"), (1.0, "at no less than 2.8"), (0.02, None), (0.1, None)]
)
def test_a_std_is_judged_without_widths_where_no_width_would_suit_it(std, said):
    law = InitLaw("normal", 0.0, std, origin="explicit", location=Location("train.py", 100))
    found = check(RectifierInit(), headed(Net(shape=None).dense(1, "relu", law=law)))
    assert [said in f.message for f in found] == ([True] if said else [])


def test_xavier_before_tanh_is_right():
    assert check(RectifierInit(), headed(Net().dense(4, "tanh", law=xavier_law(64, 64)))) == []


def test_he_before_tanh_is_the_mirror():
    (finding,) = check(RectifierInit(), headed(Net().dense(4, "tanh", law=he_law(64, 64))))
    assert "Xavier" in finding.message


def test_a_norm_behind_the_layer_removes_the_finding():
    graph = headed(Net().dense(5, "relu", norm="batch_norm", law=normal_law(0.02, 64, 64)))
    assert check(RectifierInit(), graph) == []


def test_transformer_recipe_is_right():
    net = Net()
    x = net.linear(law=normal_law(0.02, 64, 64))
    for _ in range(6):
        net.norm(at=x)
        net.linear(256, law=normal_law(0.02, 64, 256))
        net.act("gelu")
        x = net.add(x, net.linear(64, law=normal_law(0.02, 256, 64)))
    net.norm()
    assert check(RectifierInit(), headed(net)) == []


def test_dcgan_discriminator_is_right():
    net = Net()
    net.linear(law=normal_law(0.02, 64, 64))
    net.act("leaky_relu", negative_slope=0.2)
    for _ in range(3):
        net.linear(law=normal_law(0.02, 64, 64))
        net.norm("batch_norm")
        net.act("leaky_relu", negative_slope=0.2)
    net.linear(1, law=normal_law(0.02, 64, 1))
    net.act("sigmoid")
    assert check(RectifierInit(), net.graph()) == []


def test_output_head_is_not_judged():
    net = Net().dense(2, "relu", law=he_law(64, 64))
    net.linear(10, law=xavier_law(64, 10))
    assert check(RectifierInit(), net.graph()) == []


def test_small_init_on_a_residual_branch_is_fixup():
    net = Net()
    x = net.linear(law=he_law(64, 64))
    for _ in range(4):
        net.act(at=net.linear(at=x, law=normal_law(0.01, 64, 64)))
        x = net.add(x, net.linear(law=normal_law(0.01, 64, 64)))
    assert check(RectifierInit(), headed(net)) == []


def residual(closing, blocks=12):
    """Residual ReLU blocks without norm: an N(0, 0.01) layer, then one of the law `closing`."""
    net = Net()
    x = net.linear(law=he_law(64, 64))
    for _ in range(blocks):
        net.linear(law=normal_law(0.01, 64, 64, line=7), at=x)
        net.act("relu")
        x = net.add(x, net.linear(law=closing))
        x = net.act("relu")
    return headed(net)


def test_zero_start_of_a_branch_is_right_whatever_the_prediction():
    zero = InitLaw("constant", 0.0, 0.0, 64, 64, 0.0, "explicit", "zeros_", location=Location("train.py", 90))
    found = check(RectifierInit(), residual(zero), -1.0)
    assert [f.location.line for f in found] == [7]


def test_remedy_of_a_net_with_bare_skips_keeps_its_branches_small():
    (finding,) = check(RectifierInit(), residual(normal_law(0.01, 64, 64, line=7)), -1.0)
    (remedy,) = [e for e in RectifierInit().experiments(finding) if e.kind == "reinit"]
    assert (remedy.law, remedy.branch_scale) == ("kaiming_residual", 0.2)
    assert "residual branch" in finding.help
    (plain,) = check(RectifierInit(), headed(Net().dense(9, "relu", law=normal_law(0.01, 64, 64))), -1.0)
    assert [e.law for e in RectifierInit().experiments(plain) if e.kind == "reinit"] == ["kaiming"]


def test_a_single_hidden_layer_off_he_is_no_more_than_a_fact():
    found = check(RectifierInit(), headed(Net().dense(1, "relu", law=normal_law(0.05, 64, 64))))
    assert [f.severity for f in found] == [Severity.INFO]


def test_a_rectifier_behind_the_head_does_not_make_it_hidden():
    net = Net().dense(2, "relu", law=he_law(64, 64))
    net.linear(10, law=normal_law(0.001, 64, 10))
    net.act("relu")
    assert check(RectifierInit(), net.graph()) == []


def test_shallow_default_init_is_silent():
    assert check(RectifierInit(), headed(Net().dense(5, "relu")), -0.39) == []


def test_deep_default_init_is_reported_once_at_its_first_layer():
    graph = headed(Net().dense(16, "relu"))
    (finding,) = check(RectifierInit(), graph, -0.39)
    assert finding.location == graph.nodes[1].constructor
    assert finding.severity is Severity.WARNING


def test_deep_default_init_with_norm_is_silent():
    assert check(RectifierInit(), headed(Net().dense(16, "relu", norm="batch_norm")), 0.08) == []


def test_unknown_law_is_not_guessed():
    law = InitLaw("unknown", origin="explicit")
    assert check(RectifierInit(), headed(Net().dense(5, "relu", law=law)), -2) == []


def test_gain_is_known_without_widths():
    law = InitLaw("normal", gain_squared=1.0, origin="explicit", scheme="xavier_normal", location=Location("a.py", 3))
    net = Net(shape=None).dense(3, "relu", law=law)
    (finding,) = check(RectifierInit(), headed(net))
    assert "0.71" in finding.message


# ---- GL301, GL102 -----------------------------------------------------------------------------------------


def test_twenty_one_layers_without_a_path_around_are_info_until_the_gradient_suffers():
    graph = headed(Net().dense(20, "relu", norm="batch_norm"))
    assert check(NoSkipConnections(), graph, 0.0)[0].severity is Severity.INFO
    assert check(NoSkipConnections(), graph, 0.2)[0].severity is Severity.WARNING
    assert check(NoSkipConnections(), headed(Net().dense(19, "relu", norm="batch_norm")), 0.08) == []


def test_residual_blocks_have_a_path_around():
    net = Net()
    x = net.linear()
    for _ in range(30):
        net.norm("batch_norm", at=net.linear(at=x))
        x = net.add(x, net.linear(at=net.act()))
    assert check(NoSkipConnections(), headed(net)) == []


def test_fewer_layers_when_the_prediction_says_so():
    graph = headed(Net().dense(14, "relu", norm="batch_norm"))
    assert len(check(NoSkipConnections(), graph, 0.3)) == 1


def test_deep_without_norm_needs_a_bad_prediction():
    graph = headed(Net().dense(12, "relu"))
    assert check(DeepWithoutNorm(), graph, 0.0) == []
    assert check(DeepWithoutNorm(), graph, -0.5)[0].severity is Severity.WARNING
    assert check(DeepWithoutNorm(), headed(Net().dense(12, "relu", norm="layer_norm")), -0.5) == []


# ---- GL111 ------------------------------------------------------------------------------------------------


def recurrent(final):
    net = Net(shape=(32, 50, 64))
    rnn = net.node("recurrent", "rnn", (0,), attributes={"steps": 50}, shape=(32, 50, 64), name="rnn")
    if final:
        net.node("reshape", "select", (rnn,), attributes={"index": -1, "dim": 1}, shape=(32, 64))
    else:
        net.node("reduce", "mean", (rnn,), shape=(32, 64))
    return headed(net), rnn


@pytest.mark.parametrize(
    ("final", "total", "severities"),
    [
        (True, -13.0, [Severity.WARNING]),
        (True, -4.0, [Severity.INFO]),
        (True, -0.5, []),
        (False, -13.0, []),
    ],
)
def test_recurrence_that_vanishes_towards_its_first_step(final, total, severities):
    graph, rnn = recurrent(final)
    profile = Profile((), recurrence={rnn: RecurrenceProfile(50, total / 50, total)})
    assert [f.severity for f in VanishingRecurrence().check_graph(graph, profile, Context())] == severities


def test_of_sequences_of_unknown_length_the_factor_per_step_is_told():
    graph, rnn = recurrent(True)
    unknown = [replace(n, attributes={}, shape=None) if n.id <= rnn else n for n in graph.nodes]
    graph = replace(graph, nodes=tuple(unknown))
    profile = Profile((), recurrence={rnn: RecurrenceProfile(50, -0.25, -12.5)})
    (finding,) = VanishingRecurrence().check_graph(graph, profile, Context())
    assert finding.severity is Severity.INFO
    assert "0.56 with each time step back: of sequences longer than 12 steps less than 0.001 is left" in finding.message


# ---- GL601 ------------------------------------------------------------------------------------------------


def test_a_softmax_is_reported_in_the_forward_or_where_a_sequential_is_given_it():
    net = Net()
    net.linear(10)
    graph = replace(net.graph(), loss=Loss("cross_entropy"))

    def line(location):
        softmax = Node(9, "softmax", "softmax", "softmax", (1,), location=location, constructor=Location("train.py", 8))
        nodes = (*graph.nodes[:2], replace(softmax, id=2), replace(graph.nodes[2], id=3, inputs=(2,)))
        changed = replace(graph, nodes=nodes)
        (finding,) = DoubleSoftmax().check_graph(changed, sloped(changed, 0.0), Context())
        return finding.location.line

    assert line(Location("train.py", 30)) == 30
    assert line(replace(graph.location, column=1)) == 8


# ---- GL202 ------------------------------------------------------------------------------------------------


def heads(value):
    """A hidden layer whose mean head is He and whose spread head starts at one value, into one decoder."""
    constant = InitLaw("constant", value, 0.0, 64, 64, 64 * value**2, "explicit", location=Location("train.py", 9))
    net = Net()
    net.linear(law=he_law(64, 64))
    hidden = net.act()
    mean = net.linear(law=he_law(64, 64), at=hidden)
    spread = net.act("exp", at=net.linear(law=constant, at=hidden, name="spread"))
    net.add(mean, spread)
    return headed(net)


def test_a_zero_layer_with_another_way_around_it_is_left_alone():
    assert check(ZeroOrConstantInit(), heads(0.0)) == []


def test_equal_units_are_found_with_another_way_around_them_and_zeros_without():
    assert len(check(ZeroOrConstantInit(), heads(0.1))) == 1
    zero = InitLaw("constant", 0.0, 0.0, 64, 64, 0.0, "explicit", location=Location("train.py", 9))
    net = Net().dense(1, "tanh").dense(1, "tanh", law=zero)
    assert len(check(ZeroOrConstantInit(), headed(net))) == 1


def transformed(reads: str, position: int, also: str = ""):
    """A zero layer behind a hidden one whose output says where `reads` looks at the input."""
    zero = InitLaw("constant", 0.0, 0.0, 64, 6, 0.0, "explicit", location=Location("train.py", 9))
    net = Net()
    net.linear()
    theta = net.linear(6, law=zero, at=net.act(), name="theta")
    where = net.node("reshape", "view", (theta,))
    if reads == "grid_sample":
        where = net.node("unknown", "affine_grid", (where,))
    inputs = [0, 0]
    inputs[position] = where
    read = net.node("unknown", reads, tuple(inputs))
    if also:
        net.add(read, where)
    return headed(net)


@pytest.mark.parametrize(("reads", "position"), [("grid_sample", 1), ("deform_conv2d", 1)])
def test_a_zero_layer_that_says_where_a_signal_is_read_is_left_alone(reads: str, position: int):
    assert check(ZeroOrConstantInit(), transformed(reads, position)) == []


@pytest.mark.parametrize(("reads", "position", "also"), [("deform_conv2d", 0, ""), ("deform_conv2d", 1, "and itself")])
def test_a_zero_layer_that_is_read_itself_is_found(reads: str, position: int, also: str):
    assert len(check(ZeroOrConstantInit(), transformed(reads, position, also))) == 1
