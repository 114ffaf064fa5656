"""Upsampling: copies of positions, blended by interpolation."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.fan import sizes
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    log,
    mapped,
)
from gradlint.graph.signal.pooling import rank
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    extent,
    is_sized,
)


def upsample(site: Site) -> Signal:
    """k copies of each position: s′ = h + (1−h)s, h = (k−1)/(P_out−1); linear interpolation averages as well."""
    x = replace(site.inputs[0], parts=())
    p_out = _upsampled(site, x)
    k = max(p_out / x.positions, 1.0)
    h = (k - 1.0) / (p_out - 1.0) if p_out > 1 else 0.0
    w = _blend(site, k)
    t = w + (1.0 - w) * x.s
    out = mapped(x, lambda d: max((d - (1.0 - t)) / t, 0.0), log_q=x.log_q + log(t), m=x.m / math.sqrt(t))
    return replace(out, ds=(1.0 - h) * out.ds, positions=p_out)


def upsample_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """G = kG′(1 + (k−1)Gs): the copies' gradients are summed."""
    x = site.inputs[0]
    k = max(_upsampled(site, x) / x.positions, 1.0)
    bracket = max(1.0 + (k - 1.0) * gradient.s, 1e-6)
    w = _blend(site, k)
    log_g = gradient.log_g + math.log(k * bracket) + math.log(w + (1.0 - w) * max(gradient.s, 0.0))
    return [replace(gradient, log_g=log_g, parts=()), *[Gradient(NEVER)] * (len(site.inputs) - 1)]


def _upsampled(site: Site, x: Signal) -> float:
    if is_sized(site.node):
        return extent(site, x)[1]
    factor = site.attribute("scale_factor", 2.0)
    return x.positions * math.prod(sizes(factor, rank(site)))


def _blend(site: Site, k: float) -> float:
    """Σ of squared interpolation weights, mean over positions: 2/3 − 1/(6k²) an axis of factor k."""
    mode = str(site.attribute("mode", "nearest"))
    dims = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}.get(mode, 0)
    if not dims or k <= 1.0:
        return 1.0
    axis = k ** (1.0 / dims)
    return float((2.0 / 3.0 - 1.0 / (6.0 * axis * axis)) ** dims)


UPSAMPLE = Transfer(upsample, upsample_back)
