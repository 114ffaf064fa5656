"""Elementwise functions: what a Gaussian pre-activation becomes, and which share of the gradient passes.

Source: Poole et al. 2016 (eq. 2–5) for the maps of length and correlation, Schoenholz et al. 2017 (eq. 14)
for χ = σ_w² E φ′², Cho & Saul 2009 for the closed forms of the rectifiers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from gradlint.graph.signal.elementwise import Elementwise, elementwise
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log, log_sum, mapped
from gradlint.graph.signal.quadrature import Moments, apart, cdf, even_grid, moments, nodes, pdf
from gradlint.graph.signal.transfer import Site, Transfer, Unclaimed

_GRID = 4000.0
"""Cached expectations sit on a grid of 1/4000 in ln std: 1e-4 decades at most."""
_TINY, _HUGE = math.log(1e-7), math.log(1e6)
_PERIODIC = math.log(3.0)
_FLAT = 0.1
"""A unit is saturated where the slope is below a tenth of its largest (Glorot & Bengio 2010, §3)."""


def activate(signal: Signal, f: Elementwise) -> Signal:
    """q′ = E φ(z)², m′ = E φ/√q′, 1 − r′ = E_u Var_w[φ(μ + σ(√ρ u + √(1−ρ) w))]/q′ for r in s, c,
    with ρ = (r − m²)/(1 − m²); v′ = χ²v, χ = dlog q′/dlog q, plus κρ²/n from the finite width,
    κ = E φ⁴/(E φ²)² − 1 (Hanin 2018, §3)."""
    if signal.parts:
        parts = tuple(activate(p, f) for p in signal.parts)
        return merged(parts, signal)
    if signal.log_q == NEVER:
        y = f.phi(0.0)
        return replace(
            signal, log_q=2.0 * log(abs(y)), m=math.copysign(1.0, y) if y else 0.0, ds=0.0, dc=0.0, de=None, v=0.0
        )
    view = View(signal, f)
    square = view.moments.square
    if square <= 0.0:
        return replace(signal, log_q=NEVER, m=0.0)
    m = max(-1.0, min(1.0, view.moments.mean / math.sqrt(square)))
    ds = view.apart(signal.ds) / square if signal.positions > 1 else 1.0
    kurtosis = max(view.moments.fourth / (square * square) - 1.0, 0.0)
    sensitivity = view.sensitivity()
    return replace(
        signal,
        log_q=math.log(square) + view.log_unit,
        m=m,
        ds=ds,
        dc=view.apart(signal.dc) / square,
        de=None if signal.de is None else view.apart(signal.de) / square,
        f=0.0,
        v=sensitivity * sensitivity * signal.v + kurtosis * signal.c**2 / max(signal.features, 1.0),
    )


def merged(parts: tuple[Signal, ...], like: Signal) -> Signal:
    """The moments of a concatenation: shares by width, parts kept."""
    width = sum(p.features for p in parts)
    weights = [p.features / width for p in parts]
    log_q = log_sum(*(p.log_q + log(w) for p, w in zip(parts, weights, strict=True)))
    if log_q == NEVER:
        return replace(like, log_q=NEVER, m=0.0, features=width, parts=parts)
    energy = [w * math.exp(p.log_q - log_q) for p, w in zip(parts, weights, strict=True)]
    mean = sum(w * p.m * math.exp(0.5 * (p.log_q - log_q)) for p, w in zip(parts, weights, strict=True))
    return replace(
        like,
        log_q=log_q,
        m=max(-1.0, min(1.0, mean)),
        ds=sum(e * p.ds for e, p in zip(energy, parts, strict=True)),
        dc=sum(e * p.dc for e, p in zip(energy, parts, strict=True)),
        de=sum(e * p.same_position for e, p in zip(energy, parts, strict=True)),
        v=sum(e * p.v for e, p in zip(energy, parts, strict=True)),
        features=width,
        parts=parts,
    )


def back(gradient: Gradient, signal: Signal, f: Elementwise) -> Gradient:
    """G = E φ′(z)²·G′; Gs and Gc times E[φ′(z)φ′(z′)]_ρ/E φ′² (Schoenholz et al. 2017, eq. 14)."""
    if gradient.zero:
        return gradient
    if signal.parts:
        given = gradient.parts or (gradient,) * len(signal.parts)
        parts = tuple(back(g, p, f) for g, p in zip(given, signal.parts, strict=True))
        return joined(parts, signal)
    if signal.log_q == NEVER:
        slope = f.slope(0.0)
        return replace(gradient, log_g=gradient.log_g + 2.0 * log(abs(slope)))
    view = View(signal, f)
    square = view.moments.slope_square
    if square <= 0.0:
        return replace(gradient, log_g=NEVER)
    kurtosis = view.slope_kurtosis()
    pull = view.pull() ** 2 / square
    return Gradient(
        gradient.log_g + math.log(square),
        gradient.s * (1.0 - view.slopes_apart(signal.ds) / square) if signal.positions > 1 else gradient.s,
        gradient.c * (1.0 - view.slopes_apart(signal.dc) / square),
        gradient.v + kurtosis * signal.c**2 / max(signal.features, 1.0),
        last=gradient.last,
        pull_s=gradient.pull_s or gradient.s * pull,
        pull_c=gradient.pull_c or gradient.c * pull,
    )


def joined(parts: tuple[Gradient, ...], signal: Signal) -> Gradient:
    """The gradient of a concatenation whose parts passed different slopes: energies by width."""
    width = sum(p.features for p in signal.parts)
    logs = [g.log_g + math.log(p.features / width) for g, p in zip(parts, signal.parts, strict=True)]
    whole = log_sum(*logs)
    if whole == NEVER:
        return Gradient(NEVER)
    energy = [math.exp(x - whole) for x in logs]
    return Gradient(
        whole,
        sum(e * g.s for e, g in zip(energy, parts, strict=True)),
        sum(e * g.c for e, g in zip(energy, parts, strict=True)),
        sum(e * g.v for e, g in zip(energy, parts, strict=True)),
        parts,
        last=all(g.last for g in parts),
    )


def saturated(signal: Signal, f: Elementwise) -> float:
    """Share of units where |φ′| is below a tenth of its largest value."""
    if signal.log_q == NEVER:
        return 0.0
    std = math.exp(min(0.5 * signal.log_variance, _HUGE))
    mean = signal.m * math.exp(min(0.5 * signal.log_q, _HUGE))
    top = max(abs(f.slope(0.25 * k)) for k in range(-12, 13))
    return math.fsum(w for x, w in nodes(mean, max(std, 1e-12)) if abs(f.slope(x)) < _FLAT * top)


def forward(site: Site) -> Signal:
    """The activation's output; `x · σ(x)` and the like arrive here as one function."""
    if site.node.op == "glu":
        return _gated(site.inputs[0])
    return activate(site.inputs[0], _function(site))


