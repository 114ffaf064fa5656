"""Gradient through time, measured step by step, against autograd through the layer itself."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.probe.initialization import orthogonal_recurrence, raise_forget_bias  # noqa: E402
from gradlint.probe.judging import growth_per_step  # noqa: E402
from gradlint.probe.recurrence import NotRecurrentError, extreme, unroll  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_stepwise_run_is_the_layer(kind):
    torch.manual_seed(0)
    layer = kind(6, 5, num_layers=2, batch_first=True).double()
    x = torch.randn(3, 7, 6, dtype=torch.float64, requires_grad=True)
    found = unroll(layer, x, 7)
    # L projects h_T, so the gradient at h_{T} is the unit direction of each of 3 samples.
    assert found[0].gradients[-1] == pytest.approx(3**0.5)
    assert len(found) == 2 and len(found[0].gradients) == 7

    weight = layer.weight_hh_l0.detach()
    largest = max(float(torch.linalg.matrix_norm(gate, 2)) for gate in weight.split(5))
    assert found[0].spectral_norm == pytest.approx(largest, rel=1e-5)


def test_gradient_at_the_first_step_is_that_of_autograd():
    torch.manual_seed(0)
    layer = nn.RNN(6, 5).double()
    x = torch.randn(9, 3, 6, dtype=torch.float64)
    start = layer(x[:1])[1].detach().requires_grad_()
    direction = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    direction = direction / direction.norm(dim=-1, keepdim=True)
    (expected,) = torch.autograd.grad((layer(x[1:], start)[1][0] * direction).sum(), start)
    assert unroll(layer, x, 9, seed=0)[0].gradients[0] == pytest.approx(float(expected.norm()), rel=1e-6)


def test_default_lstm_vanishes_and_a_forget_bias_keeps_it():
    torch.manual_seed(0)
    layer = nn.LSTM(64, 64)
    default = extreme(unroll(layer, None, 50)).gradients
    assert raise_forget_bias(layer, 3.0) == 2
    remedied = extreme(unroll(layer, None, 50)).gradients
    assert default[0] < 1e-8 and remedied[0] > 1e6 * default[0]


def test_orthogonal_recurrence_slows_the_decay():
    torch.manual_seed(0)
    layer = nn.RNN(32, 32)
    before = growth_per_step(extreme(unroll(layer, None, 40)).gradients)
    assert orthogonal_recurrence(layer) == 1
    after = growth_per_step(extreme(unroll(layer, None, 40)).gradients)
    assert before < after < 0.05
    assert extreme(unroll(layer, None, 5)).spectral_norm == pytest.approx(1.0, rel=1e-4)


def test_grown_recurrent_weights_grow_the_gradient():
    torch.manual_seed(0)
    layer = nn.RNN(32, 32, nonlinearity="relu")
    assert extreme(unroll(layer, None, 30, weight_factor=4.0)).gradients[0] > 1e3


def test_the_layer_itself_is_not_touched():
    layer = nn.GRU(4, 4)
    before = [p.detach().clone() for p in layer.parameters()]
    unroll(layer, None, 5, weight_factor=3.0)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    assert all(p.grad is None for p in layer.parameters())


def test_other_layers_are_refused_in_one_line():
    with pytest.raises(NotRecurrentError, match="Linear is not"):
        unroll(nn.Linear(2, 2), None, 5)
    with pytest.raises(NotRecurrentError, match="projection"):
        unroll(nn.LSTM(4, 4, proj_size=2), None, 5)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_stacked_bidirectional_layers_unroll_on_both_directions(kind):
    torch.manual_seed(0)
    layer = kind(6, 8, num_layers=2, bidirectional=True)
    first, second = unroll(layer, torch.randn(5, 3, 6), 5)
    assert len(first.gradients) == len(second.gradients) == 5
    assert all(x > 0 for x in (*first.gradients, *second.gradients))
