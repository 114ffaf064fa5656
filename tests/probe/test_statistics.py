"""Statistics kept on the device say the same as direct computation."""

import math

import pytest

torch = pytest.importorskip("torch")

from gradlint.probe.statistics import Ledger, coprime_stride, flat_part, sample  # noqa: E402

pytestmark = pytest.mark.torch


def read(tensor, budget=None, batch_axis=0, flat=None):
    ledger = Ledger(budget)
    ledger.moments("x", tensor, batch_axis, flat)
    return ledger.read().moments["x"]


def test_full_moments_are_exact():
    torch.manual_seed(0)
    x = torch.randn(8, 16, 5, 5) * 3 + 1
    seen = read(x)
    assert seen.mean == pytest.approx(float(x.mean()), rel=1e-5)
    assert seen.std == pytest.approx(float(x.std(correction=0)), rel=1e-5)
    assert seen.norm == pytest.approx(float(x.norm()), rel=1e-5)
    unit = x.flatten(1).double()
    pairs = unit @ unit.T
    c = (pairs.sum() - pairs.trace()) / 7 / pairs.trace()
    assert seen.distinct == pytest.approx(1 - float(c), rel=1e-6)


def test_norms_outside_the_range_of_float32_squares_survive():
    assert read(torch.full((4, 4), 1e-30)).norm == pytest.approx(4e-30, rel=1e-5)
    assert read(torch.full((4, 4), 1e30)).norm == pytest.approx(4e30, rel=1e-5)


def test_channels_last_and_gapped_memory_give_the_same_numbers():
    torch.manual_seed(1)
    x = torch.randn(4, 8, 6, 6)
    expected = read(x)
    assert read(x.to(memory_format=torch.channels_last)) == pytest.approx(expected, rel=1e-9)
    assert read(torch.randn(4, 8, 6, 9)[..., :6].copy_(x)) == pytest.approx(expected, rel=1e-9)


def test_batch_axis_may_be_second():
    x = torch.randn(7, 3, 5)
    assert read(x, batch_axis=1).distinct == pytest.approx(read(x.transpose(0, 1).contiguous()).distinct)


def test_samples_come_close_to_the_whole_where_layers_are_regular():
    torch.manual_seed(2)
    # Channels of very different scale: a stride that shares a factor with 56 × 56 would see only some of them.
    x = torch.randn(8, 64, 56, 56) * torch.logspace(-1, 1, 64).view(1, 64, 1, 1)
    whole, part = read(x), read(x, budget=16_384)
    assert part.norm == pytest.approx(whole.norm, rel=0.1)
    assert part.distinct == pytest.approx(whole.distinct, rel=0.1)


def test_a_gradient_that_a_few_elements_carry_is_not_missed():
    for scale in (1.0, 1e-30):
        gradient = torch.full((64, 10_000), 1e-6 * scale)
        gradient[torch.arange(64), torch.arange(64) * 7] = scale
        ledger = Ledger(budget=4096)
        ledger.gradient("x", gradient)
        norm = ledger.read().moments["x"].norm
        if scale == 1.0:
            assert norm == pytest.approx(8.0, rel=1e-3)
        else:
            # Below float32's squares only the sample can tell; it is not lost.
            assert 0 < norm <= 80 * scale


def test_an_overflow_outside_of_the_sample_shows_in_the_norm():
    gradient = torch.ones(8, 50_000)
    gradient[3, 12_345] = math.inf
    ledger = Ledger(budget=1024)
    ledger.gradient("x", gradient)
    assert not math.isfinite(ledger.read().moments["x"].norm)


def test_sample_is_small_and_independent_of_later_writes():
    x = torch.ones(8, 4096)
    taken = sample(x, 0, 1000)
    x.zero_()
    assert taken.numel() <= 2000
    assert float(taken.sum()) == taken.numel()


@pytest.mark.parametrize(("length", "wanted"), [(802816, 2048), (64, 8), (7, 100), (1, 1)])
def test_stride_shares_no_factor_with_the_length(length, wanted):
    assert math.gcd(coprime_stride(length, wanted), length) == 1


def test_saturated_share_counts_the_flat_part():
    x = torch.tensor([[-0.99, 0.0, 0.5, 0.98]])
    assert read(x, flat=flat_part("tanh")).outside == 2
    assert flat_part("relu") is None
    low, high = flat_part("hardtanh", 0.0, 6.0)
    assert low == pytest.approx(0.09) and high == pytest.approx(5.91)


def test_dead_units_are_zero_for_every_sample():
    ledger = Ledger()
    x = torch.rand(4, 10, 3, 3) + 0.1
    x[:, :3] = 0
    x[0, 5] = 0
    ledger.dead("x", x, 1)
    assert ledger.read().dead()["x"] == pytest.approx(0.3)


def test_a_nan_shows_in_the_mean():
    x = torch.ones(4, 4)
    x[2, 1] = math.nan
    assert math.isnan(read(x).mean)
