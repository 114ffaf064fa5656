"""Normalisation layers: what is common is subtracted, what is left is divided by its own scale.

Source: Yang et al. 2019 (batch norm, §3; the gradient grows √(π/(π−1)) a layer before ReLU), Xu et al. 2019
for the backward pass of layer norm, Zhang & Sennrich 2019 for RMS norm.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.channel_draws import shifted
from gradlint.graph.signal.concat import joined, merged
from gradlint.graph.signal.layout import last_axis, thinned, traded, traded_back
from gradlint.graph.signal.moments import NEVER, Gradient, Lead, Signal, log, log_sum, mapped
from gradlint.graph.signal.transfer import GROWN_SCALE, UNCLAIMED, Site, Transfer, Unclaimed

_LEAST = 1e-9
"""Least share of a gradient that a normalisation passes, against cancellation in the closed forms."""


def forward(site: Site) -> Signal:
    """The normalised signal, times γ, plus β."""
    x = _read(site)
    if site.node.op == "batch_norm" and x.parts and _training(site):
        parts = tuple(_affine(site, _normalise(site, p)) for p in x.parts)
        return merged(parts, x)
    real = _real_tokens(site)
    if real < 1.0:
        return thinned(_affine(site, _normalise(site, thinned(x, 1.0 / real))), real)
    return _affine(site, _normalise(site, replace(x, parts=())))


def backward(site: Site, gradient: Gradient) -> list[Gradient]:
    """The gradient loses its mean and its component along the output, and is divided by the scale."""
    x = site.inputs[0]
    inner = replace(gradient, log_g=gradient.log_g + log(_scale(site) ** 2))
    if site.producers and site.producers[0] is not None:
        site.producers[0].memory["behind_norm"] = inner
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if gradient.zero or inner.zero:
        return [Gradient(NEVER), *rest]
    if site.node.op == "batch_norm" and x.parts and _training(site):
        given = gradient.parts or (gradient,) * len(x.parts)
        shift = log(_scale(site) ** 2)
        parts = tuple(
            _unnormalise(site, p, replace(g, log_g=g.log_g + shift, parts=()))
            for p, g in zip(x.parts, given, strict=True)
        )
        return [joined(parts, x), *rest]
    read, real = _read(site), _real_tokens(site)
    onto = _unnormalise(site, thinned(read, 1.0 / real) if real < 1.0 else replace(read, parts=()), inner)
    if site.node.op == "batch_norm":
        onto = replace(onto, weights=shifted(inner.weights, onto.s - inner.s, onto.c - inner.c))
    return [onto if read is x else traded_back(onto, x), *rest]


def _read(site: Site) -> Signal:
    """The operand as the norm reads it: layer norm along the last axis, whatever lies there."""
    x = site.inputs[0]
    sizes = last_axis(site) if site.node.op in ("layer_norm", "rms_norm") else None
    return x if sizes is None else traded(x, *sizes)


def _real_tokens(site: Site) -> float:
    """Share of the tokens of a norm over each that are not the zeros of a pad, which stay zeros."""
    producer = site.producers[0] if site.producers else None
    if site.node.op not in ("layer_norm", "rms_norm") or _shift(site) != (0.0, 0.0):
        return 1.0
    while producer is not None and producer.node.kind == "reshape" and producer.inputs and producer.producers:
        if producer.node.op == "pad":
            zeros = not producer.attribute("value") and producer.attribute("mode", "constant") == "constant"
            before, after = producer.inputs[0], producer.output
            tokens = zeros and before.features == after.features
            return min(before.positions / after.positions, 1.0) if tokens else 1.0
        producer = producer.producers[0]
    return 1.0


def _training(site: Site) -> bool:
    return site.attribute("training", True) is not False


def _epsilon(site: Site) -> float:
    value = site.attribute("eps", 1e-5)
    return float(value) if isinstance(value, (int, float)) else 1e-5


def _scale(site: Site) -> float:
    """Root mean square of γ."""
    law = site.law("weight") if site.has("weight") else None
    if law is None:
        return 1.0
    if law.distribution in UNCLAIMED or law.origin == "pretrained":
        raise Unclaimed(f"{site.node.name}: scale comes from a checkpoint")
    gamma = math.hypot(law.mean or 0.0, law.std or 0.0)
    return 1.0 if site.grown and gamma < GROWN_SCALE else gamma


def _shift(site: Site) -> tuple[float, float]:
    law = site.law("bias") if site.has("bias") else None
    return (0.0, 0.0) if law is None else (law.mean or 0.0, law.std or 0.0)


def _affine(site: Site, x: Signal) -> Signal:
    gamma = _scale(site)
    mean, std = _shift(site)
    scaled = replace(x, log_q=x.log_q + log(gamma * gamma))
    if mean == 0.0 and std == 0.0:
        return scaled
    log_q = log_sum(scaled.log_q, log(mean * mean + std * std))
    share = math.exp(scaled.log_q - log_q)
    m = x.m * math.sqrt(share) + mean / math.exp(0.5 * log_q)
    return mapped(scaled, lambda d: share * d, log_q=log_q, m=max(-1.0, min(1.0, m)))


def group(site: Site, x: Signal) -> tuple[float, float, float]:
    """(share of E[x²] that is common and subtracted, channels and positions that share one mean)."""
    op, p, n = site.node.op, x.positions, x.features
    if op == "instance_norm":
        return (1.0 + (p - 1.0) * x.s) / p, 1.0, p
    if op == "group_norm":
        groups = float(site.attribute("num_groups", 1))
        c = max(n / groups, 1.0)
        return (1.0 + (p - 1.0) * x.s + (c - 1.0) * p * (x.m * x.m + x.f)) / (c * p), c, p
    shape = site.attribute("normalized_shape", ())
    spans = float(math.prod(shape)) if isinstance(shape, (list, tuple)) and shape else n
    p = max(spans / n, 1.0)
    return (1.0 + (p - 1.0) * x.s + (n - 1.0) * p * (x.m * x.m + x.f)) / (n * p), n, p


def _normalise(site: Site, x: Signal) -> Signal:
    op, epsilon = site.node.op, math.log(max(_epsilon(site), 1e-300))
    if x.log_q == NEVER:
        return x
    if op == "local_response_norm":
        return replace(x, log_q=x.log_q + _response(site, x))
    if op == "normalize":
        return replace(x, log_q=-math.log(_spanned(site, x)), v=0.0)
    if op == "rms_norm":
        return replace(x, log_q=x.log_q - log_sum(x.log_q, epsilon), v=0.0, lead=None)
    if op == "batch_norm":
        if not _training(site):
            return x
        kept = x.kept
        if kept <= 0.0:  # one value per channel, or every sample alike
            return replace(x, log_q=NEVER)
        log_v = x.log_q + math.log(kept)
        return mapped(x, lambda d: d / kept, log_q=log_v - log_sum(log_v, epsilon), m=0.0, v=0.0, f=0.0)
    if op not in ("layer_norm", "group_norm", "instance_norm"):
        raise Unclaimed(op)
    common, channels, _ = group(site, x)
    kept = max(1.0 - common, 1e-30)
    log_v = x.log_q + math.log(kept)
    # What is subtracted: two samples share the means of the features (m²) and 1/channels of the rest.
    across = 1.0 / channels
    shared = x.m * x.m + x.f
    other = 1.0 if op == "instance_norm" else min(1.0 - (1.0 - across) * ((1.0 - x.dc) - x.m * x.m) / kept, 2.0)
    same = None if x.de is None else min(1.0 - (1.0 - across) * ((1.0 - x.de) - x.m * x.m) / kept, 2.0)
    within = min(x.ds / max(1.0 - shared, 1e-30), 2.0) if op == "layer_norm" else min(x.ds / kept, 2.0)
    if op == "layer_norm":
        other, same = (
            min(x.dc / max(1.0 - shared, 1e-30), 2.0),
            (None if x.de is None else min(x.de / max(1.0 - shared, 1e-30), 2.0)),
        )
    return replace(
        x, log_q=log_v - log_sum(log_v, epsilon), m=0.0, ds=within, dc=max(other, 0.0), de=same, f=0.0, v=0.0, lead=None
    )


def _spanned(site: Site, x: Signal) -> float:
    """Elements that share one norm: those along `dim`."""
    source = site.graph.nodes[site.node.inputs[0]]
    dim, shape = site.attribute("dim"), source.shape
    width = shape[dim] if isinstance(dim, int) and shape and -len(shape) <= dim < len(shape) else None
    return float(width or x.features)


def _response(site: Site, x: Signal) -> float:
    """ln of (k + α·E[x²])^(−2β): local response norm divides by the mean square over a few channels."""
    alpha, beta, k = (float(site.attribute(a, d)) for a, d in (("alpha", 1e-4), ("beta", 0.75), ("k", 1.0)))
    return -2.0 * beta * log_sum(log(k), log(alpha) + x.log_q)


def _unnormalise(site: Site, x: Signal, g: Gradient) -> Gradient:
    op, epsilon = site.node.op, math.log(max(_epsilon(site), 1e-300))
    if x.log_q == NEVER:
        return replace(g, log_g=g.log_g - epsilon)
    if op == "local_response_norm":
        return replace(g, log_g=g.log_g + _response(site, x))
    if op == "normalize":
        n = _spanned(site, x)
        return replace(g, log_g=g.log_g - x.log_q + log(1.0 - 1.0 / n) - math.log(n))
    if op == "rms_norm":
        kept = max(1.0 - 1.0 / x.features, 1e-30)
        g = _by_token(x, g, math.exp(min(epsilon - log_sum(x.log_q, epsilon), 0.0)))
        return replace(g, log_g=g.log_g + math.log(kept) - log_sum(x.log_q, epsilon), v=g.v + x.v)
    if op == "batch_norm":
        if not _training(site):
            return g
        return _unbatch(x, g, epsilon)
    common, channels, p = group(site, x)
    log_v = x.log_q + log(max(1.0 - common, 1e-30))
    if op == "layer_norm":
        g = _by_token(x, g, math.exp(epsilon - log_sum(log_v, epsilon)))
    # Where ε outweighs the variance the layer is a mere scale: nothing along the output is removed.
    whole = math.exp(log_v - log_sum(log_v, epsilon))
    size = channels * p
    s = site.output.s if op == "instance_norm" else 0.0
    a = max(1.0 + (p - 1.0) * g.s, 0.0) / size
    b = whole * max(1.0 + (p - 1.0) * g.s * s, 0.0) / size
    left = max(1.0 - a - b, _LEAST)
    # E[1/V] of a sample variance over the group, as in `_unbatch`.
    freedom = max(size - 1.0, 4.0)
    log_g = g.log_g + math.log(left * freedom / (freedom - 2.0)) - log_sum(log_v, epsilon)
    if op == "instance_norm":
        return replace(g, log_g=log_g, s=(g.s - a - b * s) / left, v=g.v + x.v)
    return replace(g, log_g=log_g, v=g.v + x.v)


def _by_token(x: Signal, g: Gradient, floor: float) -> Gradient:
    """Each token is divided by its own scale: a class token that starts near zero receives the most. `floor`: ε over
    the mean variance and ε."""
    if x.lead is None:
        return g
    row = x.lead.row
    (first, other), (given, rest) = x.lead.kinds, g.lead.kinds if g.lead else (1.0, 1.0)
    given /= max((1.0 - floor) * first + floor, 1e-30)
    rest /= max((1.0 - floor) * other + floor, 1e-30)
    mean = (given + (row - 1.0) * rest) / row
    if mean <= 0.0:
        return g
    lead = Lead(log(given / mean), row, g.lead.across if g.lead else 1.0)
    alike = g.s / max(g.lead.pairs, 1e-12) if g.lead else g.s
    return replace(g, log_g=g.log_g + math.log(mean), s=min(alike, 1.0) * lead.pairs, lead=lead)


def _unbatch(x: Signal, g: Gradient, epsilon: float) -> Gradient:
    """G = κ(G − a − b) with a the mean and b the component along x̂ over N·P; Gs, Gc lose them too.

    Each channel divides by its own sample variance: E[1/V] = (1/E V)·d/(d − 2) for d degrees of freedom,
    d = M/(1 + (P−1)s′² + (N−1)P c′²), which is N − 1 for a plain batch.
    """
    n, p = x.batch, x.positions
    size = n * p
    kept = x.kept
    if kept <= 0.0:
        return Gradient(NEVER)
    log_v = x.log_q + math.log(kept)
    s, c, e = (1.0 - d / kept for d in (x.ds, x.dc, x.same_position))
    d = (p * c - e) / (p - 1.0) if p > 1.0 else c
    given_e, given_d = g.pairs(p)
    whole = math.exp(log_v - log_sum(log_v, epsilon))
    a = max(1.0 + (p - 1.0) * g.s + (n - 1.0) * p * g.c, 0.0) / size
    aligned = (n - 1.0) * (given_e * e + (p - 1.0) * given_d * d)
    b = whole * max(1.0 + (p - 1.0) * g.s * s + aligned, 0.0) / size
    left = max(1.0 - a - b, _LEAST)
    freedom = max(size / (1.0 + (p - 1.0) * s * s + (n - 1.0) * (e * e + (p - 1.0) * d * d)), 4.0)
    told_apart = p > 1.0 and (g.e is not None or x.de is not None)
    return Gradient(
        g.log_g + math.log(left) + math.log(freedom / (freedom - 2.0)) - log_sum(log_v, epsilon),
        (g.s - a - b * s) / left,
        (g.c - a - b * c) / left,
        g.v + x.v,
        e=(given_e - a - b * e) / left if told_apart else None,
    )


NORMALIZATION = Transfer(forward, backward)
