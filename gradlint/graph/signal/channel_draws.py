"""Draws through operations on each channel by itself: batch norms and depthwise convolutions.

Branches of one channel that are summed (Vasu et al. 2023; Ding et al. 2021) are functions of the same values: what they
add up to is no Gaussian, and what a later rectifier lets through is alike to what the earlier one did.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.fan import Fan
from gradlint.graph.signal.latin import fitted, gaussian, normal
from gradlint.graph.signal.moments import Draws, Gradient, Weights
from gradlint.graph.signal.transfer import Site

_ONE_MEAN = 0.05
"""Two samples share no more than this beyond the mean of all channels: every channel has that mean."""


def channel_base(site: Site) -> Site | None:
    """The tensor whose channels a batch norm reads, one each: directly, or through a depthwise convolution."""
    source = site.producers[0] if site.producers else None
    laws = [law for role in ("weight", "bias") if (law := site.law(role)) is not None]
    if source is None or site.attribute("training", True) is False or any(law.std != 0.0 for law in laws):
        return None
    fan, drawn = _fan(source), source.law()
    if site.output.parts or (fan is not None and (fan.n_in, fan.n_out) != (1.0, 1.0)):
        return None
    if fan is not None and (drawn is None or not drawn.std or drawn.mean):
        return None
    return source if fan is None else source.producers[0]


def channel_share(site: Site) -> float:
    """Mean share of a channel's energy that is left of one value where a batch norm reads it: 1/F of F taps."""
    fan = _fan(site.producers[0]) if site.producers else None
    return 1.0 / fan.fan_in if fan is not None else 1.0


def _fan(source: Site | None) -> Fan | None:
    return source.memory.get("fan") if source is not None and source.node.kind == "conv" else None


def normalised(site: Site, inner: Draws) -> Draws | None:
    """What a batch norm makes of channels that are alike but for their scale: (x − μ)/σ, shape kept.

    Of a depthwise convolution it makes u₀·x̂ + √(1 − u₀²)·n with u₀ the share of the middle tap in the channel's F
    weights, ±1 where that is the only one; the sum over the other taps is taken to be Gaussian.
    """
    source, base = site.producers[0], channel_base(site)
    if source is None or base is None:
        return None
    fan = _fan(source)
    x = base.output
    if inner.uneven or abs(x.c - x.m * x.m) > _ONE_MEAN or x.m * x.m > 1.0 - _ONE_MEAN:
        return None
    mean, spread = x.m * math.exp(0.5 * (x.log_q - inner.log_unit)), math.sqrt(1.0 - x.m * x.m)
    scale = spread * math.exp(0.5 * (x.log_q - inner.log_unit))
    rows = [[(v - mean) / scale for v in row] for row in inner.rows]
    if fan is not None:
        source.memory["channelwise"] = True
        shares = _middle_shares(fan.fan_in, site.node.id)
        rest = gaussian(replace(site.output, m=0.0), 7 * site.node.id).rows
        rows = [
            [u * v + math.sqrt(1.0 - u * u) * w for u, v, w in zip(shares, row, own, strict=True)]
            for row, own in zip(rows, rest, strict=True)
        ]
    return fitted(rows, site.output, fan is not None)


def _middle_shares(count: float, key: int) -> list[float]:
    """Draws of one of `count` normal weights over the norm of all of them, χ² by Wilson & Hilferty (1931)."""
    own = normal(3 * key + 1)
    if count <= 1.0:
        return [math.copysign(1.0, w) for w in own]
    k = count - 1.0
    others = [k * max(1.0 - 2.0 / (9.0 * k) + z * math.sqrt(2.0 / (9.0 * k)), 0.0) ** 3 for z in normal(3 * key + 2)]
    return [w / math.sqrt(w * w + c) for w, c in zip(own, others, strict=True)]


def shifted(weights: Weights | None, s: float, c: float) -> Weights | None:
    """The weights of a gradient whose correlations have changed by `s` and `c` for a reason that all draws share."""
    if weights is None:
        return None
    s, c = s / weights.scale, c / weights.scale
    return replace(weights, across=[x + s for x in weights.across], between=[x + c for x in weights.between])


def diluted(gradient: Gradient, share: float) -> Weights | None:
    """The weights of a gradient of which only this share stays with the draws."""
    given, rest = gradient.weights, 1.0 - share
    if given is None:
        return None
    even = rest / given.scale
    return Weights(
        given.scale,
        [share * x + even for x in given.square],
        [share * x + even * gradient.s for x in given.across],
        [share * x + even * gradient.c for x in given.between],
    )
