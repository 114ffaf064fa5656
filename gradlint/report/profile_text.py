"""The `text` format of `gradlint probe`: a table of layers, curves and verdicts for the terminal."""

from __future__ import annotations

import io
import linecache
import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradlint.finding import Outcome, Severity
from gradlint.notation import decades, number
from gradlint.probe.experiment import HISTOGRAM_DECADES
from gradlint.report.measured import COLOURS, NAME
from gradlint.report.profile import Probed, document
from gradlint.report.text import COLOURS as SEVERITY_COLOURS
from gradlint.report.text import VERDICT_COLOURS
from gradlint.result import Result

BAR = 10
"""Characters of a bar."""

FEWEST_DECADES = 3.0
"""Decades that the bars span at the least, so that a healthy net does not look ragged."""

MOST_LINES = 8
"""Source lines, and layers on one of them, that are shown below the table."""

SPARKS = "▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉█"


def render(
    probed: Probed,
    before: dict[str, Any] | None = None,
    colour: bool = False,
    width: int = 120,
    histograms: bool = False,
) -> str:
    """The document as tables; with `before`, an earlier document, the gradients of that run stand beside."""
    console = Console(
        file=io.StringIO(), force_terminal=colour, color_system="truecolor" if colour else None, width=width,
        highlight=False, legacy_windows=False, no_color=not colour,
    )  # fmt: skip
    shown = document(probed)
    earlier = {m.get("name"): m for m in (before or {}).get("models", [])}
    for entry in shown["models"]:
        console.print(_heading(entry), soft_wrap=True)
        console.print(_table(entry, earlier.get(entry["name"])))
        if histograms:
            console.print(_histograms(entry))
        for line in _sources(entry, probed.result):
            console.print(line, soft_wrap=True)
        for line in _below(entry, earlier.get(entry["name"])):
            console.print(line, soft_wrap=True)
        console.print()
    for line in _verdicts(probed):
        console.print(line, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _heading(entry: dict[str, Any]) -> Text:
    rates = ", ".join(number(r) for r in dict.fromkeys(entry["learning_rates"]))
    by = f"{entry['optimizer']} at {rates}" if entry["optimizer"] and rates else entry["optimizer"]
    clipped = {True: "clipped", False: "not clipped", None: ""}[entry["clipped"]]
    about = [f"{entry['batch']} batch", entry["input"], by, clipped, entry["device"]]
    loss = f"loss {number(entry['loss'])}" if entry["loss"] is not None else "loss not finite"
    place = f"{entry['path']}:{entry['line']}" if entry["line"] else entry["path"]
    return Text.assemble(
        (entry["name"], "bold"), f" ({place}): {loss}", (f"  [{', '.join(x for x in about if x)}]", "dim")
    )


def _table(entry: dict[str, Any], before: dict[str, Any] | None) -> Table:
    """One row a layer; gradients relative to the last hidden layer's, on a common log scale."""
    earlier = {x["name"]: x for x in (before or {}).get("layers", [])}
    low, high = _span([entry, before] if before else [entry])
    scale = f"{decades(low)} … {decades(high)}"
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=Text(f"gradients relative to the last hidden layer's; bars from {scale}", "dim"),
    )
    table.caption_justify = "left"
    columns = [("layer", "left"), ("kind", "left"), ("line", "right"), ("std h", "right")]
    columns += [("predicted", "right"), ("", "left"), ("measured", "right"), ("", "left")]
    columns += [("before", "right")] if before else []
    columns += [("‖∂L/∂W‖", "right"), ("sat.", "right"), ("dead", "right"), ("‖Δw‖/‖w‖", "right")]
    longest = max((len(x["name"]) for x in entry["layers"]), default=0)
    for heading, justify in columns:
        # Where the terminal is narrow long names fold and the numbers stay.
        name = heading == "layer"
        least = min(longest, NAME) if name else None
        table.add_column(heading, justify=justify, no_wrap=not name, overflow="fold", min_width=least)  # type: ignore[arg-type]
    for layer in entry["layers"]:
        expected, seen = layer["predicted"], layer["measured"] or {}
        style = COLOURS[Severity(layer["severity"]) if layer["severity"] else None] if layer["measured"] else "dim"
        row: list[str | Text] = [
            Text(layer["name"], style if layer["severity"] else ""),
            layer["kind"],
            str(layer["line"] or ""),
            _number(seen.get("activation_std")),
            _number(expected["gradient"]),
            Text(_bar(expected["log10_gradient"], low, high), "blue"),
            _number(seen.get("gradient")),
            Text(_bar(_log(seen.get("gradient")), low, high), style),
        ]
        if before:
            past = (earlier.get(layer["name"]) or {}).get("measured") or {}
            row.append(_number(past.get("gradient")))
        row += [
            _number(seen.get("weight_gradient")),
            _share(seen.get("saturated")),
            _share(seen.get("dead")),
            _number(seen.get("update_ratio")),
        ]
        table.add_row(*row)
    return table


