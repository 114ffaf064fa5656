"""Sums and scalings: where skips rejoin.

Sources: Hanin & Rolnick 2018 and De & Smith 2020 for the variance along residual streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from gradlint.graph.model import Node
from gradlint.graph.signal.layout import lies_across, traded, traded_back
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    blended,
    log,
    rescaled,
)
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
)

_ADDED_GUESS, _MULTIPLIED_GUESS = 0.3, 1.0
"""Decades of doubt where a tensor of unknown values is added to a signal, or multiplies it."""


def add(site: Site) -> Signal:
    """q = q₁ + q₂ + 2m₁m₂√(q₁q₂); 1 − r = Σ shareᵢ(1 − rᵢ): what the means add is common to all tokens."""
    if len(site.inputs) == 1:
        return site.inputs[0]
    guess(site, _ADDED_GUESS)
    wide = max(site.inputs, key=lambda x: x.size)
    operands = [
        traded(x, wide.positions, wide.features) if _turned(site, nth, wide) else x for nth, x in enumerate(site.inputs)
    ]
    whole = operands[0]
    repeated = _repeated(site)
    if repeated is not None:
        return _in_phase(repeated, *operands)
    for nth, other in enumerate(operands[1:], start=1):
        whole = combined(whole, other, _factor(site.node, nth), site.node.inputs[0] == site.node.inputs[nth])
    return whole


@dataclass(frozen=True)
class _Repeated:
    """A sum u·x + v·(k·x + r), whose operand `inner` is the x that the other one contains too."""

    inner: int
    u: float
    v: float
    k: float


def _repeated(site: Site) -> _Repeated | None:
    """How one of two operands is contained in the other one too: x + 0.2·(x + F(x))."""
    if "repeated" not in site.memory:
        site.memory["repeated"] = None
        ids = site.node.inputs
        if len(ids) == 2 and ids[0] != ids[1] and site.inputs[0].size == site.inputs[1].size:
            inner = 0 if ids[0] < ids[1] else 1
            times = _contained(site, ids[1 - inner], ids[inner])
            u, v = (_factor(site.node, nth) for nth in (inner, 1 - inner))
            site.memory["repeated"] = _Repeated(inner, u, v, times) if times else None
    found: _Repeated | None = site.memory["repeated"]
    return found


def _contained(site: Site, whole: int, part: int) -> float:
    """How many times a node stands in another one through sums and constant factors alone."""
    times, pending = {whole: 1.0}, [-whole]
    while pending:
        node = site.graph.nodes[-heappop(pending)]
        here = times.pop(node.id)
        if node.id == part:
            return here
        for nth, i in enumerate(node.inputs):
            if i < part:
                continue
            if node.kind == "add" and node.op in ("add", "sub"):
                factor = _factor(node, nth)
            elif node.kind == "scale" and isinstance(node.attributes.get("factor", 1.0), (int, float)):
                factor = float(node.attributes.get("factor", 1.0))
            else:
                continue
            if i not in times:
                heappush(pending, -i)
            times[i] = times.get(i, 0.0) + here * factor
    return 0.0


def _in_phase(repeated: _Repeated, *operands: Signal) -> Signal:
    """u·x + v·(k·x + r) = (u + vk)·x + v·r, with r told from k·x + r: energies and q·(1 − r) add."""
    x, whole = operands[repeated.inner], operands[1 - repeated.inner]
    u, v, k = repeated.u, repeated.v, repeated.k
    top = max(x.log_q, whole.log_q)
    if NEVER in (x.log_q, whole.log_q):
        return combined(operands[0], operands[1], u if repeated.inner else v, False)
    qx, qw = math.exp(x.log_q - top), math.exp(whole.log_q - top)
    mean = whole.m * math.sqrt(qw) - k * x.m * math.sqrt(qx)
    q = max(qw - k * k * qx - 2.0 * k * x.m * math.sqrt(qx) * mean, 1e-9 * qw)

    def without(of_whole: float, of_x: float) -> float:
        return max(min((qw * of_whole - k * k * qx * of_x) / q, 2.0), 0.0)

    rest = replace(
        whole,
        log_q=top + math.log(q),
        m=max(-1.0, min(1.0, mean / math.sqrt(q))),
        ds=without(whole.ds, x.ds),
        dc=without(whole.dc, x.dc),
        de=None if whole.de is None and x.de is None else without(whole.same_position, x.same_position),
        parts=(),
        lead=None,
    )
    if not u + v * k:
        return rescaled(rest, 2.0 * log(abs(v)))
    common = rescaled(replace(x, parts=()), 2.0 * log(abs(u + v * k)))
    return combined(common, rest, math.copysign(v, v * (u + v * k)), False)


def guess(site: Site, doubt: float) -> None:
    """Doubt where some operands, but not all, are tensors of unknown values."""
    guessed = [p is not None and p.guessed for p in site.producers]
    if any(guessed) and not all(guessed):
        site.doubt = max(site.doubt, doubt)
        names = [p.node.name for p in site.producers if p is not None and p.guessed]
        site.notes.append(f"values of {', '.join(names)} unknown: a scale of 1 assumed at {site.node.name}")


def add_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """Every operand receives the gradient; a broadcast one the sum over what it was spread to."""
    out, repeated = [], _repeated(site)
    for nth, x in enumerate(site.inputs):
        g = replace(gradient, log_g=gradient.log_g + 2.0 * log(abs(_factor(site.node, nth)))) if nth else gradient
        if len(site.inputs) == 2 and site.node.inputs[0] == site.node.inputs[1]:
            g = replace(gradient, log_g=gradient.log_g + log(_twice(site)))
        if repeated is not None and repeated.inner == nth:
            # The other edge brings (vk)²: with this one's u² + 2uvk it is (u + vk)².
            u, both = repeated.u, repeated.v * repeated.k
            g = replace(gradient, log_g=gradient.log_g + log(max(u * u + 2.0 * u * both, 1e-6)))
        if _turned(site, nth, site.output):
            out.append(traded_back(g, x))
            continue
        out.append(narrowed(g, site.output, x, 1.0, 1.0))
    return out


def _turned(site: Site, nth: int, wide: Signal) -> bool:
    """Whether an operand's positions are the features of the sum, and its features the positions."""
    x = site.inputs[nth]
    turned = (x.positions, x.features) == (wide.features, wide.positions)
    return turned and x.positions > 1.0 and lies_across(site, nth)


