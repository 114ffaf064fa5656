"""A chart of one quantity over a model's layers on a log scale, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from gradlint.notation import decades

LEFT, RIGHT, TOP, BOTTOM = 56.0, 16.0, 22.0, 34.0
"""Margins in SVG units, for the axis labels and the codes above flagged layers."""

HEIGHT = 240.0
MOST_TICKS = 8
Across = Callable[[int], float]
Up = Callable[[float], float]
NAME_WIDTH = 66.0
"""Room for a name under the axis; where columns are narrower only some names are written."""
CHARACTER = 6.6
"""Width of a character of a name, a little more than the font's average."""


@dataclass(frozen=True)
class Point:
    """One layer: log10 of what is predicted, of its band, and of what was measured; None where it is not known.

    `zero` says that exactly 0 was measured, which has no place on a log scale. `codes` are the rules that flag it.
    """

    name: str
    predicted: float | None = None
    band: tuple[float, float] | None = None
    measured: float | None = None
    zero: bool = False
    codes: tuple[str, ...] = ()


def svg(title: str, points: Sequence[Point]) -> str:
    """The chart: predicted as a line with its band, measured as dots, flagged layers as marked columns."""
    low, high, step = _scale(points)
    column = max(14.0, min(110.0, 880.0 / max(1, len(points))))
    width = LEFT + column * len(points) + RIGHT
    plot = HEIGHT - TOP - BOTTOM

    def x(i: int) -> float:
        return LEFT + column * (i + 0.5)

    def y(value: float) -> float:
        return TOP + plot * (high - value) / (high - low)

    parts = [
        f'<svg class="chart" role="img" aria-label="{escape(title)}" viewBox="0 0 {width:g} {HEIGHT:g}" '
        f'width="{width:g}" height="{HEIGHT:g}">'
    ]
    for tick in range(low, high + 1, step):
        at = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT:g}" x2="{width - RIGHT:g}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8:g}" y="{at}">{decades(tick)}</text>')
    for i, point in enumerate(points):
        if point.codes:
            parts.append(
                f'<g class="flagged" data-layer="{i}"><rect x="{x(i) - column / 2:.1f}" y="{TOP:g}" '
                f'width="{column:.1f}" height="{plot:g}"/><text x="{x(i):.1f}" y="{TOP - 7:g}">▼</text>'
                f"<title>{escape(', '.join(point.codes))}</title></g>"
            )
    parts += [f'<polygon class="band" points="{p}"/>' for p in _bands(points, x, y)]
    parts += [f'<polyline class="predicted" points="{p}"/>' for p in _lines(points, x, y)]
    for i, point in enumerate(points):
        if point.predicted is not None:
            parts.append(
                f'<circle class="predicted" data-layer="{i}" cx="{x(i):.1f}" cy="{y(point.predicted):.1f}" r="2.5"/>'
            )
    for i, point in enumerate(points):
        if point.measured is not None:
            height = y(point.measured)
            parts.append(f'<circle class="measured" data-layer="{i}" cx="{x(i):.1f}" cy="{height:.1f}" r="4"/>')
        elif point.zero:
            parts.append(f'<text class="measured zero" data-layer="{i}" x="{x(i):.1f}" y="{TOP + plot - 4:g}">0</text>')
    parts += _names(points, x, column)
    for i, point in enumerate(points):
        parts.append(
            f'<rect class="column" data-layer="{i}" x="{x(i) - column / 2:.1f}" y="{TOP:g}" width="{column:.1f}" '
            f'height="{plot:g}"><title>{escape(point.name)}</title></rect>'
        )
    return "\n".join([*parts, "</svg>"])


def _scale(points: Sequence[Point]) -> tuple[int, int, int]:
    """Lowest and highest decade of the axis and the decades between ticks; what is measured and predicted fits in."""
    values = [v for p in points for v in (p.predicted, p.measured, *(p.band or ())) if v is not None]
    low, high = (math.floor(min(values)), math.ceil(max(values))) if values else (-1, 1)
    if high - low < 2:
        low, high = low - 1, high + 1
    step = math.ceil((high - low) / MOST_TICKS)
    return step * math.floor(low / step), step * math.ceil(high / step), step


def _runs(known: Sequence[bool]) -> Iterator[range]:
    """Stretches of consecutive layers that are known."""
    start = None
    for i, here in enumerate([*known, False]):
        if here and start is None:
            start = i
        elif not here and start is not None:
            yield range(start, i)
            start = None


