"""Linear and convolution layers: sums of independent weights.

Source: He et al. 2015 (eq. 7 and 13) for the scales; Schoenholz et al. 2017 for correlations; Xiao et al.
2018 (§2.2) for convolutions, where a scalar per tensor stands for the map over positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from gradlint.graph.model import Node
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log, log_sum, mapped
from gradlint.graph.signal.transfer import NOMINAL_WIDTH, Site, Transfer, bias_moments, weight_moments


@dataclass(frozen=True)
class Fan:
    """How inputs meet outputs: `n_in` channels per group, `taps` of the kernel, `n_out` channels per group,
    `channels` out in all; `inbound` share of taps that lie inside the padded image; `stride` product of strides;
    `p_in`, `p_out` positions; `pairs` = Σ over outputs of taps inside / p_out."""

    n_in: float
    n_out: float
    channels: float
    taps: float
    inbound: float
    stride: float
    p_in: float
    p_out: float

    @property
    def fan_in(self) -> float:
        """Weights that feed one output element."""
        return self.n_in * self.taps


def forward(site: Site) -> Signal:
    """q′ = fan·σ_w²·pad·q + σ_b² (+ μ_w² terms); 1 − r′ = (fan σ_w² pad q / q′)(1 − r) for r in s and c."""
    x = site.inputs[0]
    fan = site.memory["fan"] = _fan(site, x)
    variance, mean = weight_moments(site, "weight", fan.fan_in)
    bias_variance, bias_mean = bias_moments(site)
    transposed = site.node.kind == "conv_transpose"
    meets = fan.fan_in * fan.inbound * (fan.p_in / fan.p_out if transposed else 1.0)
    spread = log(meets * variance) + x.log_q
    # Weights of mean μ add μ·Σx to every output alike (constant or positive inits).
    together = log(meets * mean * mean * max(1.0 + (meets - 1.0) * (x.m * x.m + x.f), 0.0)) + x.log_q
    bias = log(bias_variance + bias_mean**2)
    log_q = log_sum(spread, together, bias)
    out = replace(x, parts=(), f=0.0, features=fan.channels, positions=fan.p_out)
    if log_q == NEVER:
        return replace(out, log_q=NEVER, m=0.0, v=0.0)
    moving = math.exp(log_sum(spread, together) - log_q)
    common = log_sum(together, log(bias_mean**2))
    m = math.copysign(math.exp(0.5 * (common - log_q)), bias_mean + mean * (x.m or 1.0)) if common != NEVER else 0.0
    if transposed and fan.stride > 1.0:
        # Two outputs share weights only if they have the same phase within the stride.
        same = 1.0 / fan.stride
        return mapped(out, lambda d: moving * (1.0 - same * (1.0 - d)), log_q=log_q, m=m, v=moving**2 * x.v)
    return mapped(out, lambda d: moving * d, log_q=log_q, m=m, v=moving**2 * x.v)


def backward(site: Site, gradient: Gradient) -> list[Gradient]:
    """G = n_out·taps·σ_w²·pad·(P_out/P_in)·G′; a stride leaves two positions the same weights in one pair
    out of `stride`, so Gs is divided by it."""
    fan: Fan = site.memory["fan"]
    variance, mean = weight_moments(site, "weight", fan.fan_in)
    transposed = site.node.kind == "conv_transpose"
    meets = fan.n_out * fan.taps * fan.inbound * (1.0 if transposed else fan.p_out / fan.p_in)
    power = variance + mean * mean
    s = gradient.s if transposed else gradient.s / fan.stride
    c = gradient.c if transposed else gradient.c / fan.stride
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    return [Gradient(gradient.log_g + log(meets * power), s, c, gradient.v, last=gradient.last), *rest]


def weight(site: Site, gradient: Gradient) -> float:
    """ln E‖∂W‖² = ln(fan·n_out·N·P·pad·G·q·[1 + (P−1)Gs·s + (N−1)P·Gc·c]): a weight gradient sums over
    samples and positions, so it is a sum of correlated terms."""
    fan: Fan = site.memory["fan"]
    x = site.inputs[0]
    positions = fan.p_in if site.node.kind == "conv_transpose" else fan.p_out
    elements = fan.fan_in * fan.channels
    logs = math.log(elements * x.batch * positions * max(fan.inbound, 1e-9))
    return logs + gradient.log_g + x.log_q + math.log(coherence(x, gradient, positions, fan.fan_in))


def coherence(x: Signal, gradient: Gradient, positions: float, fan: float = math.inf) -> float:
    """1 + (P−1)·Gs·s + (N−1)·P·Gc·c: what the sum over tokens is worth beyond independent terms.

    Even unlike inputs add up along the one direction of `fan` that decides the activation: their component
    along the unit's own weight has mean E zφ′(z)/σ where the gradient passes (Stein), the `pull`.
    """
    s = gradient.s * x.s + gradient.pull_s * x.ds / fan
    c = gradient.c * x.c + gradient.pull_c * x.dc / fan
    bracket = 1.0 + (positions - 1.0) * s + (x.batch - 1.0) * positions * c
    floor = max(1.0 - max(x.s if positions > 1 else x.c, x.c), 1e-6)
    return max(bracket, floor)


def sizes(value: Any, count: int, default: float = 1.0) -> list[float]:
    """A PyTorch int-or-tuple argument as `count` numbers."""
    if isinstance(value, (list, tuple)) and value:
        numbers = [float(v) if isinstance(v, (int, float)) else default for v in value]
        return (numbers * count)[:count]
    return [float(value) if isinstance(value, (int, float)) else default] * count


def _fan(site: Site, x: Signal) -> Fan:
    if site.node.kind == "linear":
        law = site.law()
        n_in = float(site.attribute("in_features") or (law and law.fan_in) or x.features or NOMINAL_WIDTH)
        n_out = float(site.attribute("out_features") or (law and law.fan_out) or NOMINAL_WIDTH)
        return Fan(n_in, n_out, n_out, 1.0, 1.0, 1.0, x.positions, x.positions)
    dims = dimensions(site.node)
    groups = float(site.attribute("groups", 1))
    channels_in = float(site.attribute("in_channels") or x.features)
    channels = float(site.attribute("out_channels") or NOMINAL_WIDTH)
    kernel = sizes(site.attribute("kernel_size"), dims, 3.0)
    stride = sizes(site.attribute("stride"), dims)
    dilation = sizes(site.attribute("dilation"), dims)
    padding = site.attribute("padding", 0)
    span = [d * (k - 1.0) for k, d in zip(kernel, dilation, strict=True)]
    pads = [0.5 * w for w in span] if padding == "same" else sizes(0 if padding == "valid" else padding, dims, 0.0)
    known = _image(site, dims)
    # An image of unknown size is taken to be large beside the kernel: nothing is lost to its border.
    image = known or [max(x.positions ** (1.0 / dims), 1.0)] * dims
    bordered = known is not None and padding_zeros(site)
    transposed = site.node.kind == "conv_transpose"
    inbound, p_out = 1.0, 1.0
    for side, k, s, d, p in zip(image, kernel, stride, dilation, pads, strict=True):
        out = (
            (side - 1.0) * s - 2.0 * p + d * (k - 1.0) + 1.0
            if transposed
            else (side + 2.0 * p - d * (k - 1.0) - 1.0) // s + 1.0
        )
        out = max(out, 1.0)
        inside = _inside(side, out, k, s, d, p, transposed=transposed) if bordered else 1.0
        inbound, p_out = inbound * inside, p_out * out
    shape = site.node.shape
    if shape is not None and all(isinstance(n, int) for n in shape[-dims:]):
        p_out = float(math.prod(n for n in shape[-dims:] if n is not None))
    image_size = math.prod(image)
    merged = x.positions / image_size if image_size else 1.0
    return Fan(
        channels_in / groups,
        channels / groups,
        channels,
        math.prod(kernel),
        inbound,
        math.prod(stride),
        x.positions,
        max(p_out * max(merged, 1.0), 1.0),
    )


def dimensions(node: Node) -> int:
    """Spatial axes of a convolution, by its name."""
    return int(node.op[-2]) if node.op[-2:-1].isdigit() else 2


def padding_zeros(site: Site) -> bool:
    """Whether what lies outside the image is zero (not reflected, replicated or wrapped)."""
    return bool(site.attribute("padding_mode", "zeros") == "zeros")


def _image(site: Site, dims: int) -> list[float] | None:
    """The sides of the image that a convolution reads, or None where they are not known."""
    source = site.graph.nodes[site.node.inputs[0]] if site.node.inputs else None
    if source is not None and source.shape is not None and len(source.shape) > dims:
        tail = source.shape[-dims:]
        if all(isinstance(n, int) for n in tail):
            return [float(n) for n in tail if n is not None]
    return None


def _inside(side: float, out: float, k: float, s: float, d: float, p: float, *, transposed: bool) -> float:
    """Mean share of a kernel's taps that fall inside the image, along one axis."""
    if side > 4096 or k > 512:
        return 1.0
    n, m = int(side), int(out)
    count = 0
    for tap in range(int(k)):
        offset = tap * d - p
        if transposed:  # input i writes to output i·s + offset
            low, high = math.ceil(max(0.0, -offset / s)), math.floor(min(n - 1.0, (m - 1.0 - offset) / s))
        else:  # output j reads input j·s + offset
            low, high = math.ceil(max(0.0, -offset / s)), math.floor(min(m - 1.0, (n - 1.0 - offset) / s))
        count += max(high - low + 1, 0)
    return max(count / ((n if transposed else m) * k), 1e-9)


LINEAR = Transfer(forward, backward, weight)