def _twice(site: Site) -> float:
    """x + x reaches x twice in phase: each of the two equal edges carries half of (1 + α)²."""
    return 0.5 * (1.0 + _factor(site.node, 1)) ** 2


def _factor(node: Node, nth: int) -> float:
    """What a sum multiplies an operand by: x + α·y, x − α·y."""
    alpha = node.attributes.get("alpha", 1.0)
    factor = float(alpha) if nth and isinstance(alpha, (int, float)) else 1.0
    return -factor if nth and node.op == "sub" else factor


def everywhere(x: Signal, wide: Signal) -> Signal:
    """A tensor of one position that is spread over many is the same at all of them."""
    return replace(x, ds=0.0, de=None) if x.positions == 1.0 < wide.positions else x


def combined(a: Signal, b: Signal, factor: float, same: bool) -> Signal:
    if same:
        return rescaled(a, log((1.0 + factor) ** 2))
    a, b = everywhere(a, b), everywhere(b, a)
    log_b = b.log_q + 2.0 * log(abs(factor))
    wide = a if a.size >= b.size else b
    if NEVER in (a.log_q, log_b):
        only = b if a.log_q == NEVER else a
        m = only.m * (math.copysign(1.0, factor) if only is b else 1.0)
        return replace(only, log_q=max(a.log_q, log_b), m=m).at(wide.batch, wide.positions, wide.features)
    top = max(a.log_q, log_b)
    qa, qb = math.exp(a.log_q - top), math.exp(log_b - top)
    cross = 2.0 * a.m * b.m * math.copysign(math.sqrt(qa * qb), factor)
    q = max(qa + qb + cross, 1e-30)
    mean = a.m * math.sqrt(qa) + math.copysign(b.m, b.m * factor) * math.sqrt(qb)

    def mix(x: float, y: float) -> float:
        return min((qa * x + qb * y) / q, 2.0)

    de = None if a.de is None and b.de is None else mix(a.same_position, b.same_position)
    return Signal(
        top + math.log(q),
        max(-1.0, min(1.0, mean / math.sqrt(q))),
        mix(a.ds, b.ds),
        mix(a.dc, b.dc),
        de,
        (qa * a.f + qb * b.f) / q,
        (qa * qa * a.v + qb * qb * b.v) / (q * q),
        wide.batch,
        wide.positions,
        wide.features,
        lead=blended((qa / q, (qb + cross) / q), (a, b)),
        groups=max(a.groups, b.groups),
    )


