"""The state on an edge of the graph: moments of the signal, and of the gradient that flows back.

Scales are natural logarithms, so that a signal of 1e-400 survives; correlations are kept as their distance
from one, so that a collapse to 1 − 1e-12 is still told from a collapse to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

NEVER = -math.inf
"""Log of zero."""


class Lead(NamedTuple):
    """A class token: `excess` is ln of E[x²] at the first position of every `row` over the mean, `across` how much it
    correlates with the others, in units of the correlation between two of those."""

    excess: float
    row: float
    across: float = 1.0

    @property
    def kinds(self) -> tuple[float, float]:
        """(energy at the first position, at each other one) in units of the mean."""
        first = min(math.exp(self.excess), self.row)
        return first, (self.row - first) / (self.row - 1.0) if self.row > 1.0 else 1.0

    @property
    def pairs(self) -> float:
        """The mean product of two positions, in units of the correlation of two that are not the first."""
        first, other = self.kinds
        return (2.0 * self.across * math.sqrt(first * other) + (self.row - 2.0) * other) / self.row


@dataclass(frozen=True, slots=True)
class Signal:
    """Moments of a tensor of N samples × P positions × n features under random weights and inputs.

    `log_q`: ln E[x²]. `m`: mean over features / root mean square. `ds`: 1 − E[x_p x_p′]/E[x²], same sample,
    two positions. `dc`: 1 − E[x x′]/E[x²], two samples, mean over all pairs of positions; `de` the same for one
    position in two samples, None where it is no different. `f`: correlation between features of one token
    beyond m². `v`: variance of E[x²] between draws of the weights, relative to its square. `batch`,
    `positions`, `features`: N, P and n. `parts`: the tensors of a concatenation along the features, which a
    norm per channel treats one by one. `lead`: the energy of a class token, where it has one of its own. `groups`: how
    many groups of features (heads) stand among the positions.
    """

    log_q: float
    m: float = 0.0
    ds: float = 1.0
    dc: float = 1.0
    de: float | None = None
    f: float = 0.0
    v: float = 0.0
    batch: float = 1.0
    positions: float = 1.0
    features: float = 1.0
    parts: tuple[Signal, ...] = ()
    lead: Lead | None = None
    groups: float = 1.0

    @property
    def s(self) -> float:
        """Correlation of two positions of one sample."""
        return 1.0 - self.ds

    @property
    def c(self) -> float:
        """Correlation of two samples."""
        return 1.0 - self.dc

    @property
    def same_position(self) -> float:
        """1 − correlation of two samples at one position."""
        return self.dc if self.de is None else self.de

    @property
    def pairs(self) -> tuple[float, float]:
        """Correlation of two samples at one position, and at two different ones."""
        return _pairs(self.c, 1.0 - self.same_position, self.positions)

    @property
    def size(self) -> float:
        """Number of elements, batch included."""
        return self.batch * self.positions * self.features

    @property
    def log_variance(self) -> float:
        """ln of the variance over elements, mean over features removed."""
        return self.log_q + log(1.0 - self.m * self.m)

    @property
    def kept(self) -> float:
        """Share of E[x²] that is left when the mean over samples and positions is taken off."""
        n, p = self.batch, self.positions
        return ((p - 1.0) * self.ds + (n - 1.0) * p * self.dc) / (n * p)

    def at(self, batch: float, positions: float, features: float) -> Signal:
        """The same moments on another number of samples, positions and features."""
        return replace(self, batch=batch, positions=positions, features=features)


@dataclass(frozen=True, slots=True)
class Weights:
    """How a gradient is spread over the draws of its tensor, in units of E g²/`scale`: `square` for g² (mean 1),
    `across` for the product over two positions (mean Gs), `between` for two samples (mean Gc)."""

    scale: float
    square: list[float]
    across: list[float]
    between: list[float]


@dataclass(frozen=True, slots=True)
class Gradient:
    """Moments of ∂L/∂x, one tensor: `log_g` is ln E[g²] per element, `s` and `c` its correlations between
    positions of a sample and between samples, mean over all pairs of positions; `e` that of one position in two
    samples, None where it is no different; `v` the relative variance of E[g²] between draws. `parts`
    are the gradients of a concatenation's tensors, where they differ. `f`: correlation between features.
    `last`: only the last position (time step) receives a gradient. `pull_s`, `pull_c`: correlations of g·z/σ
    between positions and samples, z the pre-activation: what the gradient of the layer that made z sums up
    along its own weight vector. `weights`: where it stands on the draws of a residual stream. `lead`: the energy at a
    class token, where that is another one."""

    log_g: float
    s: float = 0.0
    c: float = 0.0
    v: float = 0.0
    parts: tuple[Gradient, ...] = ()
    f: float = 0.0
    last: bool = False
    pull_s: float = 0.0
    pull_c: float = 0.0
    e: float | None = None
    weights: Weights | None = field(default=None, compare=False)
    lead: Lead | None = None

    @property
    def zero(self) -> bool:
        """No gradient flows."""
        return self.log_g == NEVER

    def pairs(self, positions: float) -> tuple[float, float]:
        """Correlation of two samples at one position, and at two different ones."""
        return _pairs(self.c, self.c if self.e is None else self.e, positions)

    @property
    def unweighted(self) -> Gradient:
        """The same without the weights of draws."""
        return replace(self, weights=None) if self.weights is not None else self


def _pairs(c: float, e: float, positions: float) -> tuple[float, float]:
    return (e, (positions * c - e) / (positions - 1.0)) if positions > 1.0 and e != c else (e, c)


class Moments(NamedTuple):
    """E φ², E φ, E φ′², E φ′, E φ⁴ of a function of a random argument."""

    square: float
    mean: float
    slope_square: float
    slope_mean: float
    fourth: float


class Draws(NamedTuple):
    """Joint draws of a tensor's elements at one `token`, at an `other` position of its sample and in a `stranger`;
    `log_unit` is ln of the square that a draw of 1 stands for. `uneven`: they are of channels of different scale."""

    token: list[float]
    other: list[float]
    stranger: list[float]
    log_unit: float
    uneven: bool = False

    @property
    def rows(self) -> tuple[list[float], list[float], list[float]]:
        """The three tokens."""
        return self.token, self.other, self.stranger


ZERO = Gradient(NEVER)


def log(x: float) -> float:
    """ln x, −inf at and below zero."""
    return math.log(x) if x > 0.0 else NEVER


def log_sum(*terms: float) -> float:
    """ln Σ exp(term), without overflow or underflow."""
    top = max(terms)
    if top in (NEVER, math.inf):
        return top
    return top + math.log(math.fsum(math.exp(t - top) for t in terms))


def shares(*logs: float) -> list[float]:
    """exp(log) of each term as a share of the sum; equal shares when all are zero."""
    total = log_sum(*logs)
    if total == NEVER:
        return [1.0 / len(logs)] * len(logs)
    return [math.exp(t - total) for t in logs]


def total(gradients: list[Gradient]) -> Gradient:
    """The sum of independent gradients that reach one tensor: energies add, correlations mix by share."""
    live = [g for g in gradients if not g.zero]
    if not live:
        return ZERO
    if len(live) == 1:
        return live[0]
    part = shares(*(g.log_g for g in live))
    parts: tuple[Gradient, ...] = ()
    widths = {len(g.parts) for g in live if g.parts}
    if len(widths) == 1:
        count = widths.pop()
        parts = tuple(total([g.parts[i] if g.parts else g for g in live]) for i in range(count))
    return Gradient(
        log_sum(*(g.log_g for g in live)),
        sum(p * g.s for p, g in zip(part, live, strict=True)),
        sum(p * g.c for p, g in zip(part, live, strict=True)),
        sum(p * g.v for p, g in zip(part, live, strict=True)),
        parts,
        sum(p * g.f for p, g in zip(part, live, strict=True)),
        all(g.last for g in live),
        e=None
        if all(g.e is None for g in live)
        else sum(p * (g.c if g.e is None else g.e) for p, g in zip(part, live, strict=True)),
        weights=_mixed(part, live),
        lead=blended(part, live),
    )


def _mixed(part: list[float], live: list[Gradient]) -> Weights | None:
    """The weights of a sum of gradients; one that has none stands on all draws alike."""
    weighted = [(p * g.weights.scale, g.weights) for p, g in zip(part, live, strict=True) if g.weights is not None]
    if not weighted:
        return None
    square = across = between = 0.0
    for p, g in zip(part, live, strict=True):
        if g.weights is None:
            square, across, between = square + p, across + p * g.s, between + p * g.c

    def row(name: str, base: float) -> list[float]:
        (p, first), *others = weighted
        mixed = [base + p * x for x in getattr(first, name)]
        for q, w in others:
            mixed = [x + q * y for x, y in zip(mixed, getattr(w, name), strict=True)]
        return mixed

    return Weights(1.0, row("square", square), row("across", across), row("between", between))


def without_lead(g: Gradient, log_share: float) -> Gradient:
    """The gradient of the positions behind a class token, whose energy is `log_share` of the mean over all."""
    if g.lead is None:
        return replace(g, log_g=g.log_g + log_share)
    s = max(-1.0, min(g.s / max(g.lead.pairs, 1e-12), 1.0))
    return replace(g, log_g=g.log_g + log_share, s=s, parts=(), lead=None)


def blended(shares: Sequence[float], terms: Sequence[Signal | Gradient]) -> Lead | None:
    """The class token of a sum of independent terms, of which one without a class token is alike at all positions."""
    row = next((x.lead.row for x in terms if x.lead is not None), None)
    if row is None:
        return None
    first = rest = alike = s = 0.0
    for p, x in zip(shares, terms, strict=True):
        (own, other), pairs = (x.lead.kinds, x.lead.pairs) if x.lead else ((1.0, 1.0), 1.0)
        first, rest, s = first + p * own, rest + p * other, s + p * x.s
        alike += p * x.s / pairs * other if pairs > 0.0 else 0.0
    if alike <= 0.0 or first <= 0.0 or rest <= 0.0:
        return Lead(log(first), row)
    across = (s * rest / alike * row - (row - 2.0) * rest) / (2.0 * math.sqrt(first * rest))
    return Lead(log(first), row, max(0.0, min(across, 1.0)))


def mapped(signal: Signal, gap: Callable[[float], float], **changes: Any) -> Signal:
    """The signal with `gap` applied to each distance from full correlation."""
    de = None if signal.de is None else gap(signal.de)
    return replace(signal, ds=gap(signal.ds), dc=gap(signal.dc), de=de, **changes)


def rescaled(signal: Signal, log_factor: float) -> Signal:
    """The signal times √exp(log_factor), parts included."""
    parts = tuple(rescaled(p, log_factor) for p in signal.parts)
    return replace(signal, log_q=signal.log_q + log_factor, parts=parts)
