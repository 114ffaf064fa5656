"""Sliding windows: `unfold` cuts an image into patches that overlap, `fold` adds patches up to an image again.

Each is the adjoint of the other (torch.nn.Unfold: fold(unfold(1)) counts the windows over each pixel), so that the
gradient of one moves as the signal of the other does. Windows are the positions of the patches; a patch holds the
k taps of each channel among its features.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

from gradlint.graph.signal.fan import image_of, shape_sides, sizes
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log
from gradlint.graph.signal.transfer import Site, Unclaimed

_DIMS = 2


@dataclass(frozen=True)
class Windows:
    """`taps` of a window, `windows` L and `pixels` P, and the pairs of a window and a tap that lie inside the image:
    `links` of them, Σ over taps, over pixels and over windows of the square of how many each has: `by_tap`, `by_pixel`
    and `by_window`."""

    taps: float
    windows: float
    pixels: float
    links: float
    by_tap: float
    by_pixel: float
    by_window: float

    @property
    def inside(self) -> float:
        """Share of all taps that lie inside the image."""
        return self.links / (self.taps * self.windows)

    @property
    def both_inside(self) -> float:
        """Of two windows whose first has a tap inside, the share whose second has it inside too."""
        return max(self.by_tap - self.links, 0.0) / max(self.links * (self.windows - 1.0), 1e-9)

    @property
    def two_inside(self) -> float:
        """Of two taps whose first lies inside the image, the share whose second does too."""
        return max(self.by_window - self.links, 0.0) / max(self.links * (self.taps - 1.0), 1e-9)


def _windows(site: Site, sides: list[float] | None) -> Windows:
    if sides is None or site.attribute("kernel_size") is None:
        raise Unclaimed(f"{site.node.op} of an image of unknown size")
    kernel = sizes(site.attribute("kernel_size"), _DIMS)
    stride, dilation = sizes(site.attribute("stride"), _DIMS), sizes(site.attribute("dilation"), _DIMS)
    padding = sizes(site.attribute("padding", 0), _DIMS, 0.0)
    axes = [_axis(*(int(n) for n in along)) for along in zip(sides, kernel, stride, dilation, padding, strict=True)]
    counts = (math.prod(column) for column in zip(*axes, strict=True))
    return Windows(math.prod(kernel), next(counts), math.prod(sides), *counts)


@lru_cache(maxsize=256)
def _axis(side: int, kernel: int, stride: int, dilation: int, padding: int) -> tuple[float, ...]:
    """Windows along one axis, and what `Windows` says of their taps: all of it multiplies over the axes."""
    count = max((side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1, 1)
    taps, pixels, windows = Counter[int](), Counter[int](), Counter[int]()
    for window in range(count):
        for tap in range(kernel):
            pixel = window * stride + tap * dilation - padding
            if 0 <= pixel < side:
                taps[tap] += 1
                pixels[pixel] += 1
                windows[window] += 1
    squares = (sum(n * n for n in held.values()) for held in (taps, pixels, windows))
    return float(count), float(taps.total()), *(float(n) for n in squares)


def cut(x: Signal, w: Windows) -> Signal:
    """Patches: pixels beyond the border are zero, two taps of a channel are two pixels of the image."""
    n, i = x.features * w.taps, w.inside
    alike, far = w.both_inside, x.m * x.m
    f = ((w.taps - 1.0) * x.s * w.two_inside + (n - w.taps) * far * i) / max(n - 1.0, 1.0) - far * i
    same, other = x.pairs
    c = (same + (w.windows - 1.0) * other * alike) / w.windows
    return replace(
        x, log_q=x.log_q + log(i), m=x.m * math.sqrt(i), f=f, parts=(), lead=None, ds=1.0 - x.s * alike, dc=1.0 - c,
        de=1.0 - same, positions=w.windows, features=n,
    )  # fmt: skip


def tied(f: float, m: float, taps: float, features: float) -> float:
    """How alike two taps of one channel are beyond what all features share, 0 to 1: `f`, the mean over all pairs of
    features, is theirs alone."""
    return max(0.0, min(f * (features - 1.0) / max((taps - 1.0) * (1.0 - m * m), 1e-9), 1.0))


def added(s: float, c: float, m: float, own: float, w: Windows) -> tuple[float, float, float, float]:
    """(factor on E x², s, c, e) of pixels that sum the patches over them. `own`: how alike two taps of a patch are.

    Of the pairs of patches over two pixels those of one window correlate by `own`, those of one tap as two windows do,
    and others by `own` of that; m² is common to all.
    """
    far = m * m
    apart, together, strangers = far + own * max(s - far, 0.0), far + own * (1.0 - far), far + own * (c - far)
    whole = max(w.links + (w.by_pixel - w.links) * apart, 1e-9)
    others = w.links**2 - w.by_pixel - w.by_window - w.by_tap + 2.0 * w.links
    near = (w.by_window - w.links) * together + (w.by_tap - w.links) * s + max(others, 0.0) * apart
    far_off = w.by_tap * c + (w.links**2 - w.by_tap) * strangers
    same = w.links * c + (w.by_pixel - w.links) * strangers
    gain = whole / w.pixels
    return (
        gain,
        min(near / (max(w.pixels - 1.0, 1.0) * whole), 1.0),
        min(far_off / (w.pixels * whole), 1.0),
        min(same / whole, 1.0),
    )


def unfold(site: Site) -> Signal:
    """Patches of an image."""
    w = _windows(site, image_of(site, _DIMS))
    site.doubt = _doubt(w)
    return cut(site.inputs[0], w)


def _doubt(w: Windows) -> float:
    """Decades between patches over one pixel that are independent and such that are the same: whether those that
    overlap are more alike than any two is not known."""
    return 0.5 * math.log10(max(w.by_pixel / w.links, 1.0))


def unfold_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """A pixel collects from all patches that hold it."""
    x, rest = site.inputs[0], [Gradient(NEVER)] * (len(site.inputs) - 1)
    if gradient.zero:
        return [Gradient(NEVER), *rest]
    w = _windows(site, image_of(site, _DIMS))
    own = tied(gradient.f, 0.0, w.taps, site.output.features)
    gain, s, c, e = added(gradient.s, gradient.c, 0.0, own, w)
    return [Gradient(gradient.log_g + log(gain), s, c, gradient.v, e=e if x.positions > 1.0 else None), *rest]


def fold(site: Site) -> Signal:
    """The image that patches add up to."""
    x = site.inputs[0]
    w = _windows(site, shape_sides(site.node, _DIMS))
    site.doubt = _doubt(w)
    own = tied(x.f, x.m, w.taps, x.features)
    gain, s, c, e = added(x.s, x.c, x.m, own, w)
    m = x.m * w.links / w.pixels / math.sqrt(gain)
    return replace(
        x, log_q=x.log_q + log(gain), m=max(-1.0, min(m, 1.0)), f=0.0, parts=(), lead=None, ds=1.0 - s, dc=1.0 - c,
        de=1.0 - e, positions=w.pixels, features=max(x.features / w.taps, 1.0),
    )  # fmt: skip


def fold_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """Every patch receives the gradient of the pixels under it."""
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if gradient.zero:
        return [Gradient(NEVER), *rest]
    w, y = _windows(site, shape_sides(site.node, _DIMS)), site.output
    seen = Signal(gradient.log_g, 0.0, 1.0 - gradient.s, 1.0 - gradient.c, batch=y.batch, positions=y.positions,
                  features=y.features, de=None if gradient.e is None else 1.0 - gradient.e)  # fmt: skip
    g = cut(seen, w)
    onto = Gradient(g.log_q, g.s, g.c, gradient.v, f=g.f, e=1.0 - g.same_position if g.positions > 1.0 else None)
    return [onto, *rest]