def _lines(points: Sequence[Point], x: Across, y: Up) -> Iterator[str]:
    for run in _runs([p.predicted is not None for p in points]):
        yield " ".join(f"{x(i):.1f},{y(points[i].predicted or 0.0):.1f}" for i in run)


def _bands(points: Sequence[Point], x: Across, y: Up) -> Iterator[str]:
    for run in _runs([p.band is not None for p in points]):
        below = [(i, (points[i].band or (0.0, 0.0))[0]) for i in run]
        above = [(i, (points[i].band or (0.0, 0.0))[1]) for i in reversed(run)]
        yield " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in (*below, *above))


def _names(points: Sequence[Point], x: Across, column: float) -> Iterator[str]:
    every = math.ceil(NAME_WIDTH / column)
    most = int(column * every / CHARACTER)
    for i in range(0, len(points), every):
        name = points[i].name
        shown = name if len(name) <= most else "…" + name[-(most - 1) :]
        at = f"{x(i):.1f}"
        yield f'<text class="name" x="{at}" y="{HEIGHT - BOTTOM + 16:g}">{escape(shown)}</text>'


CURVE_WIDTH, CURVE_HEIGHT = 640.0, 150.0


def curve(title: str, values: Sequence[float | None], *, logarithmic: bool = False) -> str:
    """A series over steps as a line; a step whose value is not finite (None) is marked at the top."""
    heights = [None if v is None else math.log10(max(v, 1e-30)) if logarithmic else v for v in values]
    known = [h for h in heights if h is not None] or [0.0]
    low, high = min(known), max(known)
    span = high - low or 1.0
    plot = CURVE_HEIGHT - TOP - BOTTOM

    def x(i: int) -> float:
        return LEFT + (CURVE_WIDTH - LEFT - RIGHT) * i / max(1, len(values) - 1)

    def y(height: float) -> float:
        return TOP + plot * (high - height) / span

    parts = [
        f'<svg class="chart" role="img" aria-label="{escape(title)}" viewBox="0 0 {CURVE_WIDTH:g} {CURVE_HEIGHT:g}" '
        f'width="{CURVE_WIDTH:g}" height="{CURVE_HEIGHT:g}">'
    ]
    for level in dict.fromkeys((high, low)):
        at, said = f"{y(level):.1f}", f"{10.0**level if logarithmic else level:.3g}"
        parts.append(f'<line class="grid" x1="{LEFT:g}" x2="{CURVE_WIDTH - RIGHT:g}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8:g}" y="{at}">{said}</text>')
    for run in _runs([h is not None for h in heights]):
        corners = " ".join(f"{x(i):.1f},{y(heights[i] or 0.0):.1f}" for i in run)
        parts.append(f'<polyline class="measured" points="{corners}"/>')
    broken = (i for i, h in enumerate(heights) if h is None)
    parts += [f'<text class="measured broken" x="{x(i):.1f}" y="{TOP - 6:g}">×</text>' for i in broken]
    for i in dict.fromkeys((0, len(values) - 1)):
        parts.append(f'<text class="name" x="{x(i):.1f}" y="{CURVE_HEIGHT - BOTTOM + 16:g}">{i + 1}</text>')
    return "\n".join([*parts, "</svg>"])


BIN, BARS = 5.0, 18.0


def decades_of(shares: Sequence[float], low: int, high: int) -> str:
    """A histogram of absolute values with a bin a decade, small enough for a cell: below 10^low, …, above 10^high."""
    top = max(shares) or 1.0
    bars = "".join(
        f'<rect x="{i * BIN:g}" y="{BARS - BARS * share / top:.1f}" width="{BIN - 1:g}" '
        f'height="{BARS * share / top:.1f}"><title>{_bin(i, low, high)}: {share:.0%}</title></rect>'
        for i, share in enumerate(shares)
        if share
    )
    size = f"{BIN * len(shares):g} {BARS:g}"
    wide, tall = size.split()
    return f'<svg class="decades" role="img" viewBox="0 0 {size}" width="{wide}" height="{tall}">{bars}</svg>'


def _bin(index: int, low: int, high: int) -> str:
    if index == 0:
        return f"below 1e{low}"
    if index > high - low:
        return f"above 1e{high}"
    return f"{decades(low + index - 1)} … {decades(low + index)}"
