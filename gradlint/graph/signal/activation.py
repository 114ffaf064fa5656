"""Elementwise functions: what a Gaussian pre-activation becomes, and which share of the gradient passes.

Source: Poole et al. 2016 (eq. 2–5) for the maps of length and correlation, Schoenholz et al. 2017 (eq. 14)
for χ = σ_w² E φ′².
"""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.cloud import Response, passed, respond
from gradlint.graph.signal.concat import joined, merged
from gradlint.graph.signal.elementwise import Elementwise, elementwise
from gradlint.graph.signal.expectation import HUGE, View
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    log,
    mapped,
)
from gradlint.graph.signal.quadrature import nodes
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
)

_FLAT = 0.1
"""A unit is saturated where the slope is below a tenth of its largest (Glorot & Bengio 2010, §3)."""

_NEAR = 0.02
"""Two distances this near are told apart by the slope (Price 1958): what a mean over thousands of positions has of its
own is their difference, and less than the grid of cached expectations resolves."""


def activate(signal: Signal, f: Elementwise) -> Signal:
    """q′ = E φ(z)², m′ = E φ/√q′, 1 − r′ = E_u Var_w[φ(μ + σ(√ρ u + √(1−ρ) w))]/q′ for r in s, c,
    with ρ = (r − m²)/(1 − m²); 1 + v′ = (1 + χ²v)(1 + κρ²/n), χ = dlog q′/dlog q and κρ²/n from the finite width,
    κ = E φ⁴/(E φ²)² − 1 (Hanin 2018, §3) and ρ² averaged over all pairs of tokens."""
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
    dc = view.apart(signal.dc) / square
    if signal.positions > 1 and abs(signal.dc - signal.ds) < _NEAR:
        slope = (view.moments.slope_square - view.slopes_apart(signal.dc)) / square
        dc = ds + slope * (signal.dc - signal.ds) * math.exp(signal.log_q - view.log_unit)
    kurtosis = max(view.moments.fourth / (square * square) - 1.0, 0.0)
    sensitivity = view.sensitivity()
    return replace(
        signal,
        log_q=math.log(square) + view.log_unit,
        m=m,
        ds=ds,
        dc=dc,
        de=None if signal.de is None else view.apart(signal.de) / square,
        f=0.0,
        v=_compounded(sensitivity * sensitivity * signal.v, kurtosis, signal),
    )


def _compounded(v: float, kurtosis: float, x: Signal) -> float:
    """(1 + v)(1 + κρ²/n) − 1: factors of independent layers multiply. ρ² is the mean over all pairs of tokens, each
    with itself included: what one unit's fluctuation is worth in the mean over the batch."""
    if x.features <= 1.0:
        return v  # a statistic of many units, not one of them
    p, n = x.positions, x.batch
    alike = (1.0 + (p - 1.0) * x.s**2 + (n - 1.0) * p * x.c**2) / (n * p)
    return (1.0 + v) * (1.0 + kurtosis * alike / max(x.features, 1.0)) - 1.0


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
    c = gradient.c * (1.0 - view.slopes_apart(signal.dc) / square)
    e = None
    if signal.positions > 1.0 and (gradient.e is not None or signal.de is not None):
        (same, other), p = gradient.pairs(signal.positions), signal.positions
        e = same * (1.0 - view.slopes_apart(signal.same_position) / square)
        c = (e + (p - 1.0) * other * (1.0 - view.slopes_apart(1.0 - signal.pairs[1]) / square)) / p
    return Gradient(
        gradient.log_g + math.log(square),
        gradient.s * (1.0 - view.slopes_apart(signal.ds) / square) if signal.positions > 1 else gradient.s,
        c,
        _compounded(gradient.v, kurtosis, signal),
        last=gradient.last,
        pull_s=gradient.pull_s or gradient.s * pull,
        pull_c=gradient.pull_c or gradient.c * pull,
        e=e,
        lead=gradient.lead,
    )


def saturated(signal: Signal, f: Elementwise) -> float:
    """Share of units where |φ′| is below a tenth of its largest value."""
    if signal.log_q == NEVER:
        return 0.0
    std = math.exp(min(0.5 * signal.log_variance, HUGE))
    mean = signal.m * math.exp(min(0.5 * signal.log_q, HUGE))
    top = max(abs(f.slope(0.25 * k)) for k in range(-12, 13))
    return math.fsum(w for x, w in nodes(mean, max(std, 1e-12)) if abs(f.slope(x)) < _FLAT * top)


def forward(site: Site) -> Signal:
    """The activation's output; `x · σ(x)` and the like arrive here as one function."""
    if site.node.op == "glu":
        return _gated(site.inputs[0])
    f, x = _function(site), site.inputs[0]
    seen = respond(site, f, x)
    return activate(x, f) if seen is None else _drawn(f, x, seen)


def _drawn(f: Elementwise, x: Signal, seen: Response) -> Signal:
    """What `activate` gives, for an argument that is followed on draws."""
    if seen.square <= 0.0:
        return replace(x, log_q=NEVER, m=0.0)
    de, view = None, View(x, f)
    if x.de is not None:
        # Draws know two distances; one position in two samples follows the Gaussian's law between them.
        de = seen.dc * view.apart(x.de) / max(view.apart(x.dc), 1e-300) / seen.square
    kurtosis = max(seen.fourth / (seen.square * seen.square) - 1.0, 0.0)
    return replace(
        x,
        log_q=math.log(seen.square) + seen.log_unit,
        m=max(-1.0, min(1.0, seen.mean / math.sqrt(seen.square))),
        ds=seen.ds / seen.square if x.positions > 1 else 1.0,
        dc=seen.dc / seen.square,
        de=de,
        f=0.0,
        v=_compounded(view.sensitivity() ** 2 * x.v, kurtosis, x),
    )


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
    return Gradient(
        gradient.log_g + math.log(0.5 * (passes + steers)),
        gradient.s * s,
        gradient.c * c,
        gradient.v,
        e=None if gradient.e is None else gradient.e * c,
        lead=gradient.lead,
    )


def _sigmoid() -> Elementwise:
    f = elementwise("sigmoid", {})
    assert f is not None
    return f


def backward(site: Site, gradient: Gradient) -> list[Gradient]:
    """The gradient of the activation's input."""
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if site.node.op == "glu":
        return [_gated_back(gradient, site.inputs[0]), *rest]
    f, x = _function(site), site.inputs[0]
    weighted = None if gradient.zero else passed(site, f, x, gradient)
    return [back(gradient, x, f) if weighted is None else weighted, *rest]


def _function(site: Site) -> Elementwise:
    f = elementwise(site.node.op, site.node.attributes)
    if f is None:
        raise Unclaimed(site.node.op)
    return f


ACTIVATION = Transfer(forward, backward)
