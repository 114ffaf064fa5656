"""Each rule against the real operation, sampled: fixed seeds, tolerances in decades stated per test."""

from __future__ import annotations

import math

import pytest

from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.signal.activation import activate, back
from gradlint.graph.signal.elementwise import KNOWN, elementwise
from gradlint.graph.signal.loss import start
from gradlint.graph.signal.moments import Gradient, Signal
from gradlint.graph.signal.normalization import NORMALIZATION
from gradlint.graph.signal.pooling import POOL
from gradlint.graph.signal.softmax import softmax_rows
from gradlint.graph.signal.transfer import Site

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytestmark = pytest.mark.torch

SMOOTH = ["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "softplus", "tanh", "sigmoid", "softsign"]
SMOOTH += ["hardtanh", "hardsigmoid", "hardswish", "relu6", "logsigmoid", "tanhshrink", "square", "abs", "sin", "cos"]


def torch_function(op):
    return getattr(F, op, None) or getattr(torch, op)


@pytest.mark.parametrize("op", SMOOTH)
@pytest.mark.parametrize(("std", "m", "r"), [(0.1, 0.0, 0.5), (1.0, 0.3, 0.9), (1.5, 0.0, 0.999), (2.9, 0.0, 0.2)])
def test_activation_moments(op, std, m, r):
    """Second moment, mean, correlation and slope within 2 % of 200 000 draws."""
    torch.manual_seed(0)
    q = std * std
    rho = (r - m * m) / (1 - m * m)
    sigma, mu = std * math.sqrt(1 - m * m), std * m
    a, b = torch.randn(2, 200_000, dtype=torch.float64)
    z1 = (mu + sigma * a).requires_grad_()
    z2 = (mu + sigma * (rho * a + math.sqrt(1 - rho * rho) * b)).requires_grad_()
    y1, y2 = (torch_function(op)(z) for z in (z1, z2))
    g1, g2 = torch.autograd.grad(y1.sum(), z1)[0], torch.autograd.grad(y2.sum(), z2)[0]
    signal = Signal(math.log(q), m, 1 - r, 1 - r, batch=8, positions=4, features=100)
    f = elementwise(op, {})
    out, gradient = activate(signal, f), back(Gradient(0.0, 1.0, 1.0), signal, f)
    square = float((y1**2).mean())
    assert math.exp(out.log_q) == pytest.approx(square, rel=0.02)
    assert out.m == pytest.approx(float(y1.mean()) / math.sqrt(square), abs=0.01)
    assert out.dc == pytest.approx(float(((y1 - y2) ** 2).mean()) / 2 / square, rel=0.04, abs=1e-6)
    assert math.exp(gradient.log_g) == pytest.approx(float((g1**2).mean()), rel=0.03)
    assert gradient.c == pytest.approx(float((g1 * g2).mean() / (g1**2).mean()), abs=0.02)


def test_every_named_function_is_finite_on_a_unit_signal():
    for op in sorted(KNOWN - {"reciprocal", "rsqrt"}):
        out = activate(Signal(0.0, batch=2, features=10), elementwise(op, {}))
        assert not math.isnan(out.log_q), op


def site(kind, op, signal, **attributes):
    node = Node(1, kind, op, op, (0,), None, attributes)
    source = Node(0, "input", "input", "x")
    return Site(node, ModelGraph("net", (source, node)), [signal], 16, None)


def correlated(n, p, features, s, c, m):
    """N × features × P draws whose pairs correlate by s and c, with mean share m."""
    common = torch.randn(features, 1, dtype=torch.float64)
    sample, own = torch.randn(n, features, 1, dtype=torch.float64), torch.randn(n, features, p, dtype=torch.float64)
    spread = math.sqrt(c - m * m) * common + math.sqrt(s - c) * sample + math.sqrt(1 - s) * own
    return m + spread


@pytest.mark.parametrize("op", ["batch_norm", "layer_norm", "group_norm", "instance_norm"])
def test_normalisation_scale_and_gradient(op):
    """Output correlations within 0.05, gradient scale within 0.04 decades."""
    torch.manual_seed(0)
    n, p, features, s, c, m = 16, 8, 512, 0.6, 0.4, 0.5
    x = correlated(n, p, features, s, c, m).requires_grad_()
    attributes = {"num_groups": 8} if op == "group_norm" else {}
    if op == "batch_norm":
        y = F.batch_norm(x, None, None, training=True)
    elif op == "layer_norm":
        y = F.layer_norm(x.transpose(1, 2), (features,)).transpose(1, 2)
    elif op == "group_norm":
        y = F.group_norm(x, 8)
    else:
        y = F.instance_norm(x)
    signal = Signal(0.0, m, 1 - s, 1 - c, batch=n, positions=p, features=features)
    here = site("normalization", op, signal, **attributes)
    out = here.output = NORMALIZATION.forward(here)
    pairs_c = [float((y[i] * y[j]).mean()) for i in range(4) for j in range(4) if i != j]
    assert math.exp(out.log_q) == pytest.approx(1.0, abs=0.01)
    mean_c = [float((y[i].mean(-1) * y[j].mean(-1)).mean()) for i in range(4) for j in range(4) if i != j]
    assert out.c == pytest.approx(sum(mean_c) / len(mean_c), abs=0.05)
    assert len(pairs_c) == 12
    g = torch.randn_like(y)
    (gradient,) = torch.autograd.grad((y * g).sum(), x)
    predicted = NORMALIZATION.backward(here, Gradient(0.0))[0].log_g
    assert 0.5 * predicted / math.log(10) == pytest.approx(0.5 * math.log10(float((gradient**2).mean())), abs=0.04)


def test_max_pool_behind_relu():
    """Second moment and gradient within 3 % for independent neighbours."""
    torch.manual_seed(0)
    z = torch.randn(64, 16, 16, 16, dtype=torch.float64, requires_grad=True)
    y = F.max_pool2d(F.relu(z), 2)
    (g,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), z)
    pre = Signal(0.0, batch=64, positions=256, features=16)
    relu = Site(Node(1, "activation", "relu", "relu", (0,)), ModelGraph("n", ()), [pre], 64, None)
    relu.output = activate(pre, elementwise("relu", {}))
    pool = site("pool", "max_pool2d", relu.output, kernel_size=2)
    pool.producers = (relu,)
    out = pool.output = POOL.forward(pool)
    assert math.exp(out.log_q) == pytest.approx(float((y**2).mean()), rel=0.03)
    onto_relu = POOL.backward(pool, Gradient(0.0))[0]
    onto_z = back(onto_relu, pre, elementwise("relu", {}))
    assert math.exp(onto_z.log_g) == pytest.approx(float((g**2).mean()), rel=0.03)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_cross_entropy_gradient(std, classes):
    """Within 4 % of the mean over many batches."""
    torch.manual_seed(0)
    rows = 200_000 // classes
    z = (std * torch.randn(rows, classes, dtype=torch.float64)).requires_grad_()
    loss = F.cross_entropy(z, torch.randint(0, classes, (rows,)))
    (g,) = torch.autograd.grad(loss, z)
    found, first = start("cross_entropy", "mean", Signal(2 * math.log(std), batch=rows, features=classes))
    assert math.exp(found.log_g) == pytest.approx(float((g**2).mean()), rel=0.04)
    assert first == pytest.approx(float(loss), rel=0.04)


