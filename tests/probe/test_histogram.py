"""Histograms by decade."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.probe.histogram import shares_by_decade  # noqa: E402
from gradlint.probe.live import trace_call  # noqa: E402
from gradlint.probe.measure import measure  # noqa: E402


def test_every_element_is_in_the_bin_of_its_decade():
    values = torch.tensor([0.0, 1e-13, 3e-12, -5e-12, 0.2, 0.5, 3e3, 1e5, float("inf"), float("nan")])
    shares = shares_by_decade({7: values})[7]
    assert len(shares) == 18 and sum(shares) == pytest.approx(1)
    filled = {i: round(s * 10) for i, s in enumerate(shares) if s}
    # Below 1e-12; [1e-12, 1e-11); [0.1, 1); [1e3, 1e4); above.
    assert filled == {0: 2, 1: 2, 12: 2, 16: 1, 17: 3}


def test_a_sample_of_a_large_tensor_shows_the_same_shares():
    torch.manual_seed(0)
    large = torch.randn(300, 1000) * 0.01
    exact = (large.abs() < 1e-3).float().mean().item()
    assert sum(shares_by_decade({0: large})[0][:10]) == pytest.approx(exact, abs=0.02)


def test_what_has_no_absolute_value_to_bin_is_left_out():
    assert shares_by_decade({0: torch.zeros(0), 1: torch.arange(3), 2: torch.eye(3).to_sparse()}) == {}


def test_a_pass_has_the_histograms_of_weights_and_gradients():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    nn.init.constant_(module[0].weight, 0.05)
    x = torch.randn(4, 8)
    seen = measure(module, (x,), {}, lambda out: out.square().mean(), trace_call(module, (x,), {}))
    first = seen.layers["0"]
    assert first.weight_histogram[11] == 1.0
    assert sum(first.gradient_histogram) == pytest.approx(1)
    assert seen.layers["1"].weight_histogram == ()
