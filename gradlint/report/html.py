"""The `html` format: one self-contained page with the findings and a chart of each model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from gradlint.causes import path_of
from gradlint.finding import Finding, Outcome
from gradlint.graph.model import WEIGHTED, ModelGraph
from gradlint.location import Location
from gradlint.notation import number
from gradlint.report.concise import place
from gradlint.report.json import document
from gradlint.report.numbers import chain, counts
from gradlint.report.page import charts, page, point, ticked
from gradlint.result import CheckedModel, Result

CONTEXT = 1
"""Source lines shown around each line that a finding speaks of."""


def render(result: Result, refuted: bool = False) -> str:
    """The page. It needs no network, and no script to be read."""
    shown = result.shown(refuted)
    models = document(result)["models"]
    body = [
        f"<h1>gradlint</h1>\n<p>{escape(_summary(result))}</p>",
        *(f'<p class="dim">note: {escape(n)}</p>' for n in result.notes),
        "<h2>Findings</h2>",
        *(article(f, result, i) for i, f in enumerate(shown)),
        *(["<p>None.</p>"] if not shown else []),
        *(["<h2>Models</h2>"] if result.models else []),
        *(_model(m, d, shown) for m, d in zip(result.models, models, strict=True)),
        *skipped_places(result),
    ]
    return page("gradlint report", body)


def _summary(result: Result) -> str:
    refuted = result.count(Outcome.REFUTED)
    return (
        f"{counts(result.shown())} in {result.files} file{'s' * (result.files != 1)}."
        + (f" {result.repeats} more with the same cause as one of these." if result.repeats else "")
        + (f" {refuted} refuted by measurement." if refuted else "")
    )


def article(finding: Finding, result: Result, index: int) -> str:
    verdict = finding.verdict
    severity = finding.severity.value
    badges = f'<span class="badge {severity}">{severity}</span>'
    if verdict is not None:
        badges += f'<span class="badge {verdict.outcome.value}">{verdict.outcome.value}</span>'
    parts = [
        f'<article id="finding-{index}" class="{severity}">',
        f'<h3><span class="place">{escape(place(finding, result))}</span> {escape(finding.code)} '
        f"{escape(finding.name)}{badges}</h3>",
        f"<p>{ticked(finding.message)}</p>",
        _frame(finding, result),
    ]
    numbers = chain(finding.evidence)
    if numbers:
        parts.append(f'<p class="numbers">{escape(numbers)}</p>')
    if verdict is not None:
        parts.append(f'<p class="verdict">{verdict.outcome.value}: {ticked(verdict.reason)}</p>')
    if finding.help:
        parts.append(f'<p class="help"><b>help:</b> {ticked(finding.help)}</p>')
    elsewhere = [r for r in finding.related if not _same_text(r.location, finding.location)]
    if elsewhere:
        listed = (f"<li><code>{escape(result.place(r.location))}</code> {ticked(r.message)}</li>" for r in elsewhere)
        parts.append(f"<ul>{''.join(listed)}</ul>")
    return "\n".join([*(p for p in parts if p), "</article>"])


def _same_text(one: Location, other: Location) -> bool:
    return (one.path, one.cell) == (other.path, other.cell)


def _frame(finding: Finding, result: Result) -> str:
    """The lines that the finding speaks of, with their neighbours and what is said of each."""
    source = result.quotable(finding.location)
    if source is None:
        return ""
    labels: dict[int, str] = {finding.location.line: ""}
    for related in finding.related:
        if _same_text(related.location, finding.location):
            labels.setdefault(related.location.line, related.message)
    wanted = sorted({n for line in labels for n in range(line - CONTEXT, line + CONTEXT + 1) if 0 < n <= len(source)})
    if not wanted:
        return ""
    width = len(str(wanted[-1]))
    lines = []
    before = wanted[0] - 1
    for n in wanted:
        if n > before + 1:
            lines.append(f'<span class="line dim">{"⋮":>{width}}</span>')
        before = n
        mark = " here" if n == finding.location.line else " there" if n in labels else ""
        label = f'  <span class="label">{escape(labels[n])}</span>' if labels.get(n) else ""
        text = escape(source[n - 1].expandtabs(4).rstrip())
        lines.append(f'<span class="line{mark}"><span class="number">{n:>{width}} │ </span>{text}{label}</span>')
    return f"<pre>{''.join(lines)}</pre>"


def _model(model: CheckedModel, data: dict[str, Any], shown: Sequence[Finding]) -> str:
    flags = flags_of(model, shown)
    about = ", ".join(
        x
        for x in (
            f"{data['path']}:{data['line']}" if data["line"] else data["path"],
            f"{len(data['layers'])} layers",
            f"traced by {data['traced_by']}" if data["traced_by"] != "source" else "read from source",
            f"input {data['input']}" if data["input"] else "",
            f"confidence {data['confidence']}",
        )
        if x
    )
    head = f'<section class="model">\n<h3>{escape(data["name"])}</h3>\n<p class="dim">{escape(about)}</p>'
    if not data["layers"]:
        return f"{head}\n<p>No weighted layer was found.</p>\n</section>"
    gradient, activation = [], []
    for i, (layer, numbers) in enumerate(zip(model.profile.layers, data["layers"], strict=True)):
        seen = numbers["measured"] or {}
        codes = tuple(dict.fromkeys(shown[f].code for f in flags.get(i, ())))
        gradient.append(point(layer.name, layer.gradient, layer.band, seen.get("gradient"), codes))
        activation.append(point(layer.name, layer.activation_std, None, seen.get("activation_std"), codes))
    return "\n".join(
        [
            head,
            *charts(gradient, activation),
            '<p class="readout">Point at a layer to read its numbers; click a flagged one to see its finding.</p>',
            "<details><summary>All layers</summary>",
            *_table(data["layers"], flags, shown),
            "</details>\n</section>",
        ]
    )


def _table(layers: Sequence[dict[str, Any]], flags: dict[int, list[int]], shown: Sequence[Finding]) -> Iterator[str]:
    yield (
        "<table><thead><tr><th>layer</th><th>kind</th><th>line</th><th>gradient predicted</th><th>measured</th>"
        "<th>activation predicted</th><th>measured</th></tr></thead><tbody>"
    )
    for i, layer in enumerate(layers):
        predicted, seen = layer["predicted"], layer["measured"] or {}
        numbers = [
            number(x)
            for x in (
                predicted["gradient"],
                seen.get("gradient"),
                predicted["activation_std"],
                seen.get("activation_std"),
            )
        ]
        flagged = flags.get(i, [])
        codes = ", ".join(dict.fromkeys(shown[f].code for f in flagged))
        readout = (
            f"{layer['name']} ({layer['kind']}): gradient {numbers[0]} predicted, {numbers[1]} measured; "
            f"activation {numbers[2]} predicted, {numbers[3]} measured" + (f"; {codes}" if codes else "")
        )
        finding = f' class="flagged" data-finding="finding-{flagged[0]}"' if flagged else ""
        cells = "".join(
            f"<td>{escape(str(c))}</td>" for c in (layer["name"], layer["kind"], layer["line"] or "", *numbers)
        )
        yield f'<tr data-readout="{escape(readout)}"{finding}>{cells}</tr>'
    yield "</tbody></table>"


def flags_of(model: CheckedModel, shown: Sequence[Finding]) -> dict[int, list[int]]:
    """Indices of the findings that speak of each layer of the model, by the index of the layer."""
    graph = model.graph
    key = {layer.node: i for i, layer in enumerate(model.profile.layers)}
    found: dict[int, list[int]] = {}
    for index, finding in enumerate(shown):
        if finding.model is None or finding.model.rpartition(":")[2] not in (graph.name, graph.class_name):
            continue
        places = {(at.path, at.cell, at.line) for at in (finding.location, *(r.location for r in finding.related))}
        path = path_of(finding)
        named = set(path.layers) if path is not None else set()
        for node in graph.nodes:
            at = node.best_location
            spoken_of = node.name in named or (at is not None and (at.path, at.cell, at.line) in places)
            layer = _weighted_at(graph, node.id) if spoken_of else None
            if layer in key and index not in found.setdefault(key[layer], []):
                found[key[layer]].append(index)
    return found


def _weighted_at(graph: ModelGraph, node: int) -> int | None:
    """The weighted layer that a node is, or the first one on the way back to the input."""
    seen = set()
    while node not in seen:
        seen.add(node)
        here = graph.nodes[node]
        if here.kind in WEIGHTED:
            return node
        if not here.inputs:
            return None
        node = here.inputs[0]
    return None


def skipped_places(result: Result) -> Iterator[str]:
    """What was not checked, with the reasons."""
    if result.skipped:
        yield "<h2>Skipped</h2>\n<ul>"
        for skipped in result.skipped:
            yield f"<li><code>{escape(result.place(skipped.location))}</code> {ticked(skipped.reason)}</li>"
        yield "</ul>"
