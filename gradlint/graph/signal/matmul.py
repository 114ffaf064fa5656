"""Products of two signals: scores of queries and keys, weighted means of values, einsum."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.attention import Common, common, head_correlation, head_correlation_of_samples, windows
from gradlint.graph.signal.layout import feature_axis, traded, traded_back
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

_STEPS = 16
"""Operations between scores and what they weigh: dropout, biases, gates, talking heads."""


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


def _operands(site: Site) -> tuple[Signal, Signal]:
    """Both factors, the first as it is read: along its last axis, by rows of one head.

    What is transposed trades positions and features within each head. `s` is that of two rows of one head, as scores
    have it already.
    """
    a, b = (replace(x, parts=()) for x in site.inputs[:2])
    shape = site.graph.nodes[site.node.inputs[0]].shape
    if _crosswise(site):
        rows, length = _rows(site, 1.0), _contraction(site)[1]
        within = replace(a, ds=1.0 - head_correlation(a, length))
        return traded(within, max(a.positions / length, 1.0) * rows, length), b
    if shape is None or not _is_scores(site.producers[0], shape):
        a = replace(a, ds=1.0 - head_correlation(a, _rows(site, a.positions) * windows(site)))
    return a, b


def _crosswise(site: Site) -> bool:
    """Whether the features of the first factor lie along its rows."""
    source = site.graph.nodes[site.node.inputs[0]]
    axis = feature_axis(source)
    matmul = site.node.op in ("matmul", "bmm", "mm")
    return matmul and axis is not None and source.shape is not None and axis == len(source.shape) - 2 > 0


def _is_scores(site: Site | None, shape: tuple[int | None, ...]) -> bool:
    """Whether a factor is made of scores, by steps of their own: noise, softmax, sums, a mixture of the heads."""
    for _ in range(_STEPS):
        if site is None or site.node.kind == "matmul":
            return site is not None
        mixes = site.node.kind == "linear" and site.attribute("in_features") in shape[1:-2]
        if not mixes and site.node.kind not in ("softmax", "scale", "add", "mul", "dropout", "reshape", "activation"):
            return False
        site = max((p for p in site.producers if p is not None), key=lambda p: p.output.size, default=None)
    return False


def matmul(site: Site) -> Signal:
    """Σ_l a_l b_l: q′ = L·q_a·q_b·(1 + (L−1)r_a·r_b), r the correlation along the axis that is summed."""
    a, b = _operands(site)
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
        s, f = a.s, head_correlation(b, tokens * count)
        return Signal(
            q, 0.0, 1.0 - s, 1.0 - a.c * b.c, None, f, a.v + b.v, a.batch, positions, features, groups=a.groups
        )
    s = (a.s + (length - 1.0) * r_b * r_a) / gain
    rows = min(_rows(site, length), positions)
    if positions > rows:  # heads among the positions
        alike = min(rows * (windows(site) - 1.0), positions - rows)
        apart = length * a.m * a.m * r_b / gain
        s = ((rows - 1.0) * s + alike * apart + (positions - rows - alike) * b.m * b.m) / (positions - 1.0)
    # Two samples share what the rows of one head do; two heads no more than their means.
    e = head_correlation_of_samples(b, length * windows(site)) * (a.c + (length - 1.0) * min(r_a * a.s, 1.0)) / gain
    tokens = min(rows * windows(site), positions)
    c = (tokens * e + (positions - tokens) * b.m * b.m) / positions
    de = 1.0 - min(e, 1.0) if tokens < positions else None
    m = b.m * math.sqrt(min(1.0 / gain, 1.0)) * math.sqrt(min((1.0 + (length - 1.0) * r_a), length))
    m = max(-1.0, min(m, 1.0))
    ds, dc = 1.0 - min(s, 1.0), 1.0 - min(c, 1.0)
    return Signal(q, m, ds, dc, de, 0.0, a.v + b.v, a.batch, positions, features, groups=max(a.groups, b.groups))


def _turned_back(g: Gradient, x: Signal, length: float) -> Gradient:
    """The gradient of a first factor `x` whose features lie along its rows, given that of the rows as they are read."""
    heads = max(x.positions / length, 1.0)
    rows = heads * x.features
    within = min(g.s * (rows - 1.0) / max(x.features - 1.0, 1.0), 1.0)
    back = traded_back(replace(g, s=within), x)
    return replace(back, s=back.s * (length - 1.0) / max(x.positions - 1.0, 1.0), c=back.c / heads)


def _tell_scores(site: Site, gradient: Gradient) -> None:
    """Tell the product that made the scores of an attention what keys and values have in common."""
    step, rows = site.producers[0], None
    for _ in range(_STEPS):
        if step is None or step.node.kind == "matmul":
            break
        rows = step.memory.get("rows", rows)
        step = max((p for p in step.producers if p is not None), key=lambda p: p.output.size, default=None)
    if step is not None and rows is not None and len(step.producers) > 1 and not rows.positions:
        step.memory["common"] = common(step.producers[1], site.producers[1], rows.peak, gradient)


def matmul_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """∂a = g·bᵀ, ∂b = aᵀ·g: sums over the other operand's free axis, with the correlations along it.

    Two rows j of ∂b share r_a where they come from one row i of a, and m_a² where from two: Gs′ =
    (r_a + (T − 1)Gs·m_a²)/(1 + (T − 1)Gs·s_a), which for a row of weights that sum to one is (1 − A)/((T − 1)A).
    """
    a, b = _operands(site)
    over_features, length = _contraction(site)
    n, t, count = site.output.features, _rows(site, 1.0), windows(site)
    gs = min(gradient.s * max((site.output.positions - 1.0) / max(t * count - 1.0, 1.0), 1.0), 1.0)
    if over_features:
        along = head_correlation(b, n * count)
        to_a = max(1.0 + (n - 1.0) * gradient.f * along, 1e-9) if gradient.f else 1.0
        g_a = Gradient(
            gradient.log_g + b.log_q + math.log(n * to_a), gradient.s * along, 0.0, gradient.v, lead=gradient.lead
        )
        bracket = max(1.0 + (t - 1.0) * gs * a.s, 1e-9)
        together: Common = site.memory.get("common", Common())
        g_b = Gradient(gradient.log_g + a.log_q + math.log(t * bracket), 0.0, 0.0, gradient.v)
        return [together.added(g_a), together.pulled(g_b, n)]
    g_a = Gradient(
        gradient.log_g + b.log_q + math.log(n),
        gradient.s,
        gradient.c * (1.0 - b.same_position),
        gradient.v,
        f=head_correlation(b, length * count),
        lead=gradient.lead,
    )
    bracket = max(1.0 + (t - 1.0) * gs * a.s, 1e-9)
    s_b = min(max((a.m * a.m + a.f + (t - 1.0) * gs * a.m * a.m) / bracket, 0.0), 1.0)
    if b.positions > length:
        apart = min(t * a.m * a.m * max(gs, 0.0) / bracket, 1.0)
        s_b = ((length - 1.0) * s_b + length * (count - 1.0) * apart) / (b.positions - 1.0)
    c_b = max(-1.0, min(gradient.c * t * a.c / bracket, 1.0))
    _tell_scores(site, gradient)
    if _crosswise(site):
        g_a = _turned_back(g_a, site.inputs[0], length)
    return [g_a, Gradient(gradient.log_g + a.log_q + math.log(t * bracket), s_b, c_b, gradient.v)]


MATMUL = Transfer(matmul, matmul_back)
