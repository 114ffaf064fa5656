"""Steps on one batch, curvature and the init laws of the what-ifs."""

import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.graph.model import Loss  # noqa: E402
from gradlint.probe.curvature import largest_eigenvalue  # noqa: E402
from gradlint.probe.initialization import UnknownLawError, gain, redraw  # noqa: E402
from gradlint.probe.loss import OutputError, SyntheticLoss, first_tensor  # noqa: E402
from gradlint.probe.replay import Recipe, UnknownOptimizerError, replay  # noqa: E402
from gradlint.probe.update import update_norms  # noqa: E402

pytestmark = pytest.mark.torch


def quadratic(stiffness):
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    return module, lambda: stiffness / 2 * module.weight.square().sum()


def test_sgd_diverges_above_two_over_the_curvature():
    for factor, grows in ((1.9, False), (2.1, True)):
        module, loss = quadratic(10.0)
        curve = replay(module, loss, Recipe("SGD", factor / 10), steps=20).losses
        assert len(curve) == 21
        assert (curve[-1] > curve[0]) is grows


def test_clipping_bounds_the_step_but_not_the_norm_that_is_reported():
    module, loss = quadratic(100.0)
    seen = replay(module, loss, Recipe("SGD", 0.01), steps=1, max_norm=1.0)
    assert seen.norms == (100.0,)
    assert module.weight.item() == pytest.approx(0.99)


def test_the_curve_ends_at_the_first_loss_that_is_not_finite():
    module, _ = quadratic(1.0)
    curve = replay(module, lambda: module.weight.exp().exp().sum(), Recipe("SGD", 100.0), steps=10).losses
    assert 1 <= len(curve) <= 11


def test_unknown_optimizers_and_rates_are_said():
    with pytest.raises(UnknownOptimizerError, match="Sophia"):
        Recipe("Sophia", 1.0).build([torch.ones(1, requires_grad=True)])
    assert Recipe("AdamW8bit", 1e-4).build([torch.ones(1, requires_grad=True)]).defaults["lr"] == 1e-4
    assert Recipe("Adam").build([torch.ones(1, requires_grad=True)]).defaults["lr"] == 1e-3


def test_plain_sgd_takes_the_long_run_rate_of_momentum():
    assert Recipe("SGD", 0.1, 0.9).plain == Recipe("SGD", pytest.approx(1.0), 0.0)


def test_update_norm_is_that_of_the_first_step():
    weight = nn.Parameter(torch.full((3, 3), 2.0))
    gradient = torch.full((3, 3), 0.5)
    (sgd,) = update_norms([(weight, gradient)], Recipe("SGD", 0.1))
    (adam,) = update_norms([(weight, gradient)], Recipe("Adam", 0.1))
    assert float(sgd) == pytest.approx(0.1 * 0.5 * 3, rel=1e-5)
    assert float(adam) == pytest.approx(0.1 * 3, rel=1e-4)
    assert torch.equal(weight, torch.full((3, 3), 2.0)) and weight.grad is None


def test_the_step_of_a_large_parameter_is_told_from_a_sample_where_each_element_moves_alone():
    torch.manual_seed(0)
    pair = torch.randn(600, 500) * 0.02, torch.randn(600, 500) * 1e-3
    # torch has Adafactor since 2.5.
    for name in ("SGD", "AdamW", "RMSprop", *(["Adafactor"] if hasattr(torch.optim, "Adafactor") else [])):
        recipe = Recipe(name, 0.01, weight_decay=0.1)
        (whole,), (sampled,) = update_norms([pair], recipe), update_norms([pair], recipe, budget=4096)
        assert float(sampled) == pytest.approx(float(whole), rel=0.05 if name != "Adafactor" else 1e-6)


def test_lanczos_finds_the_largest_eigenvalue_not_the_largest_magnitude():
    diagonal = torch.tensor([-50.0, 1.0, 3.0, 7.0])
    x = torch.ones(4, requires_grad=True)
    assert largest_eigenvalue(lambda: (diagonal * x.square()).sum() / 2, [x]) == pytest.approx(7.0, rel=1e-3)


@pytest.mark.parametrize(("op", "expected"), [("relu", 2**0.5), ("gelu", 1.534), ("silu", 1.677), ("tanh", 1.593)])
def test_gains_keep_the_second_moment(op, expected):
    assert gain(op) == pytest.approx(expected, abs=2e-3)


def test_kaiming_follows_the_activation():
    weight = torch.empty(512, 256)
    for feeds, std in (("relu", math.sqrt(2 / 256)), ("tanh", math.sqrt(2 / 768)), (None, 1 / 16)):
        redraw(weight, "kaiming", feeds)
        assert float(weight.std()) == pytest.approx(std, rel=0.02)
    with pytest.raises(UnknownLawError):
        redraw(weight, "lucky", "relu")


@pytest.mark.parametrize(
    ("kind", "shape", "classes"),
    [("cross_entropy", (8, 5), 5), ("cross_entropy", (2, 7, 5), 5), ("cross_entropy", (2, 3, 4, 4), 3),
     ("cross_entropy", (2, 5, 7), 5), ("nll", (8, 5), 5)],
)  # fmt: skip
def test_classes_are_found_on_their_axis(kind, shape, classes):
    loss = SyntheticLoss(Loss(kind, classes=classes))
    value = loss(torch.zeros(shape))
    assert float(value) == pytest.approx(math.log(classes) if kind == "cross_entropy" else 0.0)
    assert not loss.notes


def test_targets_are_drawn_once():
    loss = SyntheticLoss(Loss("mse"), seed=3)
    x = torch.randn(4, 2)
    assert float(loss(x)) == float(loss(x))
    assert float(SyntheticLoss(Loss("mse"), seed=3)(x)) == float(loss(x))


def test_unknown_losses_and_impossible_ones_are_noted():
    for kind, output in (("unknown", torch.randn(4, 2)), ("cross_entropy", torch.randn(4, 1)), ("bce", torch.randn(4))):
        loss = SyntheticLoss(Loss(kind))
        assert torch.isfinite(loss(output))
        assert loss.notes


def test_the_output_that_a_loss_reads():
    x = torch.randn(2)
    assert first_tensor((torch.arange(2), [x])) is x
    assert first_tensor({"loss": torch.zeros(()), "logits": x}) is x
    assert first_tensor(torch.arange(2)) is None
    with pytest.raises(OutputError, match="no floating-point tensor"):
        SyntheticLoss(Loss())(torch.arange(3))
