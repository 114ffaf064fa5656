"""Reductions over positions, features or samples: mean, sum, variance, norm, extremes."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.maximum import maximum
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    mapped,
)
from gradlint.graph.signal.pooling import average, spread
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
    extent,
)

_EXTREME_DOUBT = 0.3
"""Decades that the order statistics of correlated elements may be off."""


def reduce(site: Site) -> Signal:
    """A mean or sum over positions, features or samples, or the variance, std, norm or extreme of them."""
    x = replace(site.inputs[0], parts=())
    op = site.node.op
    k_b, k_p, k_n = _reduced(site, x)
    if op in ("var", "std", "norm"):
        return _spread_of(site, x, k_b, k_p, k_n)
    if op in ("amax", "amin"):
        return _extreme(site, x, k_p, k_n)
    if op not in ("mean", "sum"):
        raise Unclaimed(op)
    out = average(x, k_p) if k_p > 1.0 else x
    out = replace(out, positions=x.positions / k_p)
    if k_n > 1.0:
        common = min(out.m * out.m + out.f, 1.0)
        t = 1.0 / k_n + (1.0 - 1.0 / k_n) * common
        out = mapped(
            out, lambda d: min(d / (k_n * t), 2.0), log_q=out.log_q + math.log(t), m=out.m / math.sqrt(t), f=0.0,
            features=x.features / k_n,
        )  # fmt: skip
        out = replace(out, m=max(-1.0, min(1.0, out.m)))
    if k_b > 1.0:
        t = max(1.0 - (1.0 - 1.0 / k_b) * out.same_position, 1e-30)
        apart = out.ds + (out.dc - out.ds) * (1.0 - 1.0 / k_b)
        out = replace(
            out, log_q=out.log_q + math.log(t), m=max(-1.0, min(1.0, out.m / math.sqrt(t))),
            ds=min(max((apart - (1.0 - 1.0 / k_b) * out.same_position) / t, 0.0), 2.0), dc=0.0, de=None, batch=1.0,
        )  # fmt: skip
    if op == "sum":
        out = replace(out, log_q=out.log_q + 2.0 * math.log(k_b * k_p * k_n))
    return out


def _spread_of(site: Site, x: Signal, k_b: float, k_p: float, k_n: float) -> Signal:
    """Variance, std or 2-norm over k elements: near its mean, off by √(2/k) of it (√(1/2k) for a root)."""
    k = k_b * k_p * k_n
    if k <= 1.0:
        raise Unclaimed(f"{site.node.op} of a single element")
    common = 1.0
    if k_n > 1.0:
        common *= min(x.m * x.m + x.f, 1.0)
    elif k_b > 1.0:
        common *= max(x.c, 0.0)
    elif k_p > 1.0:
        common *= max(x.s, 0.0)
    kept = max(1.0 - common, 1e-12) if site.node.op != "norm" else k
    log_mean = (x.log_q + math.log(kept)) * (1.0 if site.node.op == "var" else 0.5)
    spread = (2.0 if site.node.op == "var" else 0.5) / k
    m = 1.0 / math.sqrt(1.0 + spread)
    site.doubt = min(spread, 0.3)
    return Signal(
        2.0 * log_mean + math.log1p(spread), m, spread / (1.0 + spread), spread / (1.0 + spread), None, 0.0, 0.0,
        x.batch / k_b, x.positions / k_p, x.features / k_n,
    )  # fmt: skip


def _extreme(site: Site, x: Signal, k_p: float, k_n: float) -> Signal:
    """The largest or smallest of k Gaussians, by order statistics."""
    k = min(k_p * k_n, 4096.0)
    if k <= 1.0:
        return x
    site.doubt = _EXTREME_DOUBT
    out = maximum(site, x, k, x.positions / k_p)
    m = -out.m if site.node.op == "amin" else out.m
    return replace(out, m=m, features=x.features / k_n)


def reduce_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """A mean over k spreads G/k² to each; a sum spreads G; an extreme gives it to the winner; of a variance and the
    like little flows back, ∂v/∂x = 2x/k."""
    x = site.inputs[0]
    op = site.node.op
    k_b, k_p, k_n = _reduced(site, x)
    k = k_b * k_p * k_n
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if op in ("var", "std", "norm"):
        y = site.output
        slope = math.log(4.0) + x.log_q - 2.0 * math.log(k) if op == "var" else -math.log(k)
        if op == "norm":
            slope = x.log_q - y.log_q
        return [Gradient(gradient.log_g + slope, gradient.s * x.s, gradient.c * x.c, gradient.v), *rest]
    if op in ("amax", "amin"):
        return [replace(gradient, log_g=gradient.log_g - math.log(k), s=gradient.s / k, parts=()), *rest]
    g = spread(gradient, x, k_p, x.positions / k_p) if k_p > 1.0 else gradient
    g = replace(g, log_g=g.log_g - 2.0 * math.log(k_n * k_b), f=1.0 if k_n > 1.0 else g.f)
    if k_b > 1.0:
        g = replace(g, c=1.0)
    if op == "sum":
        g = replace(g, log_g=g.log_g + 2.0 * math.log(k))
    return [g, *rest]


def _reduced(site: Site, x: Signal) -> tuple[float, float, float]:
    """How many samples, positions and features become one."""
    if site.node.shape is None:
        return (1.0, x.positions, 1.0) if x.positions > 1 else (1.0, 1.0, 1.0)
    source = site.graph.nodes[site.node.inputs[0]]
    dims = site.attribute("dim")
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    k_b = k_n = 1.0
    if source.shape:
        rank = len(source.shape)
        axes = {d % rank for d in dims if isinstance(d, int)} or set(range(rank))
        if source.feature_axis is not None and source.feature_axis % rank in axes:
            k_n = x.features
        if source.batch_axis is not None and source.batch_axis % rank in axes:
            k_b = x.batch
        if k_b > 1.0 and axes == set(range(rank)):
            return k_b, x.positions, x.features
    total = x.positions * x.features
    _, p, n = extent(site, x)
    whole = max(total / (p * n), 1.0)
    return k_b, max(whole / k_n, 1.0), k_n


REDUCE = Transfer(reduce, reduce_back)