def _sources(entry: dict[str, Any], result: Result) -> Iterator[Text]:
    """The lines that the flagged layers stand on, each once, with what is wrong there."""
    places: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for layer in entry["layers"]:
        if layer["line"] and layer["severity"] in (Severity.WARNING.value, Severity.ERROR.value):
            places.setdefault((layer["path"] or entry["path"], layer["line"]), []).append(layer)
    for (path, line), layers in list(places.items())[:MOST_LINES]:
        worst = max((Severity(x["severity"]) for x in layers), key=lambda s: s.rank)
        source = linecache.getline(str(result.root / path), line).strip()
        names = ", ".join(x["name"] for x in layers[:MOST_LINES]) + (" …" if len(layers) > MOST_LINES else "")
        yield Text.assemble(
            (f"{path}:{line}", "bold"), (" │ ", "dim"), source, ("  ← ", "dim"), (names, COLOURS[worst])
        )
    if len(places) > MOST_LINES:
        yield Text(f"and {len(places) - MOST_LINES} more lines", "dim")


def _histograms(entry: dict[str, Any]) -> Table:
    """The absolute values of each layer's weight and its gradient, one character a decade."""
    low, high = HISTOGRAM_DECADES
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.caption = Text(f"absolute values by decade: below 1e{low}, then 1e{low} … 1e{high}, then above", "dim")
    table.caption_justify = "left"
    for heading in ("layer", "weight", "its gradient", "in 1e-4 … 1"):
        table.add_column(heading, overflow="fold")
    for layer in entry["layers"]:
        seen = layer["measured"] or {}
        weight, gradient = seen.get("weight_histogram"), seen.get("gradient_histogram")
        if weight or gradient:
            usual = sum(gradient[1 - 4 - low : 1 - low]) if gradient else None
            table.add_row(layer["name"], _drawn(weight), _drawn(gradient), _share(usual))
    return table


def _drawn(shares: Sequence[float] | None) -> str:
    """A bin a character; a bin with anything in it shows at least the lowest mark."""
    if not shares:
        return "–"
    top = max(shares)
    return "".join("·" if not share else SPARKS[round(share / top * 7)] for share in shares)


def _below(entry: dict[str, Any], before: dict[str, Any] | None) -> Iterator[Text]:
    """The verdict on the profile, the curves, and the notes."""
    severity = Severity(entry["severity"]) if entry["severity"] else None
    word = severity.value if severity else "healthy"
    yield Text.assemble((word, COLOURS[severity]), "".join(f"; {p}" for p in entry["problems"]).replace(";", ":", 1))
    if before is not None:
        then, now = before.get("loss"), entry["loss"]
        yield Text(f"before: {before.get('severity') or 'healthy'}, loss {number(then)}; now loss {number(now)}", "dim")
    if len(entry["losses"]) > 1:
        yield _curve("loss", entry["losses"], entry["loss_curve"], logarithmic=False)
    if len(entry["gradient_norms"]) > 1 and entry["batch"] == "real":
        yield _curve("gradient norm", entry["gradient_norms"], entry["gradient_norm_class"], logarithmic=True)
    for note in entry["notes"]:
        yield Text.assemble(("note: ", "dim"), (note, "dim"))


