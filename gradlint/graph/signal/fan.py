"""How the inputs of a linear or convolution layer meet its outputs: fans, taps, borders and strides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gradlint.graph.model import Node
from gradlint.graph.signal.moments import Signal
from gradlint.graph.signal.transfer import NOMINAL_WIDTH, Site

_LARGE = 4096
"""Sides beyond this lose nothing to their border."""


@dataclass(frozen=True)
class Fan:
    """`n_in`, `n_out` channels per group, `channels` out in all, `taps` of the kernel, `p_in`, `p_out` positions.

    With n_t the number of outputs that tap t of the kernel joins to an input inside the image, `links` is Σ n_t and
    `pairs` Σ n_t²: two outputs, or two inputs, have in common only the taps that are inside for both.
    """

    n_in: float
    n_out: float
    channels: float
    taps: float
    links: float
    pairs: float
    p_in: float
    p_out: float

    @property
    def fan_in(self) -> float:
        """Weights that feed one output element."""
        return self.n_in * self.taps

    @property
    def taps_out(self) -> float:
        """Taps that feed one output, on average."""
        return self.links / self.p_out

    @property
    def taps_in(self) -> float:
        """Taps that read one input, on average."""
        return self.links / self.p_in

    @property
    def shared_out(self) -> float:
        """Mean share of its taps that an output has in common with another one."""
        return self._shared(self.p_out)

    @property
    def shared_in(self) -> float:
        """Mean share of its taps that an input has in common with another one."""
        return self._shared(self.p_in)

    def _shared(self, positions: float) -> float:
        if positions <= 1.0 or self.links <= 0.0:
            return 1.0
        return min(max((self.pairs - self.links) / (self.links * (positions - 1.0)), 0.0), 1.0)


def fan_of(site: Site, x: Signal) -> Fan:
    """The fan of a linear, convolution or transposed convolution layer that reads `x`."""
    if site.node.kind == "linear":
        law = site.law()
        n_in = float(site.attribute("in_features") or (law and law.fan_in) or x.features or NOMINAL_WIDTH)
        n_out = float(site.attribute("out_features") or (law and law.fan_out) or NOMINAL_WIDTH)
        return Fan(n_in, n_out, n_out, 1.0, x.positions, x.positions**2, x.positions, x.positions)
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
    known = image_of(site, dims)
    # An image of unknown size is taken to be large beside the kernel: nothing is lost to its border.
    image = known or [max(x.positions ** (1.0 / dims), 1.0)] * dims
    bordered = known is not None and site.attribute("padding_mode", "zeros") == "zeros"
    transposed = site.node.kind == "conv_transpose"
    shape = site.node.shape
    given = [float(n) if isinstance(n, int) else None for n in shape[-dims:]] if shape else [None] * dims
    links, pairs, p_out = 1.0, 1.0, 1.0
    for side, k, s, d, p, seen in zip(image, kernel, stride, dilation, pads, given, strict=True):
        out = (
            (side - 1.0) * s - 2.0 * p + d * (k - 1.0) + 1.0
            if transposed
            else (side + 2.0 * p - d * (k - 1.0) - 1.0) // s + 1.0
        )
        out = max(seen or out, 1.0)
        axis = _axis(side, out, k, s, d, p, transposed, bordered)
        links, pairs, p_out = links * axis[0], pairs * axis[1], p_out * out
    # Positions beyond the image's (frames that were folded into the batch) are so many images.
    images = max(x.positions / math.prod(image), 1.0)
    return Fan(
        channels_in / groups,
        channels / groups,
        channels,
        math.prod(kernel),
        links * images,
        pairs * images**2,
        x.positions,
        max(p_out * images, 1.0),
    )


def sizes(value: Any, count: int, default: float = 1.0) -> list[float]:
    """A PyTorch int-or-tuple argument as `count` numbers."""
    if isinstance(value, (list, tuple)) and value:
        numbers = [float(v) if isinstance(v, (int, float)) else default for v in value]
        return (numbers * count)[:count]
    return [float(value) if isinstance(value, (int, float)) else default] * count


def dimensions(node: Node) -> int:
    """Spatial axes of a convolution, by its name."""
    return int(node.op[-2]) if node.op[-2:-1].isdigit() else 2


def image_of(site: Site, dims: int) -> list[float] | None:
    """The sides of the image that a convolution or a pool reads, or None where they are not known."""
    source = site.graph.nodes[site.node.inputs[0]] if site.node.inputs else None
    return shape_sides(source, dims) if source is not None else None


def shape_sides(node: Node, dims: int) -> list[float] | None:
    """The sides of the image that a node puts out, or None where they are not known."""
    tail = node.shape[-dims:] if node.shape is not None and len(node.shape) > dims else ()
    return [float(n) for n in tail if isinstance(n, int)] if tail and None not in tail else None


@lru_cache(maxsize=1024)
def _axis(
    side: float, out: float, k: float, s: float, d: float, p: float, transposed: bool, bordered: bool
) -> tuple[float, float]:
    """(Σ n_t, Σ n_t²) over the taps of a kernel along one axis."""
    steps = side if transposed else out
    if not bordered or max(side, out) > _LARGE or k > 512:
        whole = steps if not transposed else min(steps, out)
        return k * whole, k * whole * whole
    near, far = (side, out) if transposed else (out, side)
    links = pairs = 0.0
    for tap in range(int(k)):
        # Step j of the smaller grid reaches j·s + tap·d − p of the larger one.
        offset = tap * d - p
        low, high = math.ceil(max(0.0, -offset / s)), math.floor(min(near - 1.0, (far - 1.0 - offset) / s))
        count = max(high - low + 1, 0)
        links, pairs = links + count, pairs + count * count
    return max(links, 1e-9), max(pairs, 1e-9)
