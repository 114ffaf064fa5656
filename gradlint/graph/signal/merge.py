"""Where branches meet: sums (skips), products (gates), scalings and concatenations.

Sources: Hanin & Rolnick 2018 and De & Smith 2020 for the variance along residual streams; products of
independent factors multiply their moments.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.signal.activation import activate, back, merged
from gradlint.graph.signal.elementwise import Elementwise, elementwise
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log, log_sum, rescaled
from gradlint.graph.signal.transfer import GROWN_SCALE, UNCLAIMED, Site, Transfer, Unclaimed, axis_of, extent

_GROWN_ADDEND = 0.02
"""Std of a position embedding or class token that starts at zero, as grown (Devlin et al. 2019)."""
_LEAST_MEAN = 0.25
"""Least share of a divisor's mean in its second moment: what varies more may pass through zero."""
_ADDED_GUESS, _MULTIPLIED_GUESS = 0.3, 1.0
"""Decades of doubt where a tensor of unknown values is added to a signal, or multiplies it."""


def add(site: Site) -> Signal:
    """q = q₁ + q₂ + 2m₁m₂√(q₁q₂); 1 − r = Σ shareᵢ(1 − rᵢ): what the means add is common to all tokens."""
    sign = -1.0 if site.node.op == "sub" else 1.0
    if len(site.inputs) == 1:
        return site.inputs[0]
    guess(site, _ADDED_GUESS)
    whole = site.inputs[0]
    for nth, other in enumerate(site.inputs[1:], start=1):
        whole = _sum(whole, other, sign * _alpha(site), site.node.inputs[0] == site.node.inputs[nth])
    return whole


def guess(site: Site, doubt: float) -> None:
    """Doubt where some operands, but not all, are tensors of unknown values."""
    guessed = [p is not None and p.guessed for p in site.producers]
    if any(guessed) and not all(guessed):
        site.doubt = max(site.doubt, doubt)
        names = [p.node.name for p in site.producers if p is not None and p.guessed]
        site.notes.append(f"values of {', '.join(names)} unknown: a scale of 1 assumed at {site.node.name}")


def add_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """Every operand receives the gradient; a broadcast one the sum over what it was spread to."""
    out = []
    for nth, x in enumerate(site.inputs):
        g = replace(gradient, log_g=gradient.log_g + 2.0 * log(abs(_alpha(site)))) if nth else gradient
        if len(site.inputs) == 2 and site.node.inputs[0] == site.node.inputs[1]:
            g = replace(gradient, log_g=gradient.log_g + log(_twice(site)))
        out.append(narrowed(g, site.output, x, 1.0, 1.0))
    return out


def _twice(site: Site) -> float:
    """x + x reaches x twice in phase: each of the two equal edges carries half of (1 + α)²."""
    sign = -1.0 if site.node.op == "sub" else 1.0
    return 0.5 * (1.0 + sign * _alpha(site)) ** 2


def _alpha(site: Site) -> float:
    value = site.attribute("alpha", 1.0)
    return float(value) if isinstance(value, (int, float)) else 1.0


def _everywhere(x: Signal, wide: Signal) -> Signal:
    """A tensor of one position that is spread over many is the same at all of them."""
    return replace(x, ds=0.0, de=None) if x.positions == 1.0 < wide.positions else x


def _sum(a: Signal, b: Signal, factor: float, same: bool) -> Signal:
    if same:
        return rescaled(a, log((1.0 + factor) ** 2))
    a, b = _everywhere(a, b), _everywhere(b, a)
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
        gc = max(-1.0, min(ratio * g.c * c / bracket, 1.0))
    else:
        gc = g.c
    ratio = wide.batch / x.batch
    if ratio > 1.0:
        logs += math.log(ratio * max(1.0 + (ratio - 1.0) * gc, 1e-3))
    return replace(g, log_g=logs, s=gs, c=gc)


