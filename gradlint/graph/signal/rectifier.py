"""Closed forms for functions that are linear on either side of zero.

Source: Cho & Saul 2009 for the centred ones.
"""

from __future__ import annotations

import math
from functools import lru_cache

from gradlint.graph.signal.moments import (
    Moments,
)
from gradlint.graph.signal.quadrature import cdf, even_grid, gap_cell, pdf

_GRID = 4000.0
"""Cached expectations sit on a grid of 1/4000 in ln std: 1e-4 decades at most."""


def moments(left: float, right: float, mean: float, std: float) -> Moments:
    """Moments of the function of slope `left` below and `right` above zero, argument N(mean, std²)."""
    a = mean / std
    p, d = cdf(a), pdf(a)
    up = mean * p + std * d  # E max(x, 0)
    down = mean - up  # E min(x, 0)
    up2 = (mean * mean + std * std) * p + mean * std * d
    down2 = mean * mean + std * std - up2
    up4 = (mean**4 + 6 * mean**2 * std**2 + 3 * std**4) * p + (mean**3 * std + 5 * mean * std**3) * d
    all4 = mean**4 + 6 * mean**2 * std**2 + 3 * std**4
    return Moments(
        left * left * down2 + right * right * up2,
        left * down + right * up,
        left * left * (1 - p) + right * right * p,
        left * (1 - p) + right * p,
        left**4 * (all4 - up4) + right**4 * up4,
    )


def apart(left: float, right: float, mean: float, std: float, gap: float) -> float:
    """E φ² − E φφ′ of a rectifier: closed for a centred argument (Cho & Saul 2009, eq. 6), else one integral."""
    if gap <= 0.0:
        return 0.0
    even, odd = 0.5 * (right - left), 0.5 * (right + left)
    if abs(mean) < 1e-9 * std:
        theta = 2.0 * math.asin(min(math.sqrt(0.5 * gap), 1.0))
        bent = gap - 2.0 / math.pi * (math.sin(theta) - theta * math.cos(theta))
        return std * std * (odd * odd * gap + even * even * max(bent, 0.0))
    return _apart_shifted(left, right, round(mean / std * _GRID), gap_cell(gap)) * std * std


@lru_cache(maxsize=32768)
def _apart_shifted(left: float, right: float, ratio: int, gap_cell: int) -> float:
    mean, gap = ratio / _GRID, math.exp(gap_cell / 1000.0)
    if gap >= 1.0:
        whole = moments(left, right, mean, 1.0)
        first = whole.slope_mean  # Stein: E[z φ] = E φ′ in units of std
        return whole.square - whole.mean**2 - (1.0 - gap) * first * first
    common, own = math.sqrt(1.0 - gap), math.sqrt(gap)
    total = 0.0
    for u, w in even_grid():
        inner = moments(left, right, mean + common * u, own)
        total += w * max(inner.square - inner.mean**2, 0.0)
    return total


def slopes_apart(left: float, right: float, mean: float, std: float, gap: float) -> float:
    """E φ′² − E φ′φ′ of a rectifier: (right − left)² times half the chance that the two signs differ."""
    if gap <= 0.0:
        return 0.0
    step = (right - left) ** 2
    if abs(mean) < 1e-9 * std:
        return step * math.asin(min(math.sqrt(0.5 * gap), 1.0)) / math.pi
    return step * _signs_differ(round(mean / std * _GRID), gap_cell(gap))


@lru_cache(maxsize=32768)
def _signs_differ(ratio: int, gap_cell: int) -> float:
    mean, gap = ratio / _GRID, math.exp(gap_cell / 1000.0)
    if gap >= 1.0:
        p = cdf(mean)
        return p * (1.0 - p) - (1.0 - gap) * pdf(mean) ** 2
    common, own = math.sqrt(1.0 - gap), math.sqrt(gap)
    total = 0.0
    for u, w in even_grid(0.09375):
        p = cdf((mean + common * u) / own)
        total += w * p * (1.0 - p)
    return total
