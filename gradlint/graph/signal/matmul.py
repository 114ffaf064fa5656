"""Products of two signals: scores of queries and keys, weighted means of values, einsum."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.attention import head_correlation, windows
from gradlint.graph.signal.moments import (
    Gradient,
    Signal,
)
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
    extent,
    is_sized,
)


def _contraction(site: Site) -> tuple[bool, float]:
    """(whether the second operand is summed over its features, length of the sum)."""
    b = site.graph.nodes[site.node.inputs[1]]
    a = site.graph.nodes[site.node.inputs[0]]
    if site.node.op == "einsum":
        return _summed(site, str(site.attribute("equation", "")))
    if a.shape is None or b.shape is None or site.node.op not in ("matmul", "bmm", "mm"):
        raise Unclaimed(f"{site.node.op} of unknown shapes")
    first, second = site.inputs[:2]
    axis, width = b.feature_axis, b.shape[-1]
    last = axis is not None and axis % len(b.shape) == len(b.shape) - 1
    if not is_sized(b):
        # A source reader does not follow the feature axis through a transposition: its size tells.
        last = width is not None and float(width) == second.features
    length = a.shape[-1]
    if isinstance(length, int):
        return not last, float(length)
    return not last, first.features


def _summed(site: Site, equation: str) -> tuple[bool, float]:
    """The contraction of an einsum over one letter, features last in both operands ("bqd,bkd->bqk")."""
    left, _, out = equation.replace(" ", "").replace("...", "").partition("->")
    operands = left.split(",")
    shared = [c for c in operands[0] if len(operands) == 2 and c in operands[1] and c not in out]
    shape = site.graph.nodes[site.node.inputs[0]].shape
    if len(shared) != 1 or shape is None:
        raise Unclaimed(f"einsum {equation}")
    size = shape[operands[0].index(shared[0]) - len(operands[0])]
    length = float(size) if isinstance(size, int) else site.inputs[0].features
    return length == site.inputs[1].features and operands[1][-1] == shared[0], length


def _rows(site: Site, unknown: float) -> float:
    """Rows of one product, that is tokens of one head."""
    rows = site.node.shape[-2] if site.node.shape else None
    return float(rows) if isinstance(rows, int) else unknown


def matmul(site: Site) -> Signal:
    """Σ_l a_l b_l: q′ = L·q_a·q_b·(1 + (L−1)r_a·r_b), r the correlation along the axis that is summed."""
    a, b = (replace(x, parts=()) for x in site.inputs[:2])
    over_features, length = _contraction(site)
    r_a = min(a.m * a.m + a.f, 1.0)
    r_b = min(b.m * b.m + b.f, 1.0) if over_features else head_correlation(b, length * windows(site))
    gain = max(1.0 + (length - 1.0) * r_a * r_b, 1e-9)
    _, positions, features = extent(site, a)
    if not is_sized(site.node):
        features = max(b.positions * a.features / length, 1.0) if over_features else b.features
        positions = a.positions
    q = a.log_q + b.log_q + math.log(length * gain)
    if over_features:
        tokens = features
        count = windows(site)
        s, f = head_correlation(a, _rows(site, tokens) * count), head_correlation(b, tokens * count)
        return Signal(q, 0.0, 1.0 - s, 1.0 - a.c * b.c, None, f, a.v + b.v, a.batch, positions, features)
    s = (a.s + (length - 1.0) * r_b * r_a) / gain
    rows = min(_rows(site, length), positions)
    if positions > rows:  # heads among the positions
        alike = min(rows * (windows(site) - 1.0), positions - rows)
        apart = length * a.m * a.m * r_b / gain
        s = ((rows - 1.0) * s + alike * apart + (positions - rows - alike) * b.m * b.m) / (positions - 1.0)
    c = b.c * (a.c + (length - 1.0) * min(r_a * a.s, 1.0)) / gain
    m = b.m * math.sqrt(min(1.0 / gain, 1.0)) * math.sqrt(min((1.0 + (length - 1.0) * r_a), length))
    m = max(-1.0, min(m, 1.0))
    ds, dc = 1.0 - min(s, 1.0), 1.0 - min(c, 1.0)
    return Signal(q, m, ds, dc, None, 0.0, a.v + b.v, a.batch, positions, features)


def matmul_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """∂a = g·bᵀ, ∂b = aᵀ·g: sums over the other operand's free axis, with the correlations along it."""
    a, b = (replace(x, parts=()) for x in site.inputs[:2])
    over_features, length = _contraction(site)
    n, t, count = site.output.features, _rows(site, 1.0), windows(site)
    if over_features:
        along = head_correlation(b, n * count)
        to_a = max(1.0 + (n - 1.0) * gradient.f * along, 1e-9) if gradient.f else 1.0
        g_a = Gradient(
            gradient.log_g + b.log_q + math.log(n * to_a), gradient.s * along, 0.0, gradient.v, lead=gradient.lead
        )
        bracket = max(1.0 + (t - 1.0) * gradient.s * head_correlation(a, t * count), 1e-9)
        return [g_a, Gradient(gradient.log_g + a.log_q + math.log(t * bracket), 0.0, 0.0, gradient.v)]
    g_a = Gradient(
        gradient.log_g + b.log_q + math.log(n),
        0.0,
        0.0,
        gradient.v,
        f=head_correlation(b, length * count),
        lead=gradient.lead,
    )
    gs = min(gradient.s * max((site.output.positions - 1.0) / max(t * count - 1.0, 1.0), 1.0), 1.0)
    bracket = max(1.0 + (t - 1.0) * gs * a.s, 1e-9)
    s_b = min(max((1.0 / length) * (1.0 + (t - 1.0) * gs) / (math.exp(a.log_q) * length * bracket), 0.0), 1.0)
    if b.positions > length:
        apart = min(t * a.m * a.m * max(gs, 0.0) / bracket, 1.0)
        s_b = ((length - 1.0) * s_b + length * (count - 1.0) * apart) / (b.positions - 1.0)
    c_b = max(-1.0, min(gradient.c * t / max(math.exp(a.log_q) * length**2 * bracket, 1e-12), 1.0))
    return [g_a, Gradient(gradient.log_g + a.log_q + math.log(t * bracket), s_b, c_b, gradient.v)]


MATMUL = Transfer(matmul, matmul_back)
