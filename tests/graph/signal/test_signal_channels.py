"""Weights of one channel in front of a batch norm, gates and concatenations, against the real operations."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from traced_nets import BATCH, Net, output, traced  # noqa: E402

from gradlint.graph.model import WEIGHTED  # noqa: E402
from gradlint.graph.signal import profile  # noqa: E402
from gradlint.graph.signal.channelwise import _uneven  # noqa: E402
from gradlint.severity import BandOptions, layer_flags, predicted_path  # noqa: E402

DRAWS = 3000


def drawn_weights(shape, channels, count):
    if shape == "constant":
        return torch.ones(DRAWS, channels, count, dtype=torch.float64)
    w = torch.randn(DRAWS, channels, count, dtype=torch.float64)
    return (2.0 * torch.rand(DRAWS, channels, count, dtype=torch.float64) - 1.0) * 3**0.5 if shape == "uniform" else w


@pytest.mark.parametrize(
    ("shape", "channels", "count", "log_floor"),
    [
        ("normal", 16, 1, -11.0),
        ("uniform", 256, 1, -9.0),
        ("normal", 64, 1, -2.0),
        ("constant", 8, 1, -11.0),
        ("normal", 64, 3, -11.0),
        ("normal", 64, 9, -11.0),
    ],
)
def test_a_sum_over_unequal_channels(shape, channels, count, log_floor):
    """Mean and std of its logarithm within 0.12 (0.05 decades) of drawn weights, for the gradient behind the layer and
    for the one of its weights, whose part along the weights is what the norm takes away."""
    torch.manual_seed(0)
    found = _uneven(shape, float(count), log_floor, channels, count)
    w, floor = drawn_weights(shape, channels, count), math.exp(log_floor)
    v = w.square().mean(2)
    behind = ((1 + floor) / (v + floor)).mean(1).log()
    plain = torch.randn(DRAWS, channels, count, dtype=torch.float64)
    unit = w / w.norm(dim=2, keepdim=True)
    along = (plain * unit).sum(2, keepdim=True)
    left = plain + ((floor / (v + floor)).unsqueeze(2) - 1.0) * along * unit
    weight = (left.square().mean(2) * (1.0 if count == 1 else 1 + floor) / (v + floor)).mean(1).log()
    assert (found.output, found.weight) == pytest.approx((float(behind.mean()), float(weight.mean())), abs=0.12)
    if count < 4:
        assert found.output_spread == pytest.approx(float(behind.std()), abs=0.12)
    if count == 1:
        assert found.weight_spread == pytest.approx(float(weight.std()), abs=0.12)


class Scaled(nn.Module):
    """A depthwise convolution between two batch norms."""

    def __init__(self, kernel, channels=24):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.scale = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.last, self.head = nn.BatchNorm2d(channels), nn.Linear(channels, 10)

    def forward(self, x):
        z = self.last(self.scale(F.relu(self.first(self.stem(x)))))
        return self.head(F.relu(z).mean((2, 3)))


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_gradient_of_a_depthwise_layer_in_front_of_a_batch_norm(kernel):
    """The mean of log10 over draws within a quarter of their std and 0.08; nine of ten draws lie in the band."""
    graph = traced(lambda: Scaled(kernel), torch.randn(BATCH, 3, 8, 8))
    layer = next(x for x in profile(graph, batch_size=BATCH).layers if x.name == "scale")
    norms = []
    for seed in range(40):
        torch.manual_seed(seed)
        net = Scaled(kernel).double()
        x = torch.randn(BATCH, 3, 8, 8, dtype=torch.float64)
        F.cross_entropy(net(x), torch.randint(0, 10, (BATCH,))).backward()
        norms.append(math.log10(net.scale.weight.grad.norm()))
    norms = torch.tensor(norms)
    assert layer.weight_gradient == pytest.approx(float(norms.mean()), abs=0.08 + 0.25 * float(norms.std()))
    low, high = layer.weight_band
    assert float(((norms >= low) & (norms <= high)).double().mean()) >= 0.9
    assert layer.redundant == (kernel == 1)


def test_a_scale_that_a_norm_divides_out_is_no_vanishing_gradient():
    """Weights of one leave the gradient to ε alone, 1e-6 of the others': nothing is said of it."""

    class Plain(Scaled):
        def __init__(self):
            super().__init__(1)
            nn.init.ones_(self.scale.weight)

    graph = traced(Plain, torch.randn(BATCH, 3, 8, 8))
    found = profile(graph, batch_size=BATCH)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["scale"].weight_gradient < by_name["stem"].weight_gradient - 3.0
    layers = [n for n in graph.nodes if n.kind in WEIGHTED][:-1]
    health = predicted_path(found, layers, "SGD", BandOptions())
    assert health.severity is None
    assert health.smallest[0] == "stem"
    assert "scale" in layer_flags(found, layers)[1]