def narrowed(g: Gradient, wide: Signal, x: Signal, s: float, c: float) -> Gradient:
    """The gradient of an operand that was broadcast: a sum over positions, samples or features, with the
    other factor's correlations `s` and `c` (1 for a sum of branches)."""
    g = replace(g, parts=g.parts if x.parts else ())
    if g.zero or x.size >= wide.size:
        return g
    logs, gs = g.log_g, g.s
    ratio = wide.features / x.features
    if ratio > 1.0:
        logs += math.log(ratio) + math.log(max(1.0 + (ratio - 1.0) * g.f, 1e-9))
    ratio = wide.positions / x.positions
    if ratio > 1.0:
        bracket = max(1.0 + (ratio - 1.0) * g.s * s, 1e-3)
        logs += math.log(ratio * bracket)
        gs = min(ratio * g.s * s / bracket, 1.0) if x.positions > 1 else 0.0
        # Two samples: all pairs of positions are summed.
        gc, ge = max(-1.0, min(ratio * g.c * c / bracket, 1.0)), None
    else:
        gc, ge = g.c, g.e
    ratio = wide.batch / x.batch
    if ratio > 1.0:
        logs += math.log(ratio * max(1.0 + (ratio - 1.0) * (gc if ge is None else ge), 1e-3))
    lead = g.lead if x.positions == wide.positions else None
    return replace(g, log_g=logs, s=gs, c=gc, e=ge, weights=None, lead=lead)


def affine(site: Site) -> tuple[float, float]:
    factor, offset = site.node.attributes.get("factor"), site.node.attributes.get("offset")
    if factor is None and offset is None:
        raise Unclaimed(f"{site.node.name}: scale by an unknown number")
    return float(1.0 if factor is None else factor), float(offset or 0.0)


def scale(site: Site) -> Signal:
    """factor·x + offset: an offset is common to all elements."""
    x = site.inputs[0]
    factor, offset = affine(site)
    out = rescaled(x, 2.0 * log(abs(factor)))
    out = replace(out, m=math.copysign(x.m, x.m * factor)) if factor else out
    if not offset:
        return out
    constant = Signal(
        2.0 * log(abs(offset)), math.copysign(1.0, offset), 0.0, 0.0, None, 0.0, 0.0, x.batch, x.positions, x.features
    )
    return combined(replace(out, parts=()), constant, 1.0, False)


def scale_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """G·factor²."""
    factor, _ = affine(site)
    shift = 2.0 * log(abs(factor))
    parts = tuple(replace(p, log_g=p.log_g + shift) for p in gradient.parts)
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    return [replace(gradient, log_g=gradient.log_g + shift, parts=parts), *rest]


ADD, SCALE = Transfer(add, add_back), Transfer(scale, scale_back)
