"""Unfolding into overlapping patches and folding them up, against the real operations; seeds are fixed."""

from __future__ import annotations

import math

import pytest
from signal_graphs import graph_of_nodes, node
from test_signal_streams import correlated, pair_correlations

from gradlint.graph.signal.moments import Gradient, Signal
from gradlint.graph.signal.reshape import RESHAPE
from gradlint.graph.signal.transfer import Site

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytestmark = pytest.mark.torch

N, CHANNELS, SIDE, DRAWS = 8, 96, 8, 4
GEOMETRIES = {
    "overlapping": {"kernel_size": 3, "padding": 1, "stride": 1},
    "outlook": {"kernel_size": 3, "padding": 1, "stride": 2},
    "side by side": {"kernel_size": 2, "padding": 0, "stride": 2},
    "uneven": {"kernel_size": [3, 2], "padding": [1, 0], "stride": [2, 1]},
}


def of_features(x):
    """Mean correlation of two features of one token of N × features × P."""
    sums, squares = x.sum(1), (x * x).sum(1)
    n = x.shape[1]
    return float((sums**2 - squares).mean()) / (n * (n - 1)) / float((x * x).mean())


def site(op, before, after, x, **attributes):
    source = node(0, "input", "input", (), tuple(before.shape), 1)
    here = node(1, "reshape", op, (0,), tuple(after.shape), 1, attributes)
    return Site(here, graph_of_nodes([source, here]), [x], N, N)


def means(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_patches_of_an_image(name):
    """Energy within 3 %, correlations within 0.03 (features 0.008); the gradient of the image within 6 %."""
    geometry, rows = GEOMETRIES[name], []
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        x = correlated(N, SIDE * SIDE, CHANNELS, 0.6, 0.3).reshape(N, CHANNELS, SIDE, SIDE).requires_grad_()
        y = F.unfold(x, **geometry)
        g = correlated(N, y.shape[2], y.shape[1], 0.4, 0.2)
        (back,) = torch.autograd.grad((y * g).sum(), x)
        told = [float(t.square().mean()) for t in (y.detach(), back)]
        rows.append(
            [*told, *pair_correlations(y.detach()), of_features(y.detach()), *pair_correlations(back.flatten(2))]
        )
    q, onto, s, c, e, f, *flat = means(rows)
    signal = Signal(0.0, 0.0, 0.4, 0.7, batch=N, positions=SIDE * SIDE, features=CHANNELS)
    here = site("unfold", x, y, signal, **geometry)
    out = here.output = RESHAPE.forward(here)
    assert math.exp(out.log_q) == pytest.approx(q, rel=0.03)
    assert (out.positions, out.features) == (y.shape[2], y.shape[1])
    assert (out.s, out.c, 1 - out.same_position) == pytest.approx((s, c, e), abs=0.03)
    assert out.f == pytest.approx(f, abs=0.008)
    gradient = RESHAPE.backward(here, Gradient(0.0, 0.4, 0.2))[0]
    assert math.exp(gradient.log_g) == pytest.approx(onto, rel=0.06)
    assert (gradient.s, gradient.c) == pytest.approx(flat[:2], abs=0.03)


@pytest.mark.parametrize("tie", [0.0, 1.0])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_patches_that_are_added_up(name, tie):
    """Patches whose taps are independent (0) or the same (1), fold as they do: energy within 6 %, correlations within
    0.04; every patch gets the gradient of its pixels."""
    geometry, rows = GEOMETRIES[name], []
    kernel = geometry["kernel_size"]
    taps = kernel * kernel if isinstance(kernel, int) else math.prod(kernel)
    windows = F.unfold(torch.zeros(1, 1, SIDE, SIDE), **geometry).shape[2]
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        x = correlated(N, windows, CHANNELS if tie else CHANNELS * taps, 0.5, 0.3)
        x = (x.repeat_interleave(taps, 1) if tie else x).requires_grad_()
        y = F.fold(x, output_size=(SIDE, SIDE), **geometry)
        g = correlated(N, SIDE * SIDE, CHANNELS, 0.4, 0.2).reshape(y.shape)
        (back,) = torch.autograd.grad((y * g).sum(), x)
        flat = y.detach().flatten(2)
        told = [float(t.square().mean()) for t in (flat, back)]
        rows.append([*told, *pair_correlations(flat), *pair_correlations(back), of_features(back)])
    q, onto, s, c, e, *back_pairs, across = means(rows)
    f = tie * (taps - 1) / (CHANNELS * taps - 1)
    signal = Signal(0.0, 0.0, 0.5, 0.7, f=f, batch=N, positions=windows, features=CHANNELS * taps)
    here = site("fold", x, y, signal, **geometry)
    out = here.output = RESHAPE.forward(here)
    assert math.exp(out.log_q) == pytest.approx(q, rel=0.06)
    assert (out.positions, out.features) == (SIDE * SIDE, CHANNELS)
    assert (out.s, out.c, 1 - out.same_position) == pytest.approx((s, c, e), abs=0.04)
    gradient = RESHAPE.backward(here, Gradient(0.0, 0.4, 0.2))[0]
    assert math.exp(gradient.log_g) == pytest.approx(onto, rel=0.04)
    assert (gradient.s, gradient.c) == pytest.approx(back_pairs[:2], abs=0.03)
    assert gradient.f == pytest.approx(across, abs=0.008)
