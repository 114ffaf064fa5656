"""What the HTML pages have in common: the skeleton, figures with their legend, and text with code in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from gradlint import __version__
from gradlint.report.chart import Point, svg

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The page loads nothing, whatever it quotes."""

GRADIENT = "Gradient ‖∂L/∂h‖ relative to the last hidden layer"
ACTIVATION = "Standard deviation of the activation h"


def page(title: str, body: Sequence[str]) -> str:
    """A whole page. It needs no network, and no script to be read."""
    assets = files("gradlint.report") / "assets"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="generator" content="gradlint {__version__}">\n<title>{escape(title)}</title>',
            f"<style>\n{(assets / 'report.css').read_text('utf-8')}</style>\n</head>\n<body>",
            *body,
            f"<script>\n{(assets / 'report.js').read_text('utf-8')}</script>\n</body>\n</html>\n",
        ]
    )


def ticked(text: str) -> str:
    """Escaped text with what stands in backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return "".join(f"<code>{escape(p)}</code>" if i % 2 else escape(p) for i, p in enumerate(parts))


def charts(gradient: Sequence[Point], activation: Sequence[Point]) -> Iterator[str]:
    """The charts of gradients and activations of one model, with the buttons that hide a series of both."""
    points = (*gradient, *activation)
    drawn = (
        ("predicted", any(p.predicted is not None for p in points)),
        ("measured", any(p.measured is not None or p.zero for p in points)),
        ("flagged", any(p.codes for p in points)),
    )
    yield '<div class="legend">'
    yield from (_toggle(series) for series, there in drawn if there)
    yield "</div>"
    yield from (_figure(GRADIENT, gradient), _figure(ACTIVATION, activation))


def _toggle(series: str) -> str:
    return f'<button type="button" class="{series}" data-series="{series}" aria-pressed="true">{series}</button>'


def _figure(title: str, points: Sequence[Point]) -> str:
    return f'<figure><figcaption>{title}</figcaption><div class="scroll">\n{svg(title, points)}\n</div></figure>'


def point(
    name: str, predicted: float | None, band: tuple[float, float] | None, seen: float | None, codes: tuple[str, ...]
) -> Point:
    """One layer in a chart; `predicted` and `band` are log10, `seen` is the plain number."""
    known = predicted is not None and math.isfinite(predicted)
    bounded = band is not None and all(map(math.isfinite, band))
    return Point(
        name=name,
        predicted=predicted if known else None,
        band=band if bounded else None,
        measured=math.log10(seen) if seen else None,
        zero=seen == 0,
        codes=codes,
    )
