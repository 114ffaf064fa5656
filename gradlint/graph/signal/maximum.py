"""The largest of several activations: max pools and extremes, by the order statistics of Gaussians."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from gradlint.graph.signal.elementwise import IDENTITY, Elementwise, elementwise
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    mapped,
)
from gradlint.graph.signal.quadrature import cdf, even_grid, pdf
from gradlint.graph.signal.transfer import (
    Site,
)


def _before(site: Site) -> tuple[Elementwise, Signal]:
    """The activation in front of a max pool and its argument: the maximum of φ(z) is φ of the maximum."""
    source = site.producers[0] if site.producers else None
    if source is not None and source.node.kind == "activation" and not source.inputs[0].parts:
        f = elementwise(source.node.op, source.node.attributes)
        if f is not None:
            return f, source.inputs[0]
    return IDENTITY, replace(site.inputs[0], parts=())


def maximum(site: Site, x: Signal, k: float, p_out: float) -> Signal:
    """q′ = E φ(M)² with M = μ + σ(√ρ·u + √(1−ρ)·max of k independent ε), ρ between neighbours."""
    f, z = _before(site)
    if z.log_q == NEVER:
        return replace(x, positions=p_out)
    mean, square, _, unit = _winner(f, z, k)
    if square <= 0.0:
        return replace(x, log_q=NEVER, positions=p_out)
    m = max(-1.0, min(1.0, mean / math.sqrt(square)))
    loose = max(1.0 - m * m, 0.0) / max(1.0 - z.m * z.m, 1e-12)
    return mapped(
        replace(z, positions=p_out), lambda d: min(loose * d, 2.0), log_q=math.log(square) + unit, m=m, v=z.v, f=0.0
    )


def maximum_back(site: Site, gradient: Gradient, k: float, p_out: float) -> Gradient:
    """One winner of k gets all: Gs/k, Gc/k over all pairs of positions."""
    f, z = _before(site)
    share = p_out / site.inputs[0].positions
    slopes = _winner(f, z, k)[2]
    # Winners are the large z: the mean of z·φ′(z) over them pulls the layer's own weight (`Gradient.pull_c`).
    pull = share * _pull_of_winner(f, z, k) ** 2 / max(slopes, 1e-30)
    alike = 1.0 / k + (1.0 - 1.0 / k) * max(1.0 - z.same_position, 0.0) ** 2
    return replace(
        gradient,
        log_g=gradient.log_g + math.log(share * _slope_of_winner(f, z, k)),
        s=gradient.s / k,
        c=gradient.c / k,
        e=gradient.pairs(p_out)[0] * alike,
        parts=(),
        pull_s=gradient.s * pull,
        pull_c=gradient.c * pull,
    )


def _winner(f: Elementwise, z: Signal, k: float) -> tuple[float, float, float, float]:
    spread = max(1.0 - z.m * z.m, 1e-12)
    unit = z.log_q if f.halves else 0.0
    scale = math.exp(0.5 * min(z.log_q - unit, 600.0))
    rho = max(0.0, min(1.0 - z.ds / spread, 1.0))
    mean, square, slopes = _maximum_moments(f, round(z.m, 3), round(rho, 3), round(math.log(scale), 3), round(k))
    return mean, square, slopes, unit


@lru_cache(maxsize=1024)
def _maximum_moments(f: Elementwise, m: float, rho: float, log_scale: float, k: int) -> tuple[float, float, float]:
    scale = math.exp(log_scale)
    sigma = scale * math.sqrt(max(1.0 - m * m, 1e-12))
    mean = square = slopes = 0.0
    step = 0.25
    top = [(step * (i + 0.5)) for i in range(-26, 30)]
    weights = [k * pdf(e) * cdf(e) ** (k - 1) for e in top]
    norm = math.fsum(weights)
    for u, w in even_grid(0.75) if rho > 0.0 else ((0.0, 1.0),):
        for e, p in zip(top, weights, strict=True):
            x = m * scale + sigma * (math.sqrt(rho) * u + math.sqrt(1.0 - rho) * e)
            y, d = f.phi(x), f.slope(x)
            weight = w * p / norm
            mean += weight * y
            square += weight * y * y
            slopes += weight * d * d
    return mean, square, slopes


def _pull_of_winner(f: Elementwise, z: Signal, k: float) -> float:
    """E Mφ′(M)/σ, M the largest of k."""
    if z.log_q == NEVER:
        return 0.0
    sigma = 1.0 if f.halves else math.exp(0.5 * min(z.log_q, 600.0))
    weights = [(e, k * pdf(e) * cdf(e) ** (k - 1)) for e in (0.25 * (i + 0.5) for i in range(-26, 30))]
    norm = math.fsum(w for _, w in weights)
    return math.fsum(w * e * f.slope(sigma * e) for e, w in weights) / norm


def _slope_of_winner(f: Elementwise, z: Signal, k: float) -> float:
    if z.log_q == NEVER:
        return 1.0
    winner = _winner(f, z, k)[2]
    single = _winner(f, z, 1.0)[2]
    return winner / single if single > 0.0 else 1.0
