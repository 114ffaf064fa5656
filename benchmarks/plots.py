"""Draws the plots of docs/predictions.md: what is predicted of a net's weight gradients beside what one pass measures.

python benchmarks/plots.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from prediction import Row, compare, nets

from gradlint.report.chart import Point, svg

FOLDER = Path(__file__).parents[1] / "docs" / "plots"

CHARTS = {
    "mlp: sigmoid 10 default": ("sigmoid-mlp", "Ten sigmoid layers, PyTorch's default init"),
    "mlp: relu 20 default": ("relu-mlp", "Twenty ReLU layers, PyTorch's default init"),
    "resnet cut: resnet50 no skip": ("resnet50-no-skip", "ResNet-50 without its skips"),
    "transformer: pre 12": ("transformer", "A pre-norm transformer of twelve layers"),
}
"""Net → file and title."""

INK, DIM, LINE, PREDICTED, MEASURED = "#1b1f24", "#5c6670", "#d8dde3", "#2563c9", "#c05a00"
STYLE = f"""<style>
text {{ fill: {DIM}; font: 11px system-ui, sans-serif; }} .title {{ fill: {INK}; font-size: 13px; font-weight: 600; }}
.tick {{ text-anchor: end; dominant-baseline: middle; }} .name, .across {{ text-anchor: middle; }}
.grid {{ stroke: {LINE}; }} .column {{ fill: none; }} .band {{ fill: {PREDICTED}; opacity: .16; }}
polyline.predicted {{ fill: none; stroke: {PREDICTED}; stroke-width: 1.8; }} circle.predicted {{ fill: {PREDICTED}; }}
circle.measured {{ fill: none; stroke: {MEASURED}; stroke-width: 2; }} .net {{ fill: {PREDICTED}; opacity: .35; }}
.same {{ stroke: {INK}; stroke-width: 1; }}
</style>"""

SIDE, MARGIN = 420.0, 56.0
LOWEST, HIGHEST = -24, 12
"""Decades of the scatter plot; what lies outside is drawn at its border."""


def standalone(drawn: str, title: str) -> str:
    """A chart of the HTML report as a file of its own, on white, with a title."""
    opening, rest = drawn.split(">", 1)
    head = f'<text class="title" x="56" y="14">{title}</text>'
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{STYLE}{paper}{head}{rest}\n'


def scatter(points: Sequence[Point]) -> str:
    """Measured (up) against predicted (across) weight gradients, each dot a layer, as powers of ten."""
    plot = SIDE - 2 * MARGIN

    def across(value: float) -> float:
        return MARGIN + plot * (min(max(value, LOWEST), HIGHEST) - LOWEST) / (HIGHEST - LOWEST)

    def up(value: float) -> float:
        return SIDE - across(value)

    parts = [
        f'<svg role="img" aria-label="measured against predicted" viewBox="0 0 {SIDE:g} {SIDE:g}" width="{SIDE:g}">'
    ]
    for tick in range(LOWEST, HIGHEST + 1, 6):
        low, high, at = across(LOWEST), across(HIGHEST), across(tick)
        label = "1" if tick == 0 else f"1e{tick}"
        parts.append(f'<line class="grid" x1="{low:g}" x2="{high:g}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(f'<line class="grid" y1="{up(LOWEST):.1f}" y2="{up(HIGHEST):.1f}" x1="{at:.1f}" x2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{low - 6:g}" y="{up(tick):.1f}">{label}</text>')
        parts.append(f'<text class="across" x="{at:.1f}" y="{up(LOWEST) + 16:.1f}">{label}</text>')
    ends = f'x1="{across(LOWEST):g}" y1="{up(LOWEST):g}" x2="{across(HIGHEST):g}" y2="{up(HIGHEST):g}"'
    parts.append(f'<line class="same" {ends}/>')
    known = [(p.predicted, p.measured) for p in points if p.predicted is not None and p.measured is not None]
    # Dots that would lie on each other are drawn once.
    places = {f'cx="{across(predicted):.0f}" cy="{up(measured):.0f}"': None for predicted, measured in known}
    parts += [f'<circle class="net" {place} r="2"/>' for place in places]
    parts.append(f'<text class="across" x="{SIDE / 2:g}" y="{SIDE - 14:g}">predicted</text>')
    parts.append(f'<text class="across" transform="translate(14 {SIDE / 2:g}) rotate(-90)">measured</text>')
    return "\n".join([*parts, "</svg>"])


def rows(seeds: int) -> Iterator[tuple[str, Row]]:
    """Every development net, compared."""
    for family, name, build, shape in nets("development"):
        yield f"{family}: {name}", compare(name, build, shape, seeds, verbose=False)


def main() -> None:
    """Draw all plots anew."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=3)
    seeds = options.parse_args().seeds
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    every: list[Point] = []
    missing = dict(CHARTS)
    for name, row in rows(seeds):
        every += row.points
        if name in CHARTS:
            file, title = missing.pop(name)
            (FOLDER / f"{file}.svg").write_text(standalone(svg(title, row.points), title), encoding="utf-8")
    known = [p for p in every if p.measured is not None and math.isfinite(p.measured)]
    title = f"{len(known)} layers: the norm of the weight gradient"
    (FOLDER / "layers.svg").write_text(standalone(scatter(known), title), encoding="utf-8")
    print(f"{len(known)} layers drawn; not found: {sorted(missing) or 'none'}")


if __name__ == "__main__":
    main()