def _gated(x: Signal) -> Signal:
    """GLU (Dauphin et al. 2017): half of the features times the sigmoid of the other half."""
    x = replace(x, parts=(), features=x.features / 2.0)
    gate = activate(x, _sigmoid())
    return mapped(
        replace(x, log_q=x.log_q + gate.log_q, m=x.m * gate.m, f=0.0, v=x.v + gate.v),
        lambda d: d + _blend(gate, x, d) - d * _blend(gate, x, d),
    )


def _blend(gate: Signal, x: Signal, d: float) -> float:
    """The gate's distance at the pairs where `x` stands `d` apart."""
    for own, other in ((x.ds, gate.ds), (x.dc, gate.dc), (x.de, gate.de)):
        if own == d and other is not None:
            return other
    return gate.dc


def _gated_back(gradient: Gradient, x: Signal) -> Gradient:
    """Mean over both halves: G E σ² to the signal, G q E σ′² to the gate."""
    half = replace(x, parts=(), features=x.features / 2.0)
    gate = activate(half, _sigmoid())
    passes = math.exp(gate.log_q)
    steers = math.exp(back(Gradient(x.log_q), half, _sigmoid()).log_g)
    share = passes / (passes + steers)
    s, c = share * gate.s + (1.0 - share) * x.s, share * gate.c + (1.0 - share) * x.c
    return Gradient(gradient.log_g + math.log(0.5 * (passes + steers)), gradient.s * s, gradient.c * c, gradient.v)