def mul(site: Site) -> Signal:
    """Independent factors: q = q₁q₂, m = m₁m₂, r = r₁r₂. Factors that are functions of one tensor
    (x·σ(x), x·x) act as one elementwise function."""
    joint = _joint(site)
    if joint is not None:
        root, f = joint
        return activate(root, f)
    if len(site.inputs) == 1:
        return site.inputs[0]
    guess(site, _MULTIPLIED_GUESS)
    a, b = site.inputs[0], _divisor(site) if site.node.op == "div" else site.inputs[1]
    wide = a if a.size >= b.size else b
    a, b = _everywhere(a, b), _everywhere(b, a)

    def mix(x: float, y: float) -> float:
        return x + y - x * y

    de = None if a.de is None and b.de is None else mix(a.same_position, b.same_position)
    return Signal(
        a.log_q + b.log_q,
        a.m * b.m,
        mix(a.ds, b.ds),
        mix(a.dc, b.dc),
        de,
        0.0,
        a.v + b.v + a.v * b.v,
        wide.batch,
        wide.positions,
        max(a.features, b.features),
    )


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
    for x, other in ((a, _everywhere(b, a)), (b, _everywhere(a, b))):
        g = Gradient(
            gradient.log_g + other.log_q, gradient.s * other.s, gradient.c * other.c, gradient.v + other.v,
            f=gradient.f * other.m**2, last=gradient.last,
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


IDENTITY = Elementwise(("identity",), lambda x: x, lambda x: 1.0, (1.0, 1.0))


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
        factor, offset = _numbers(site)
        return Elementwise(("affine", factor, offset), lambda x: factor * x + offset, lambda x: factor)
    return None


def _composed(outer: Elementwise, inner: Elementwise) -> Elementwise:
    return Elementwise(
        ("after", outer.key, inner.key),
        lambda x: outer.phi(inner.phi(x)),
        lambda x: outer.slope(inner.phi(x)) * inner.slope(x),
    )


def _numbers(site: Site) -> tuple[float, float]:
    factor, offset = site.node.attributes.get("factor"), site.node.attributes.get("offset")
    if factor is None and offset is None:
        raise Unclaimed(f"{site.node.name}: scale by an unknown number")
    return float(1.0 if factor is None else factor), float(offset or 0.0)


def scale(site: Site) -> Signal:
    """factor·x + offset: an offset is common to all elements."""
    x = site.inputs[0]
    factor, offset = _numbers(site)
    out = rescaled(x, 2.0 * log(abs(factor)))
    out = replace(out, m=math.copysign(x.m, x.m * factor)) if factor else out
    if not offset:
        return out
    constant = Signal(
        2.0 * log(abs(offset)), math.copysign(1.0, offset), 0.0, 0.0, None, 0.0, 0.0, x.batch, x.positions, x.features
    )
    return _sum(replace(out, parts=()), constant, 1.0, False)


def scale_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """G·factor²."""
    factor, _ = _numbers(site)
    shift = 2.0 * log(abs(factor))
    parts = tuple(replace(p, log_g=p.log_g + shift) for p in gradient.parts)
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    return [replace(gradient, log_g=gradient.log_g + shift, parts=parts), *rest]


def cat(site: Site) -> Signal:
    """Along the features: shares by width, the parts kept; along positions: shares by length."""
    if len(site.inputs) == 1:
        return site.inputs[0]
    batch = max(x.batch for x in site.inputs)
    first = replace(site.inputs[0], batch=batch)
    if _along_features(site):
        parts = tuple(part for x in site.inputs for part in (x.parts or (x,)))
        site.memory["counts"] = [max(len(x.parts), 1) for x in site.inputs]
        return merged(parts, first)
    flat = [replace(x, features=x.positions, parts=()) for x in site.inputs]
    whole = merged(tuple(flat), first)
    positions = sum(x.positions for x in site.inputs)
    return replace(whole, parts=(), positions=positions, features=first.features)


def cat_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """Each operand gets its own part."""
    counts = site.memory.get("counts")
    if not counts or not gradient.parts or len(gradient.parts) != sum(counts):
        return [replace(gradient, parts=())] * len(site.inputs)
    out, start = [], 0
    for x, count in zip(site.inputs, counts, strict=True):
        own = gradient.parts[start : start + count]
        start += count
        if count == 1:
            out.append(own[0])
            continue
        width = sum(p.features for p in x.parts)
        logs = [g.log_g + math.log(p.features / width) for g, p in zip(own, x.parts, strict=True)]
        out.append(replace(gradient, log_g=log_sum(*logs), parts=own))
    return out


def _along_features(site: Site) -> bool:
    where = axis_of(site, "dim")
    if site.node.op == "stack":
        return False
    if where == "unknown":
        shape = extent(site, site.inputs[0])
        return shape[2] != site.inputs[0].features or site.node.shape is None
    return where == "feature"


def parameter(site: Site) -> Signal:
    """A parameter used as a tensor (position embedding, class token, LayerScale): the same for all samples.

    As grown, a gate below the scale of LayerScale is 1, and an addend of zeros has the usual 0.02.
    """
    law = site.law("weight")
    if law is None or law.std is None or law.distribution in UNCLAIMED:
        known = next((site.law(r) for r in site.node.parameters if site.law(r)), None)
        if known is None or known.std is None or known.distribution in UNCLAIMED:
            if site.node.op == "buffer":
                return _guess(site)
            raise Unclaimed(f"values of {site.node.name} unknown")
        law = known
    mean, std = law.mean or 0.0, law.std or 0.0
    if site.grown and std == 0.0 and abs(mean) < GROWN_SCALE:
        mean, std = (1.0, 0.0) if mean or scales(site.graph, site.node) else (0.0, _GROWN_ADDEND)
    return _fixed(site, mean, std)


def scales(graph: ModelGraph, node: Node) -> bool:
    """Whether a parameter multiplies a signal (ReZero, LayerScale, a gated branch), maybe past a function of it."""
    users = [graph.nodes[i] for i in graph.consumers[node.id]]
    past = [
        graph.nodes[i] for u in users if u.kind in ("activation", "reshape", "scale") for i in graph.consumers[u.id]
    ]
    return any(u.kind == "mul" for u in (*users, *past))


def _fixed(site: Site, mean: float, std: float) -> Signal:
    """A tensor of this mean and std that all samples share, unlike at different positions."""
    q = mean * mean + std * std
    _, positions, features = extent(site, Signal(0.0, batch=1.0))
    share = mean * mean / q if q else 1.0
    m = math.copysign(math.sqrt(share), mean) if q else 0.0
    return Signal(
        log(q), m, 1.0 - share, (1.0 - share) * (1.0 - 1.0 / positions), 0.0, 0.0, 0.0, 1.0, positions, features
    )


def _guess(site: Site) -> Signal:
    site.guessed = True
    return _fixed(site, 0.0, 1.0)


def constant(site: Site) -> Signal:
    """A number; noise of a known law; a fixed tensor of unknown values, for which a scale of 1 stands."""
    value, std = site.attribute("value"), site.attribute("std")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Signal(2.0 * log(abs(value)), math.copysign(1.0, value) if value else 0.0, 0.0, 0.0)
    if isinstance(std, (int, float)):
        mean = float(site.attribute("mean", 0.0))
        like = Signal(0.0, batch=float(site.batch_size) if site.node.batch_axis is not None else 1.0)
        n, p, features = extent(site, like)
        q = mean * mean + std * std
        share = mean * mean / q if q else 1.0
        m = math.copysign(math.sqrt(share), mean) if q else 0.0
        return Signal(log(q), m, 1.0 - share, 1.0 - share, batch=n, positions=p, features=features)
    return _guess(site)


def nothing(site: Site, gradient: Gradient) -> list[Gradient]:
    """No operand."""
    return [Gradient(NEVER)] * len(site.inputs)


ADD, MUL, SCALE = Transfer(add, add_back), Transfer(mul, mul_back), Transfer(scale, scale_back)
CAT = Transfer(cat, cat_back)
PARAMETER, CONSTANT = Transfer(parameter, nothing), Transfer(constant, nothing)