def _curve(what: str, values: list[float | None], word: str | None, *, logarithmic: bool) -> Text:
    ends = (
        f"{number(values[0])} → {number(values[-1])}" if values[-1] is not None else f"{number(values[0])} → not finite"
    )
    broken = next((i for i, v in enumerate(values) if v is None), None)
    at = f", not finite from step {broken + 1}" if broken is not None else ""
    style = "green" if word in ("healthy", "steady") else "yellow" if word in ("flat", "too short") else "red"
    return Text.assemble(
        f"{what:14}",
        sparkline(values, logarithmic=logarithmic),
        f" {ends} over {len(values)} steps{at}: ",
        (word or "", style),
    )


def sparkline(values: Sequence[float | None], *, logarithmic: bool = False, width: int = 60) -> str:
    """One character a value (the largest of several where there are more than `width`); × is not finite."""
    size = max(1, math.ceil(len(values) / width))
    groups = [values[i : i + size] for i in range(0, len(values), size)]
    peaks = [None if None in g else max(v for v in g if v is not None) for g in groups]
    heights = [_height(v, logarithmic) for v in peaks]
    known = [h for h in heights if h is not None]
    if not known:
        return "×" * len(heights)
    low, span = min(known), max(known) - min(known)
    marks = ["×" if h is None else SPARKS[round((h - low) / span * 7) if span else 0] for h in heights]
    return "".join(marks)


def _height(value: float | None, logarithmic: bool) -> float | None:
    if value is None or not logarithmic:
        return value
    return math.log10(max(value, 1e-30))


def _span(entries: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Decades that hold all gradients, whole ones."""
    layers = [x for e in entries for x in e["layers"]]
    logs = [_log((x["measured"] or {}).get("gradient")) for x in layers] + [
        x["predicted"]["log10_gradient"] for x in layers
    ]
    known = [x for x in logs if x is not None and math.isfinite(x)] or [0.0]
    low, high = math.floor(min(known)), math.ceil(max(known))
    return min(float(low), high - FEWEST_DECADES), float(high)


def _bar(exponent: float | None, low: float, high: float) -> str:
    if exponent is None or math.isnan(exponent):
        return ""
    filled = max(0.0, min(1.0, (exponent - low) / (high - low))) * BAR
    whole = int(filled)
    return ("█" * whole + EIGHTHS[int((filled - whole) * 8)]).rstrip() or "▏"


def _log(value: float | None) -> float | None:
    return math.log10(value) if value is not None and value > 0 else None


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _verdicts(probed: Probed) -> Iterator[Text]:
    """What the rules say of the script, a line each."""
    for finding in probed.result.shown():
        verdict = finding.verdict
        where = probed.result.place(finding.location)
        line = Text.assemble(
            (where, "bold"), ": ", (f"{finding.code} {finding.severity.value}", SEVERITY_COLOURS[finding.severity]),
            (f" {finding.name}", "dim"), f": {finding.message.replace('`', '')}",
        )  # fmt: skip
        if verdict is not None:
            line.append(" [").append(verdict.outcome.value, VERDICT_COLOURS[verdict.outcome])
            line.append(f": {verdict.reason.replace('`', '')}]")
        yield line
    refuted = probed.result.count(Outcome.REFUTED)
    if refuted:
        yield Text(f"{refuted} finding{'s' * (refuted != 1)} refuted by measurement", "dim")
    for skipped in probed.result.skipped:
        yield Text.assemble(("skipped ", "dim"), probed.result.place(skipped.location), (f": {skipped.reason}", "dim"))
    for note in probed.notes:
        yield Text.assemble(("note: ", "dim"), (note, "dim"))