def _sigmoid() -> Elementwise:
    f = elementwise("sigmoid", {})
    assert f is not None
    return f


def backward(site: Site, gradient: Gradient) -> list[Gradient]:
    """The gradient of the activation's input."""
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if site.node.op == "glu":
        return [_gated_back(gradient, site.inputs[0]), *rest]
    return [back(gradient, site.inputs[0], _function(site)), *rest]


def _function(site: Site) -> Elementwise:
    f = elementwise(site.node.op, site.node.attributes)
    if f is None:
        raise Unclaimed(site.node.op)
    return f


ACTIVATION = Transfer(forward, backward)


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
            self.moments = _half_moments(*f.halves, self.mean, self.std)
            return
        log_std = 0.5 * (signal.log_q + math.log(self.spread))
        if 0.5 * signal.log_q < _TINY:
            self.linear = True
            self.log_unit, self.moments = _small(f, signal)
            self.q = math.exp(signal.log_q - self.log_unit)
            return
        if f.key[0] in ("sin", "cos") and log_std > _PERIODIC:
            raise Unclaimed(f"{f.key[0]} of an argument over many periods")
        excess = max(log_std - _HUGE, 0.0)
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
            return _half_apart(*self.f.halves, self.mean, self.std, rho_gap)
        if self.linear:
            return self.moments.slope_square * self.q * gap
        return _apart(self.f, self.cell, self.ratio, _gap_cell(rho_gap), False) if rho_gap > 0 else 0.0

    def slopes_apart(self, gap: float) -> float:
        """E φ′² − E φ′φ′ at correlation 1 − gap."""
        rho_gap = min(gap / self.spread, 2.0)
        if self.f.halves:
            return _half_slopes_apart(*self.f.halves, self.mean, self.std, rho_gap)
        if self.linear:
            return 0.0
        return _apart(self.f, self.cell, self.ratio, _gap_cell(rho_gap), True) if rho_gap > 0 else 0.0

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


def _gap_cell(gap: float) -> int:
    return round(math.log(gap) * 1000.0)


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


def _half_moments(left: float, right: float, mean: float, std: float) -> Moments:
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


def _half_apart(left: float, right: float, mean: float, std: float, gap: float) -> float:
    """E φ² − E φφ′ of a rectifier: closed for a centred argument (Cho & Saul 2009, eq. 6), else one integral."""
    if gap <= 0.0:
        return 0.0
    even, odd = 0.5 * (right - left), 0.5 * (right + left)
    if abs(mean) < 1e-9 * std:
        theta = 2.0 * math.asin(min(math.sqrt(0.5 * gap), 1.0))
        bent = gap - 2.0 / math.pi * (math.sin(theta) - theta * math.cos(theta))
        return std * std * (odd * odd * gap + even * even * max(bent, 0.0))
    return _half_apart_shifted(left, right, round(mean / std * _GRID), _gap_cell(gap)) * std * std


@lru_cache(maxsize=32768)
def _half_apart_shifted(left: float, right: float, ratio: int, gap_cell: int) -> float:
    mean, gap = ratio / _GRID, math.exp(gap_cell / 1000.0)
    if gap >= 1.0:
        whole = _half_moments(left, right, mean, 1.0)
        first = whole.slope_mean  # Stein: E[z φ] = E φ′ in units of std
        return whole.square - whole.mean**2 - (1.0 - gap) * first * first
    common, own = math.sqrt(1.0 - gap), math.sqrt(gap)
    total = 0.0
    for u, w in even_grid():
        inner = _half_moments(left, right, mean + common * u, own)
        total += w * max(inner.square - inner.mean**2, 0.0)
    return total


def _half_slopes_apart(left: float, right: float, mean: float, std: float, gap: float) -> float:
    """E φ′² − E φ′φ′ of a rectifier: (right − left)² times half the chance that the two signs differ."""
    if gap <= 0.0:
        return 0.0
    step = (right - left) ** 2
    if abs(mean) < 1e-9 * std:
        return step * math.asin(min(math.sqrt(0.5 * gap), 1.0)) / math.pi
    return step * _signs_differ(round(mean / std * _GRID), _gap_cell(gap))


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
