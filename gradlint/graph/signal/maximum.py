"""The largest of several activations: max pools and extremes, by the order statistics of Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from gradlint.graph.signal.concat import joined, merged
from gradlint.graph.signal.elementwise import IDENTITY, Elementwise, elementwise
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    mapped,
)
from gradlint.graph.signal.multiply import product
from gradlint.graph.signal.quadrature import cdf, even_grid, pdf
from gradlint.graph.signal.transfer import (
    Site,
)

_DEPTH = 8
"""Concatenations, gates and pools in a row that are looked through."""
_POSITIVE = 0.9
"""A gate with more of its root mean square than this in its mean is hardly ever negative: a std of half its mean."""


@dataclass(frozen=True)
class Source:
    """Gaussians `z` and the function `f` whose largest of `k` values is taken; the operand is already the largest of
    `below` of them. All are multiplied by a positive `gate` that their window shares."""

    f: Elementwise
    z: Signal
    k: float
    below: float = 1.0
    gate: Signal | None = None


def maximum(site: Site, x: Signal, k: float, p_out: float, overlap: float = 0.0) -> Signal:
    """q′ = E φ(M)² with M = μ + σ(√ρ·u + √(1−ρ)·max of k independent ε), ρ between neighbours.

    Two windows that have a share of their positions in common have the same winner that often.
    """
    sources = site.memory["sources"] = _sources(site.producers[0] if site.producers else None, x, k, 0)
    parts = tuple(_largest(s, p_out, overlap) for s in sources)
    if len(parts) == 1:
        return replace(parts[0], features=x.features)
    return merged(parts, replace(x, positions=p_out, f=0.0, de=parts[0].de))


def _sources(producer: Site | None, x: Signal, k: float, depth: int) -> list[Source]:
    """What stands behind an operand: the maximum of φ(z) is φ of the maximum, that of a maximum the maximum over both
    windows, that of a concatenation one for each part, that of a channel times its gate the gate times the maximum."""
    if producer is not None and depth < _DEPTH:
        node = producer.node
        if node.kind == "activation" and len(producer.inputs) == 1:
            z, f = producer.inputs[0], elementwise(node.op, node.attributes)
            if f is not None:
                return [Source(f, p, k) for p in (z.parts or (z,))]
        if node.kind == "pool" and producer.memory.get("sources"):
            return [replace(s, k=_both(k, s.k, producer), below=s.k) for s in producer.memory["sources"]]
        if node.kind == "cat" and producer.memory.get("counts"):
            pairs = zip(producer.producers, producer.inputs, strict=True)
            return [s for p, part in pairs for s in _sources(p, part, k, depth + 1)]
        if node.kind == "mul" and node.op != "div" and len(producer.inputs) == 2:
            gates = [i for i, g in enumerate(producer.inputs) if g.positions == 1.0 and g.m > _POSITIVE]
            if gates and x.positions > 1.0:
                nth, gate = 1 - gates[0], producer.inputs[gates[0]]
                inner = _sources(producer.producers[nth], producer.inputs[nth], k, depth + 1)
                if len(inner) == 1 and inner[0].gate is None:
                    return [replace(inner[0], gate=gate)]
    return [Source(IDENTITY, replace(x, parts=()), k)]


def _both(k: float, own: float, inner: Site) -> float:
    """Positions under k windows of `own` positions that lie a stride apart, in two dimensions."""
    p_in, p_out = inner.inputs[0].positions, inner.output.positions
    stride = math.sqrt(max(p_in / p_out, 1.0))
    return min((math.sqrt(own) + (math.sqrt(k) - 1.0) * stride) ** 2, max(p_in, own))


def _largest(source: Source, p_out: float, overlap: float) -> Signal:
    z = source.z
    if z.log_q == NEVER:
        return replace(z, positions=p_out, parts=())
    mean, square, _, unit = _winner(source, source.k)
    if square <= 0.0:
        return replace(z, log_q=NEVER, positions=p_out, parts=())
    m = max(-1.0, min(1.0, mean / math.sqrt(square)))
    loose = max(1.0 - m * m, 0.0) / max(1.0 - z.m * z.m, 1e-12)
    out = mapped(
        replace(z, positions=p_out, parts=()), lambda d: min(loose * d, 2.0), log_q=math.log(square) + unit, m=m, f=0.0
    )
    out = replace(out, ds=out.ds * (1.0 - overlap))
    return out if source.gate is None else product(out, source.gate)


def maximum_back(site: Site, gradient: Gradient, k: float, p_out: float) -> Gradient:
    """One winner of k gets all: Gs/k, Gc/k over all pairs of positions."""
    sources: list[Source] = site.memory["sources"]
    x = site.inputs[0]
    if len(sources) == 1 or len(x.parts) != len(sources):
        return _to_winner(sources[0], replace(gradient, parts=()), k, p_out, x.positions)
    given = gradient.parts if len(gradient.parts) == len(sources) else (gradient,) * len(sources)
    parts = tuple(_to_winner(s, g, k, p_out, x.positions) for s, g in zip(sources, given, strict=True))
    return joined(parts, x)


def _to_winner(source: Source, gradient: Gradient, k: float, p_out: float, p_in: float) -> Gradient:
    z, share = source.z, p_out / p_in
    slopes = _winner(source, source.k)[2] if z.log_q != NEVER else 0.0
    # Winners are the large z: the mean of z·φ′(z) over them pulls the layer's own weight (`Gradient.pull_c`).
    pull = share * _pull_of_winner(source) ** 2 / max(slopes, 1e-30)
    alike = 1.0 / k + (1.0 - 1.0 / k) * max(1.0 - z.same_position, 0.0) ** 2
    return replace(
        gradient,
        log_g=gradient.log_g + math.log(share * _slope_of_winner(source)),
        s=gradient.s / k,
        c=gradient.c / k,
        e=gradient.pairs(p_out)[0] * alike,
        parts=(),
        pull_s=gradient.s * pull,
        pull_c=gradient.c * pull,
    )


def _winner(source: Source, k: float) -> tuple[float, float, float, float]:
    f, z = source.f, source.z
    spread = max(1.0 - z.m * z.m, 1e-12)
    unit = z.log_q if f.halves else 0.0
    scale = math.exp(0.5 * min(z.log_q - unit, 600.0))
    rho = max(0.0, min(1.0 - z.ds / spread, 1.0))
    mean, square, slopes = _maximum_moments(f, round(z.m, 3), round(rho, 3), round(math.log(scale), 3), round(k, 2))
    return mean, square, slopes, unit


@lru_cache(maxsize=1024)
def _maximum_moments(f: Elementwise, m: float, rho: float, log_scale: float, k: float) -> tuple[float, float, float]:
    scale = math.exp(log_scale)
    sigma = scale * math.sqrt(max(1.0 - m * m, 1e-12))
    mean = square = slopes = 0.0
    top = _top_of(k)
    for u, w in even_grid(0.75) if rho > 0.0 else ((0.0, 1.0),):
        for e, p in top:
            x = m * scale + sigma * (math.sqrt(rho) * u + math.sqrt(1.0 - rho) * e)
            y, d = f.phi(x), f.slope(x)
            weight = w * p
            mean += weight * y
            square += weight * y * y
            slopes += weight * d * d
    return mean, square, slopes


def _top_of(k: float) -> list[tuple[float, float]]:
    """(node, weight) of the largest of k standard normals: density k·p(e)·P(e)^(k−1)."""
    weights = [(e, k * pdf(e) * cdf(e) ** (k - 1.0)) for e in (0.25 * (i + 0.5) for i in range(-26, 30))]
    norm = math.fsum(w for _, w in weights)
    return [(e, w / norm) for e, w in weights]


def _pull_of_winner(source: Source) -> float:
    """E Mφ′(M)/σ, M the largest of k."""
    f, z = source.f, source.z
    if z.log_q == NEVER:
        return 0.0
    sigma = 1.0 if f.halves else math.exp(0.5 * min(z.log_q, 600.0))
    return math.fsum(w * e * f.slope(sigma * e) for e, w in _top_of(source.k))


def _slope_of_winner(source: Source) -> float:
    """E φ′² of the winner, in units of what the operand itself passes on."""
    if source.z.log_q == NEVER:
        return 1.0
    below = _winner(source, source.below)[2]
    return _winner(source, source.k)[2] / below if below > 0.0 else 1.0
