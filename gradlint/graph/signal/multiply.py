"""Products and quotients: gates, which multiply moments, and functions written out as a product of two."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.activation import activate, back
from gradlint.graph.signal.add import affine, everywhere, guess, narrowed
from gradlint.graph.signal.elementwise import IDENTITY, Elementwise, elementwise
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Lead,
    Signal,
    log,
)
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
)

_LEAST_MEAN = 0.25
"""Least share of a divisor's mean in its second moment: what varies more may pass through zero."""
_ADDED_GUESS, _MULTIPLIED_GUESS = 0.3, 1.0
"""Decades of doubt where a tensor of unknown values is added to a signal, or multiplies it."""


def mul(site: Site) -> Signal:
    """Independent factors; those that are functions of one tensor (x·σ(x), x·x) act as one elementwise function."""
    joint = _joint(site)
    if joint is not None:
        root, f = joint
        return activate(root, f)
    if len(site.inputs) == 1:
        return site.inputs[0]
    guess(site, _MULTIPLIED_GUESS)
    return product(site.inputs[0], _divisor(site) if site.node.op == "div" else site.inputs[1])


def product(a: Signal, b: Signal) -> Signal:
    """Independent factors, one of them maybe broadcast: q = q₁q₂, m = m₁m₂, r = r₁r₂."""
    wide = a if a.size >= b.size else b
    a, b = everywhere(a, b), everywhere(b, a)

    def mix(x: float, y: float) -> float:
        return x + y - x * y

    de = None if a.de is None and b.de is None else mix(a.same_position, b.same_position)
    lead, level = _led(a, b)
    return Signal(
        a.log_q + b.log_q + level,
        a.m * b.m,
        mix(a.ds, b.ds),
        mix(a.dc, b.dc),
        de,
        0.0,
        _fluctuation(a, b),
        wide.batch,
        wide.positions,
        max(a.features, b.features),
        lead=lead,
        groups=max(a.groups, b.groups),
    )


def _led(a: Signal, b: Signal) -> tuple[Lead | None, float]:
    """(the class token of a product, ln of what its factors' energies add to the product of their means)."""
    if a.lead is None or b.lead is None:
        return a.lead or b.lead, 0.0
    (first, other), (times, rest), row = a.lead.kinds, b.lead.kinds, a.lead.row
    mean = (first * times + (row - 1.0) * other * rest) / row
    return (Lead(log(first * times / mean), row), math.log(mean)) if mean > 0.0 else (None, NEVER)


def _fluctuation(a: Signal, b: Signal) -> float:
    """Independent factors fluctuate together; a statistic of a token (the scale of a norm written out) follows what it
    multiplies."""
    if min(a.features, b.features) == 1.0 < max(a.features, b.features):
        return (a if a.features > b.features else b).v
    return a.v + b.v + a.v * b.v


def mul_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """G₁ = G·q₂, Gs·s₂, Gc·c₂; a broadcast gate sums over the positions it scales."""
    joint = _joint(site)
    if joint is not None:
        root, f = joint
        g = back(gradient, root, f)
        # The walk adds the two branches; the whole derivative is sent along the first operand's chain.
        site.memory["joint_gradient"] = g
        return [Gradient(NEVER)] * len(site.inputs)
    if len(site.inputs) == 1:
        return [gradient]
    a, b = site.inputs[0], _divisor(site) if site.node.op == "div" else site.inputs[1]
    out = []
    for x, other in ((a, everywhere(b, a)), (b, everywhere(a, b))):
        p = site.output.positions
        (same, apart), (others_same, others_apart) = gradient.pairs(p), other.at(1.0, p, 1.0).pairs
        c, e = gradient.c * other.c, None
        if gradient.e is not None or other.de is not None:
            e = same * others_same
            c = (e + (p - 1.0) * apart * others_apart) / p
        g = Gradient(
            gradient.log_g + other.log_q, gradient.s * other.s, c, gradient.v + other.v,
            f=gradient.f * other.m**2, last=gradient.last, e=e, lead=gradient.lead,
        )  # fmt: skip
        out.append(narrowed(g, site.output, x, 1.0, 1.0))
    if site.node.op == "div":
        out[1] = Gradient(NEVER)
    return out


def _divisor(site: Site) -> Signal:
    """1/y: exact for a y that is the same everywhere (a temperature, √d). Where y varies by a share d of its mean,
    E 1/y² = (1 + 3d²)/μ² to second order; beyond that it is a guess."""
    y = site.inputs[1]
    if y.log_q == NEVER:
        raise Unclaimed("division by zero")
    share = max(y.m * y.m, _LEAST_MEAN)
    spread = 1.0 / share - 1.0
    if spread > 0.01:
        site.doubt = max(site.doubt, min(0.5 * spread, 1.0))
    log_mean = y.log_q + math.log(share)
    log_q = math.log1p(3.0 * spread) - log_mean
    m = math.copysign(1.0 / math.sqrt(1.0 + 3.0 * spread), y.m or 1.0) * (1.0 + spread)
    return replace(y, log_q=log_q, m=max(-1.0, min(m, 1.0)))


def _joint(site: Site) -> tuple[Signal, Elementwise] | None:
    """The common root of both factors and their product as one function of it."""
    if len(site.node.inputs) != 2 or site.node.op == "div":
        return None
    (a, f), (b, g) = (_chain(site.producers[i]) for i in (0, 1))
    if a is None or b is None or a.node.id != b.node.id:
        return None
    site.memory["root"] = a.node.id
    key = ("product", f.key, g.key)
    return a.output, Elementwise(
        key,
        lambda x: f.phi(x) * g.phi(x),
        lambda x: f.slope(x) * g.phi(x) + f.phi(x) * g.slope(x),
    )


def _chain(site: Site | None) -> tuple[Site | None, Elementwise]:
    """The tensor behind a chain of elementwise operations, and the chain as one function."""
    f = IDENTITY
    for _ in range(4):
        if site is None:
            return None, f
        step = _step(site)
        if step is None or len(site.producers) != 1 or site.producers[0] is None:
            return site, f
        f = step if f.key == ("identity",) else _composed(f, step)
        site = site.producers[0]
    return site, f


def _step(site: Site) -> Elementwise | None:
    if site.node.kind == "activation":
        return elementwise(site.node.op, site.node.attributes)
    if site.node.kind == "scale":
        factor, offset = affine(site)
        return Elementwise(("affine", factor, offset), lambda x: factor * x + offset, lambda x: factor)
    return None


def _composed(outer: Elementwise, inner: Elementwise) -> Elementwise:
    return Elementwise(
        ("after", outer.key, inner.key),
        lambda x: outer.phi(inner.phi(x)),
        lambda x: outer.slope(inner.phi(x)) * inner.slope(x),
    )


MUL = Transfer(mul, mul_back)