def test_a_max_pool_takes_the_largest_of_a_channel_before_its_gate():
    """Squeeze-and-excitation between a rectifier and a pool: energy and mean within 4 %."""

    def rest(z):
        h = F.relu(z)
        return F.max_pool2d(h * torch.sigmoid(0.2 * h.mean((2, 3), keepdim=True)), 3, stride=2)

    found = output(traced(lambda: Net(rest, nn.Conv2d(4, 8, 1, bias=False)), torch.randn(BATCH, 4, 16, 16)), "max_pool")
    torch.manual_seed(0)
    y = rest(torch.randn(BATCH, 64, 16, 16, dtype=torch.float64) * math.sqrt(1 / 3))
    q = float(y.square().mean())
    assert math.exp(found.log_q) == pytest.approx(q, rel=0.04)
    assert found.m == pytest.approx(float(y.mean()) / math.sqrt(q), abs=0.04)


def test_a_residual_stream_of_concatenated_rectifiers_is_positive():
    """relu(cat(relu(a), relu(b)) + F(x)): what the sum's rectifier passes, within 3 %."""

    class Inception(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(8, n, 1, bias=False) for n in (8, 24, 32))
            for layer in (self.a, self.b, self.c):
                nn.init.normal_(layer.weight, 0.0, math.sqrt(1 / 8))

        def forward(self, x):
            return F.relu(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1) + 0.2 * self.c(x))

    found = output(traced(Inception, torch.randn(BATCH, 8, 4, 4)), "relu")
    torch.manual_seed(0)
    y = F.relu(F.relu(torch.randn(200_000)) + 0.2 * torch.randn(200_000))
    q = float(y.square().mean())
    assert math.exp(found.log_q) == pytest.approx(q, rel=0.03)
    assert found.m == pytest.approx(float(y.mean()) / math.sqrt(q), abs=0.02)


class Branches(nn.Module):
    """Branches that fold into one depthwise convolution (Vasu et al. 2023, fig. 2), behind a rectifier."""

    def __init__(self, channels=64):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.scale, self.own = (nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels) for k in (1, 3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))
        self.head = nn.Conv2d(channels, 10, 1)

    def inner(self, x):
        x = F.relu(self.first(self.stem(x)))
        a, b, c = self.norms
        return F.relu(a(x) + b(self.scale(x)) + c(self.own(x)))

    def forward(self, x):
        return self.head(self.inner(x)).flatten(2).transpose(1, 2)


def test_branches_of_one_channel_add_up_to_what_is_no_gaussian():
    """Energy, mean and correlation of the rectified sum within 7 %, the stem's gradient within 0.08 decades: Gaussians
    would have three quarters of the energy, and rectifiers one behind the other independent masks."""
    graph = traced(Branches, torch.randn(BATCH, 3, 8, 8))
    found, norms, seen = output(graph, "relu"), [], []
    for seed in range(12):
        torch.manual_seed(seed)
        net = Branches().double()
        x = torch.randn(BATCH, 3, 8, 8, dtype=torch.float64)
        out = net(x)
        F.cross_entropy(out.flatten(0, 1), torch.randint(0, 10, (out.shape[0] * out.shape[1],))).backward()
        y = net.inner(x).detach().flatten(2)
        q = float(y.square().mean())
        strangers = float((y[: BATCH // 2] * y[BATCH // 2 :]).mean())
        seen.append((q, float(y.mean()) / math.sqrt(q), strangers / q))
        norms.append(math.log10(net.stem.weight.grad.norm()))
    q, m, c = (sum(column) / len(column) for column in zip(*seen, strict=True))
    assert math.exp(found.log_q) == pytest.approx(q, rel=0.07)
    assert (found.m, found.c) == pytest.approx((m, c), abs=0.05)
    stem = next(x for x in profile(graph, batch_size=BATCH).layers if x.name == "stem")
    assert stem.weight_gradient == pytest.approx(sum(norms) / len(norms), abs=0.08)
