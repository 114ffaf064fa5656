"""The `html` format of `gradlint probe`: one page with what the batch showed of each model, and the findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from gradlint.finding import Finding
from gradlint.notation import number
from gradlint.probe.experiment import HISTOGRAM_DECADES
from gradlint.report.chart import Point, curve, decades_of
from gradlint.report.html import article, flags_of, skipped_places
from gradlint.report.page import charts, page, point, ticked
from gradlint.report.profile import MeasuredModel, Probed, document
from gradlint.result import CheckedModel

SHARES = ("saturated", "dead")
COLUMNS = (
    ("activation std", "activation_std"),
    ("‖∂L/∂W‖", "weight_gradient"),
    ("saturated", "saturated"),
    ("dead", "dead"),
    ("‖Δw‖/‖w‖", "update_ratio"),
)


def render(probed: Probed, before: dict[str, Any] | None = None) -> str:
    """The page; with `before`, an earlier document, the gradients of that run stand beside. No network is needed."""
    shown = probed.result.shown()
    entries = document(probed)["models"]
    earlier = {m.get("name"): m for m in (before or {}).get("models", [])}
    body = [
        "<h1>gradlint probe</h1>",
        *(f'<p class="dim">note: {escape(n)}</p>' for n in probed.notes),
        *(_model(m, e, shown, earlier.get(e["name"])) for m, e in zip(probed.models, entries, strict=True)),
        "<h2>Findings</h2>",
        *(article(f, probed.result, i) for i, f in enumerate(shown)),
        *(["<p>None.</p>"] if not shown else []),
        *skipped_places(probed.result),
    ]
    return page("gradlint probe", body)


def _model(model: MeasuredModel, entry: dict[str, Any], shown: Sequence[Finding], before: dict[str, Any] | None) -> str:
    flags = flags_of(CheckedModel(model.path, model.graph, model.profile), shown)
    past = {x["name"]: x.get("measured") or {} for x in (before or {}).get("layers", [])}
    word = entry["severity"] or "healthy"
    gradient, activation = [], []
    for i, (layer, numbers) in enumerate(zip(model.profile.layers, entry["layers"], strict=True)):
        seen = numbers["measured"] or {}
        codes = [*(shown[f].code for f in flags.get(i, ())), *([numbers["severity"]] if numbers["severity"] else [])]
        marked = tuple(dict.fromkeys(codes))
        gradient.append(point(layer.name, layer.gradient, layer.band, seen.get("gradient"), marked))
        activation.append(point(layer.name, layer.activation_std, None, seen.get("activation_std"), marked))
    problems = "; ".join(entry["problems"])
    return "\n".join(
        [
            f'<section class="model">\n<h3>{escape(entry["name"])}<span class="badge {word}">{word}</span></h3>',
            f'<p class="dim">{escape(_about(entry))}</p>',
            *([f'<p class="verdict">{ticked(problems)}</p>'] if problems else []),
            *([f'<p class="dim">{escape(_earlier(entry, before))}</p>'] if before else []),
            *(_layers(entry, gradient, activation, flags, shown, past) if entry["layers"] else []),
            *_curves(entry),
            *(f'<p class="dim">note: {escape(n)}</p>' for n in entry["notes"]),
            "</section>",
        ]
    )


def _about(entry: dict[str, Any]) -> str:
    rates = ", ".join(number(r) for r in dict.fromkeys(entry["learning_rates"]))
    by = f"{entry['optimizer']} at {rates}" if entry["optimizer"] and rates else entry["optimizer"]
    clipped = {True: "clipped", False: "not clipped", None: None}[entry["clipped"]]
    place = f"{entry['path']}:{entry['line']}" if entry["line"] else entry["path"]
    loss = f"loss {number(entry['loss'])}" if entry["loss"] is not None else "loss not finite"
    parts = (place, loss, f"{entry['batch']} batch", entry["input"], by, clipped, entry["device"])
    return ", ".join(x for x in parts if x)


def _earlier(entry: dict[str, Any], before: dict[str, Any]) -> str:
    was = f"before: {before.get('severity') or 'healthy'}, loss {number(before.get('loss'))}"
    return f"{was}; now loss {number(entry['loss'])}"


def _layers(
    entry: dict[str, Any],
    gradient: Sequence[Point],
    activation: Sequence[Point],
    flags: dict[int, list[int]],
    shown: Sequence[Finding],
    past: dict[str, dict[str, Any]],
) -> Iterator[str]:
    yield from charts(gradient, activation)
    yield '<p class="readout">Point at a layer to read its numbers; click a flagged one to see its finding.</p>'
    yield "<details open><summary>All layers</summary>"
    yield from _table(entry["layers"], flags, shown, past)
    yield "</details>"


def _table(
    layers: Sequence[dict[str, Any]],
    flags: dict[int, list[int]],
    shown: Sequence[Finding],
    past: dict[str, dict[str, Any]],
) -> Iterator[str]:
    headings = ["layer", "kind", "line", "gradient predicted", "measured", *(["before"] if past else [])]
    headings += [title for title, _ in COLUMNS] + ["weights by decade", "their gradients"]
    yield f"<table><thead><tr>{''.join(f'<th>{escape(h)}</th>' for h in headings)}</tr></thead><tbody>"
    for i, layer in enumerate(layers):
        seen = layer["measured"] or {}
        numbers = [number(layer["predicted"]["gradient"]), _number(seen, "gradient")]
        cells = [layer["name"], layer["kind"], layer["line"] or "", *numbers]
        cells += [_number(past.get(layer["name"], {}), "gradient")] if past else []
        cells += [_number(seen, key) for _, key in COLUMNS]
        told = f"{layer['name']} ({layer['kind']}): gradient {numbers[0]} predicted, {numbers[1]} measured"
        rest = "".join(f"; {title} {_number(seen, key)}" for title, key in COLUMNS)
        codes = ", ".join(dict.fromkeys(shown[f].code for f in flags.get(i, ())))
        readout = told + rest + (f"; {codes}" if codes else "")
        css = " ".join(x for x in (layer["severity"] or "", "flagged" if i in flags else "") if x)
        finding = f' data-finding="finding-{flags[i][0]}"' if flags.get(i) else ""
        row = "".join(f"<td>{escape(str(c))}</td>" for c in cells)
        drawn = "".join(f"<td>{_histogram(seen.get(k))}</td>" for k in ("weight_histogram", "gradient_histogram"))
        yield f'<tr class="{css}" data-readout="{escape(readout)}"{finding}>{row}{drawn}</tr>'
    yield "</tbody></table>"


def _number(seen: dict[str, Any], key: str) -> str:
    value = seen.get(key)
    if value is None:
        return "–"
    return f"{value:.0%}" if key in SHARES else number(value)


def _histogram(shares: Sequence[float] | None) -> str:
    low, high = HISTOGRAM_DECADES
    return decades_of(shares, low, high) if shares else "–"


def _curves(entry: dict[str, Any]) -> Iterator[str]:
    """Loss and gradient norm over the steps that were watched."""
    series = [("Loss", entry["losses"], entry["loss_curve"], False)]
    if entry["batch"] == "real":
        series.append(("Gradient norm", entry["gradient_norms"], entry["gradient_norm_class"], True))
    for title, values, word, logarithmic in series:
        if len(values) > 1:
            caption = f"{title} over {len(values)} steps: {word}"
            yield f'<figure><figcaption>{escape(caption)}</figcaption><div class="scroll">'
            yield f"{curve(caption, values, logarithmic=logarithmic)}</div></figure>"
