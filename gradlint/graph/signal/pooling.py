"""Average pools, and the windows that pools of every kind share."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from gradlint.graph.signal.fan import image_of, sizes
from gradlint.graph.signal.maximum import maximum, maximum_back
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    log,
    mapped,
)
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
    extent,
    is_sized,
)

_LARGE = 64
"""Windows along an axis beyond which hardly any two meet."""


def pool(site: Site) -> Signal:
    """Average over k: t = 1/k + (1−1/k)s; q′ = q·t, 1 − r′ = ((1−r) − (1−1/k)(1−s))/t. Maximum: see `_maximum`."""
    x = replace(site.inputs[0], parts=())
    op = site.node.op
    k, p_out = _window(site, x)
    if "max" in op:
        k, overlap = _inside(site, k, p_out)
        return maximum(site, site.inputs[0], k, p_out, overlap)
    if "avg" not in op:
        raise Unclaimed(op)
    return replace(average(x, k), positions=p_out)


def average(x: Signal, k: float) -> Signal:
    """The mean of k positions: of the k² pairs that two samples have in one window, k are at one position.

    Positions of one sample are taken to be at least as alike as those of two: a mean over many would else come out
    the same for all samples by a rounding error."""
    kept = (1.0 - 1.0 / k) * x.ds
    t = max(1.0 - kept, 1e-30)
    kept = (1.0 - 1.0 / k) * min(x.ds, x.dc)
    out = mapped(x, lambda d: max((d - kept) / t, 0.0), log_q=x.log_q + math.log(t))
    de = None
    if x.de is not None and x.positions > k:
        same, other = x.pairs
        de = max(1.0 - (same + (k - 1.0) * other) / (k * t), 0.0)
    return replace(out, m=max(-1.0, min(1.0, x.m / math.sqrt(t))), de=de)


def pool_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """Average: G = (G′/k²)·(k P_out/P_in), Gs = h + (1−h)Gs with h = (k−1)/(P_in−1). Maximum: one winner gets all."""
    x = site.inputs[0]
    k, p_out = _window(site, x)
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if gradient.zero:
        return [gradient, *rest]
    if "max" in site.node.op:
        k, _ = _inside(site, k, p_out)
        return [maximum_back(site, gradient, k, p_out), *rest]
    return [spread(gradient, x, k, p_out), *rest]


def spread(gradient: Gradient, x: Signal, k: float, p_out: float) -> Gradient:
    """The gradient of positions that were averaged k at a time."""
    h = min((k - 1.0) / (x.positions - 1.0), 1.0) if x.positions > 1 else 0.0
    times = k * p_out / x.positions  # windows that hold one position
    overlap = 1.0 + max(times - 1.0, 0.0) * gradient.s
    log_g = gradient.log_g + log(times / (k * k) * overlap)
    same, other = gradient.pairs(p_out)
    e = None if gradient.e is None else (same + (k - 1.0) * other) / k if times > 1.0 else same
    return replace(
        gradient, log_g=log_g, s=h + (1.0 - h) * gradient.s, e=e if p_out > 1.0 else None, parts=(), last=False
    )


def _window(site: Site, x: Signal) -> tuple[float, float]:
    """(positions under one window, positions out)."""
    p_out = extent(site, x)[1] if is_sized(site.node) else None
    if "adaptive" in site.node.op or site.attribute("kernel_size") is None:
        if p_out is None:
            size = site.attribute("output_size", 1)
            p_out = math.prod(sizes(size, 2)) if isinstance(size, (list, tuple)) else float(size) ** 2
        return max(x.positions / p_out, 1.0), p_out
    dims = int(site.node.op[-2]) if site.node.op[-2:-1].isdigit() else rank(site)
    kernel = sizes(site.attribute("kernel_size"), dims)
    stride = sizes(site.attribute("stride") or site.attribute("kernel_size"), dims)
    if p_out is None:
        p_out = max(x.positions / math.prod(stride), 1.0)
    return min(math.prod(kernel), max(x.positions, 1.0)), p_out


def _inside(site: Site, k: float, p_out: float) -> tuple[float, float]:
    """(positions of the image under one window, share of them that two windows have in common), on average."""
    dims = int(site.node.op[-2]) if site.node.op[-2:-1].isdigit() else rank(site)
    image, shape = image_of(site, dims), site.node.shape
    if image is None or shape is None or site.attribute("kernel_size") is None or not is_sized(site.node):
        return k, 0.0
    kernel = sizes(site.attribute("kernel_size"), dims)
    stride = sizes(site.attribute("stride") or site.attribute("kernel_size"), dims)
    padding = sizes(site.attribute("padding", 0), dims, 0.0)
    inside = common = 1.0
    for side, out, *window in zip(image, shape[-dims:], kernel, stride, padding, strict=True):
        own, shared = _axis(side, float(out or 1), *window)
        inside, common = inside * own, common * shared
    images = max(p_out / math.prod(float(n or 1) for n in shape[-dims:]), 1.0)
    count = p_out / images
    apart = max(count * common - inside, 0.0) / max(count - 1.0, 1.0)
    overlap = apart / max(2.0 * inside - apart, 1e-9) / images
    return max(inside, 1.0), min(overlap, 1.0)


@lru_cache(maxsize=256)
def _axis(side: float, out: float, kernel: float, stride: float, padding: float) -> tuple[float, float]:
    """Mean length along one axis of a window inside the image, and of what two windows have in common."""
    if out > _LARGE:
        return kernel, min(kernel * kernel / (stride * out), kernel)
    ends = [(max(i * stride - padding, 0.0), min(i * stride - padding + kernel, side)) for i in range(int(out))]
    common = sum(max(min(b, d) - max(a, c), 0.0) for a, b in ends for c, d in ends)
    return sum(b - a for a, b in ends) / out, common / out**2


def rank(site: Site) -> int:
    shape = site.node.shape
    return max(len(shape) - 2, 1) if shape is not None else 2


POOL = Transfer(pool, pool_back)
