"""The `text` format: findings framed in their source lines, with prediction, measurement and remedy."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from gradlint.finding import Finding, Outcome, Severity
from gradlint.location import Location
from gradlint.notation import decades
from gradlint.report.concise import place
from gradlint.report.numbers import chain, counts
from gradlint.result import CheckedModel, Result, predicted_range

COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold blue"}
VERDICT_COLOURS = {Outcome.CONFIRMED: "bold red", Outcome.REFUTED: "green", Outcome.UNVERIFIED: "dim"}
MOST_LABELS = 6
"""Secondary labels shown in one frame; a stack of 50 layers would bury the message."""

MOST_MODELS = 20
"""Models that have a line each; a whole repository of them would bury the findings."""

NARROWEST = 40
"""Columns below which wrapping does more harm than good."""


@dataclass(frozen=True)
class _Label:
    at: Location
    text: str
    primary: bool


@dataclass(frozen=True)
class Paragraph:
    """Text that is wrapped where a width is given, its further lines indented by that many columns."""

    text: Text
    indent: int


def render(result: Result, refuted: bool = False, colour: bool = False, width: int | None = None) -> str:
    """The whole report as text, with terminal escapes if `colour`; paragraphs are wrapped at `width`, if given."""
    console = Console(
        file=io.StringIO(), force_terminal=colour, color_system="truecolor" if colour else None, width=width or 120,
        highlight=False, legacy_windows=False, no_color=not colour,
    )  # fmt: skip
    for line in lines(result, refuted):
        if isinstance(line, Text):
            console.print(line, soft_wrap=True)
            continue
        room = (width or 0) - line.indent
        parts = line.text.wrap(console, room) if room >= NARROWEST else [line.text]
        for i, part in enumerate(parts):
            console.print(Text(" " * line.indent if i else "") + part, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines(result: Result, refuted: bool = False) -> Iterator[Text | Paragraph]:
    """The report line by line."""
    for finding in result.shown(refuted):
        yield from _finding(finding, result)
        yield Text("")
    yield from _models(result)
    for skipped in result.skipped:
        place = Text.assemble(("skipped ", "dim"), result.place(skipped.location), (f": {skipped.reason}", "dim"))
        yield Paragraph(place, 2)
    for note in result.notes:
        yield Paragraph(Text.assemble(("note: ", "dim"), (note, "dim")), 2)
    yield Paragraph(_summary(result, refuted), 2)


def _finding(finding: Finding, result: Result) -> Iterator[Text | Paragraph]:
    verdict = finding.verdict
    head = Text.assemble(
        (place(finding, result), "bold"), ": ",
        (f"{finding.code} {finding.severity.value}", COLOURS[finding.severity]), (f" {finding.name}", "dim"),
    )  # fmt: skip
    if verdict is not None:
        head.append(" [").append(verdict.outcome.value, VERDICT_COLOURS[verdict.outcome]).append("]")
    yield head
    yield Paragraph(Text.assemble("  ", _ticked(finding.message)), 2)
    yield from _frame(finding, result)
    numbers = chain(finding.evidence)
    if numbers:
        yield Paragraph(Text.assemble(("  = ", "blue"), numbers), 4)
    if verdict is not None:
        outcome = (verdict.outcome.value, VERDICT_COLOURS[verdict.outcome])
        yield Paragraph(Text.assemble(("  = ", "blue"), outcome, ": ", _ticked(verdict.reason)), 4)
    if finding.help:
        yield Paragraph(Text.assemble(("  help: ", "bold cyan"), _ticked(finding.help)), 4)
    if finding.fix is not None:
        option = "--fix" if finding.fix.safe else "--fix --unsafe-fixes"
        fix = Text.assemble(("  fix: ", "bold cyan"), _ticked(finding.fix.message), (f" ({option})", "dim"))
        yield Paragraph(fix, 4)


def _ticked(message: str) -> Text:
    """Text with what stands in backticks in bold."""
    text = Text()
    for i, part in enumerate(message.split("`")):
        text.append(f"`{part}`" if i % 2 else part, "bold" if i % 2 else "")
    return text


def _frame(finding: Finding, result: Result) -> Iterator[Text]:
    """Source lines with the primary label under the decisive span and secondary ones under related spans."""
    source = result.quotable(finding.location)
    if source is None:
        return
    labels = [_Label(finding.location, "", True)]
    elsewhere = []
    for related in finding.related:
        if (related.location.path, related.location.cell) == (finding.location.path, finding.location.cell):
            labels.append(_Label(related.location, related.message, False))
        else:
            elsewhere.append(related)
    shown = sorted(labels[: MOST_LABELS + 1], key=lambda x: (x.at.line, not x.primary, x.at.column))
    hidden = len(labels) - len(shown)
    gutter = len(str(max(x.at.line for x in shown)))
    bar = Text(f"  {' ' * gutter} │", "blue")
    yield bar
    previous = None
    for label in shown:
        if not 1 <= label.at.line <= len(source):
            continue
        if previous is not None and label.at.line > previous + 1:
            yield Text(f"  {'⋮':>{gutter}} │", "blue")
        line = source[label.at.line - 1].expandtabs(4).rstrip()
        if label.at.line != previous:
            yield Text.assemble((f"  {label.at.line:>{gutter}} │ ", "blue"), line)
        previous = label.at.line
        yield Text.assemble(bar, " ", _marker(label, source[label.at.line - 1], finding.severity))
    if hidden > 0:
        yield Text.assemble(bar, (f" … and {hidden} more", "dim"))
    for related in elsewhere[:MOST_LABELS]:
        where = result.place(related.location)
        yield Text.assemble((f"  {' ' * gutter} ├─ ", "blue"), where, f": {related.message}")
    if len(elsewhere) > MOST_LABELS:
        yield Text.assemble((f"  {' ' * gutter} ├─ ", "blue"), (f"… and {len(elsewhere) - MOST_LABELS} more", "dim"))


def _marker(label: _Label, raw: str, severity: Severity) -> Text:
    start = len(raw[: label.at.column - 1].expandtabs(4))
    one_line = label.at.end_line == label.at.line and label.at.end_column > label.at.column
    end = len(raw[: label.at.end_column - 1].expandtabs(4)) if one_line else len(raw.expandtabs(4).rstrip())
    if label.at.column == 1 and not one_line:
        start = len(raw) - len(raw.lstrip())
    width = max(1, end - start)
    style = COLOURS[severity] if label.primary else "blue"
    mark = ("^" if label.primary else "-") * width
    return Text.assemble(" " * start, (mark, style), (f" {label.text}" if label.text else "", style))


def _models(result: Result) -> Iterator[Text | Paragraph]:
    """A line for each model; only their number where there are many."""
    if len(result.models) <= MOST_MODELS:
        for model in result.models:
            yield Paragraph(_model_line(model, result), 2)
        return
    traced = sum(m.graph.traced_by != "source" for m in result.models)
    unknown = sum(predicted_range(m) is None for m in result.models)
    yield Text(
        f"{len(result.models)} models: {traced} traced, {len(result.models) - traced} read from source"
        + (f"; the gradient of {unknown} could not be predicted" if unknown else "")
    )


def _model_line(model: CheckedModel, result: Result) -> Text:
    graph = model.graph
    layers = len(model.profile.layers)
    span = predicted_range(model)
    if span is None:
        why = _unpredicted(model)
        known = "gradient not predicted" + (f": {why}" if why else "")
    else:
        known = f"gradient {decades(span[0])} … {decades(span[1])} (predicted)"
    by = f"traced by {graph.traced_by}" if graph.traced_by != "source" else "read from source"
    about = ", ".join(x for x in (by, f"input {graph.input}" if graph.input else "") if x)
    low = " — low confidence" if "low" in (graph.confidence, model.profile.confidence) else ""
    name = graph.class_name or graph.name
    where = result.place(graph.location) if graph.location else result.relative(model.path)
    return Text.assemble(
        (f"{where}: ", "dim"), (name, "bold"), f": {layers} layer{'s' * (layers != 1)}, {known}",
        (f"  [{about}]{low}", "dim"),
    )  # fmt: skip


def _unpredicted(model: CheckedModel) -> str:
    """Why nothing is known of the model's gradient, or ""."""
    graph, unknown = model.graph, model.profile.unknown_ops
    if graph.stopped_at:
        return graph.stopped_at[1]
    if unknown:
        return f"no formula for `{unknown[0]}`" + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
    return "its weights are loaded" if graph.pretrained else ""


def _summary(result: Result, refuted: bool) -> Text:
    shown = result.shown()
    number, bracket, verdicts = counts(shown).partition(" (")
    text = Text(number, "bold" if shown else "bold green").append(bracket + verdicts, "")
    text.append(f" in {result.files} file{'s' * (result.files != 1)}, {result.seconds:.1f} s")
    if result.repeats:
        text.append(f"; {result.repeats} more with the same cause as one of these", "dim")
    hidden = result.count(Outcome.REFUTED)
    if hidden and not refuted:
        text.append(f"; {hidden} refuted by measurement (--show-refuted)", "dim")
    return text