@pytest.mark.parametrize("kind", ["mse", "bce_with_logits"])
def test_elementwise_losses(kind):
    """Within 3 %."""
    torch.manual_seed(0)
    z = (1.5 * torch.randn(20_000, 4, dtype=torch.float64)).requires_grad_()
    target = torch.randn_like(z) if kind == "mse" else torch.randint(0, 2, z.shape).double()
    loss = F.mse_loss(z, target) if kind == "mse" else F.binary_cross_entropy_with_logits(z, target)
    (g,) = torch.autograd.grad(loss, z)
    found, first = start(kind, "mean", Signal(2 * math.log(1.5), batch=20_000, features=4))
    assert math.exp(found.log_g) == pytest.approx(float((g**2).mean()), rel=0.03)
    assert first == pytest.approx(float(loss), rel=0.03)


@pytest.mark.parametrize("variance", [0.0, 1.0, 4.0])
def test_softmax_rows(variance):
    """Σp² within 6 % of 4 000 sampled rows."""
    torch.manual_seed(0)
    p = torch.softmax(math.sqrt(variance) * torch.randn(4000, 64, dtype=torch.float64), -1)
    assert softmax_rows(64, variance, 0.0, False).peak == pytest.approx(float((p**2).sum(-1).mean()), rel=0.06)
