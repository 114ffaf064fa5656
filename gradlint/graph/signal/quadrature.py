"""Gaussian expectations of elementwise functions, cached on a fine grid of their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

from gradlint.graph.signal.moments import Moments

Function = Callable[[float], float]

_ROOT_TWO = math.sqrt(2.0)
_LEGENDRE = (  # 6-point Gauss–Legendre on [−1, 1]: positive nodes and weights (Abramowitz & Stegun, table 25.4)
    (0.238619186083196909, 0.467913934572691047),
    (0.661209386466264514, 0.360761573048138608),
    (0.932469514203152028, 0.171324492379170345),
)
_SCALE_BREAKS = (-40.0, -15.0, -6.0, -3.0, -1.5, 0.0, 1.5, 3.0, 6.0, 15.0, 40.0)
"""Where the usual activations bend, in units of their argument."""
_TAIL = 7.0
_BREAKS = (-_TAIL, -4.0, -2.5, -1.25, 0.0, 1.25, 2.5, 4.0, _TAIL)
_SMOOTH_STD = 1.2
"""Up to this std an even grid of step 3/8 resolves functions that bend on a scale of one."""


def cdf(x: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-x / _ROOT_TWO)


def pdf(x: float) -> float:
    """The standard normal density."""
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi) if abs(x) < 38.0 else 0.0


def gap_cell(gap: float) -> int:
    """The cell of a distance from full correlation, on a grid of 1/1000 in its logarithm."""
    return round(math.log(gap) * 1000.0)


@lru_cache(maxsize=8)
def even_grid(step: float = 0.375) -> tuple[tuple[float, float], ...]:
    """(node, weight) of the trapezoid rule under the standard normal, nodes offset so that none is at 0.

    Super-exponentially accurate for smooth functions, and exact by symmetry for a kink at 0, where
    Gauss–Hermite of odd order is off by half a per cent.
    """
    nodes = [step * (i + 0.5) for i in range(-int(6.5 / step), int(6.5 / step))]
    weights = [pdf(x) for x in nodes]
    norm = math.fsum(weights)
    return tuple((x, w / norm) for x, w in zip(nodes, weights, strict=True))


def nodes(mean: float, std: float, kinks: tuple[float, ...] = ()) -> list[tuple[float, float]]:
    """(x, weight) for E f(x), x ~ N(mean, std²), for functions that bend on a scale of one near the origin.

    `kinks` are where the function or its slope jumps: panels end there. A wide argument gets panels that end
    where such functions bend, so that a saturated sigmoid at std 100 is as accurate as one at std 1.
    """
    if std <= _SMOOTH_STD and not kinks:
        return [(mean + std * u, w) for u, w in even_grid()]
    bends = ((b - mean) / std for b in (*_SCALE_BREAKS, *kinks))
    edges = sorted({*_BREAKS, *(b for b in bends if -_TAIL < b < _TAIL)})
    points: list[tuple[float, float]] = []
    for low, high in pairwise(edges):
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        for x, w in _LEGENDRE:
            for u in (middle - half * x, middle + half * x):
                points.append((mean + std * u, half * w * pdf(u)))
    norm = math.fsum(w for _, w in points)
    return [(x, w / norm) for x, w in points]


def moments(phi: Function, slope: Function, mean: float, std: float, kinks: tuple[float, ...] = ()) -> Moments:
    """E of φ², φ, φ′², φ′ and φ⁴ for an argument N(mean, std²)."""
    square = first = slopes = slope_mean = fourth = 0.0
    for x, w in nodes(mean, std, kinks):
        y, d = phi(x), slope(x)
        yy = y * y
        first += w * y
        square += w * yy
        fourth += w * yy * yy
        slope_mean += w * d
        slopes += w * d * d
    return Moments(square, first, slopes, slope_mean, fourth)


def apart(phi: Function, mean: float, std: float, gap: float, kinks: tuple[float, ...] = ()) -> float:
    """E φ(z)² − E φ(z)φ(z′) for z, z′ ~ N(mean, std²) of correlation 1 − gap.

    For positive correlation as E_u Var_w φ(mean + std(√ρ·u + √gap·w)), which stays accurate as the
    correlation tends to one; for negative correlation by the first Hermite coefficients (Mehler), where
    normalisation leaves only a slight one.
    """
    if gap <= 0.0:
        return 0.0
    if gap > 1.0:
        return _anticorrelated(phi, mean, std, 1.0 - gap)
    common, own = std * math.sqrt(1.0 - gap), std * math.sqrt(gap)
    whole = 0.0
    for u, weight in nodes(mean, common, kinks) if common > 0.0 else [(mean, 1.0)]:
        first = square = 0.0
        centre = phi(u)
        for x, w in nodes(u, own, kinks):
            y = phi(x) - centre
            first += w * y
            square += w * y * y
        whole += weight * max(square - first * first, 0.0)
    return whole


def _anticorrelated(phi: Function, mean: float, std: float, rho: float) -> float:
    zeroth = first = second = square = 0.0
    for x, w in nodes(mean, std):
        y, z = phi(x), (x - mean) / std
        zeroth += w * y
        first += w * y * z
        second += w * y * (z * z - 1.0) / _ROOT_TWO
        square += w * y * y
    joint = zeroth**2 + rho * first**2 + rho * rho * second**2
    return square - joint


@lru_cache(maxsize=2048)
def softmax_moments(keys: int, std: float) -> tuple[float, float]:
    """(T·E Σp², E ln Σeᶻ) of a softmax over T independent logits N(0, std²).

    1/S² = ∫ t e^(−tS) dt and ln S = ∫ (e^(−t) − e^(−tS)) dt/t turn both into one integral over ln t of
    powers of the Laplace transform L(t) = E exp(−t·eᶻ).
    """
    if keys <= 1 or std < 1e-4:
        return 1.0, math.log(max(keys, 1))
    std = min(std, 12.0)
    grid = [(math.exp(std * u), w) for u, w in even_grid(min(0.375, round(0.4 / std, 2)))]
    step = 0.25
    peak = level = 0.0
    low, high = -math.log(keys) - 6.5 * std - 18.0, 6.5 * std + 4.0
    for i in range(int((high - low) / step)):
        t = math.exp(low + step * i)
        missing = square = 0.0
        for e, w in grid:
            passes = math.exp(-t * e)
            missing += w * -math.expm1(-t * e)
            square += w * e * e * passes
        log_l = math.log1p(-min(missing, 1.0 - 1e-15))
        peak += keys * t * t * square * math.exp((keys - 1) * log_l)
        level += math.exp(-t) - math.exp(keys * log_l)
    return keys * peak * step, level * step
