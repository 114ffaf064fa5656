"""Gaussian expectations of an elementwise function at one signal, cached on a fine grid."""

from __future__ import annotations

import math
from functools import lru_cache

from gradlint.graph.signal import rectifier
from gradlint.graph.signal.elementwise import Elementwise
from gradlint.graph.signal.moments import (
    Moments,
    Signal,
)
from gradlint.graph.signal.quadrature import apart, cdf, gap_cell, moments, nodes, pdf
from gradlint.graph.signal.transfer import (
    Unclaimed,
)

_GRID = 4000.0
"""Cached expectations sit on a grid of 1/4000 in ln std: 1e-4 decades at most."""
_TINY, HUGE = math.log(1e-7), math.log(1e6)
_PERIODIC = math.log(3.0)


class View:
    """Gaussian expectations of φ at one signal, in units of exp(log_unit) for functions that scale."""

    def __init__(self, signal: Signal, f: Elementwise) -> None:
        self.f = f
        self.m = signal.m
        self.spread = max(1.0 - signal.m * signal.m, 1e-12)
        self.log_unit = 0.0
        self.linear = False
        if f.halves:
            self.log_unit = signal.log_q
            self.mean, self.std = signal.m, math.sqrt(self.spread)
            self.moments = rectifier.moments(*f.halves, self.mean, self.std)
            return
        log_std = 0.5 * (signal.log_q + math.log(self.spread))
        if 0.5 * signal.log_q < _TINY:
            self.linear = True
            self.log_unit, self.moments = _small(f, signal)
            self.q = math.exp(signal.log_q - self.log_unit)
            return
        if f.key[0] in ("sin", "cos") and log_std > _PERIODIC:
            raise Unclaimed(f"{f.key[0]} of an argument over many periods")
        excess = max(log_std - HUGE, 0.0)
        if excess and _asymptotically_linear(f):
            self.log_unit = 2.0 * excess
        self.cell = round((log_std - excess) * _GRID)
        self.ratio = round(signal.m / math.sqrt(self.spread) * _GRID)
        self.std = math.exp(self.cell / _GRID)
        self.mean = self.std * self.ratio / _GRID
        self.moments = _expectations(f, self.cell, self.ratio)

    def apart(self, gap: float) -> float:
        """E φ² − E φ φ′ at correlation r = 1 − gap of the whole signal, mean included."""
        rho_gap = min(gap / self.spread, 2.0)
        if self.f.halves:
            return rectifier.apart(*self.f.halves, self.mean, self.std, rho_gap)
        if self.linear:
            return self.moments.slope_square * self.q * gap
        return _apart(self.f, self.cell, self.ratio, gap_cell(rho_gap), False) if rho_gap > 0 else 0.0

    def slopes_apart(self, gap: float) -> float:
        """E φ′² − E φ′φ′ at correlation 1 − gap."""
        rho_gap = min(gap / self.spread, 2.0)
        if self.f.halves:
            return rectifier.slopes_apart(*self.f.halves, self.mean, self.std, rho_gap)
        if self.linear:
            return 0.0
        return _apart(self.f, self.cell, self.ratio, gap_cell(rho_gap), True) if rho_gap > 0 else 0.0

    def sensitivity(self) -> float:
        """χ = dlog q′/dlog q."""
        if self.f.halves:
            return 1.0
        if self.linear:
            return self.moments.slope_square * self.q / self.moments.square if self.moments.square else 0.0
        step = 40
        higher = _expectations(self.f, self.cell + step, self.ratio).square
        return math.log(higher / self.moments.square) / (2.0 * step / _GRID) if higher > 0 else 1.0

    def pull(self) -> float:
        """E[(z − μ)φ′(z)]/σ."""
        if self.linear:
            return 0.0
        if self.f.halves:
            left, right = self.f.halves
            return (right - left) * pdf(self.mean / self.std)
        return _pull(self.f, self.cell, self.ratio)

    def slope_kurtosis(self) -> float:
        """E φ′⁴/(E φ′²)² − 1."""
        square = self.moments.slope_square
        if self.linear:
            return 0.0
        if self.f.halves:
            left, right = self.f.halves
            p = cdf(self.mean / self.std)
            return max((p * right**4 + (1 - p) * left**4) / square**2 - 1.0, 0.0)
        return max(_slope_fourth(self.f, self.cell, self.ratio) / square**2 - 1.0, 0.0)


@lru_cache(maxsize=16384)
def _expectations(f: Elementwise, cell: int, ratio: int) -> Moments:
    std = math.exp(cell / _GRID)
    return moments(f.phi, f.slope, std * ratio / _GRID, std, f.kinks)


@lru_cache(maxsize=16384)
def _slope_fourth(f: Elementwise, cell: int, ratio: int) -> float:
    std = math.exp(cell / _GRID)
    return math.fsum(w * f.slope(x) ** 4 for x, w in nodes(std * ratio / _GRID, std, f.kinks))


@lru_cache(maxsize=16384)
def _pull(f: Elementwise, cell: int, ratio: int) -> float:
    std = math.exp(cell / _GRID)
    mean = std * ratio / _GRID
    return math.fsum(w * f.slope(x) * (x - mean) for x, w in nodes(mean, std, f.kinks)) / std


@lru_cache(maxsize=32768)
def _apart(f: Elementwise, cell: int, ratio: int, gap_cell: int, slopes: bool) -> float:
    std = math.exp(cell / _GRID)
    return apart(f.slope if slopes else f.phi, std * ratio / _GRID, std, math.exp(gap_cell / 1000.0), f.kinks)


@lru_cache(maxsize=256)
def _asymptotically_linear(f: Elementwise) -> bool:
    far = max(abs(f.phi(1e6)), abs(f.phi(-1e6)))
    return far > 1e4


def _small(f: Elementwise, signal: Signal) -> tuple[float, Moments]:
    """(log unit, moments) of φ(x) ≈ φ(0) + φ′(0)x."""
    y, d = f.phi(0.0), f.slope(0.0)
    # The slope on either side of a kink (elu, hardshrink) differs: average what a small signal sees.
    d = 0.5 * (f.slope(1e-9) + f.slope(-1e-9)) if abs(d) < 1e-300 else d
    unit = signal.log_q if y == 0.0 else 0.0
    q = math.exp(signal.log_q - unit)
    square = y * y + 2.0 * y * d * signal.m * math.sqrt(q) + d * d * q
    mean = y + d * signal.m * math.sqrt(q)
    return unit, Moments(square, mean, d * d, d, 3.0 * square * square if y == 0.0 else square * square)
