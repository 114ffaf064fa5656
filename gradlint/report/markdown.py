"""The `markdown` format: for job summaries and comments on pull requests."""

from __future__ import annotations

from gradlint.finding import Finding, Severity
from gradlint.notation import decades
from gradlint.report.concise import place
from gradlint.report.numbers import chain, counts
from gradlint.result import Result, predicted_range

MARKS = {Severity.ERROR: "🔴 error", Severity.WARNING: "🟠 warning", Severity.INFO: "🔵 info"}


def render(result: Result, refuted: bool = False) -> str:
    """A heading, a table of findings with the evidence of each folded below, and a table of models."""
    shown = result.shown(refuted)
    counted = result.shown()
    lines = ["## gradlint", ""]
    if not counted:
        lines += [f"No findings in {result.files} file{'s' * (result.files != 1)}.", ""]
    else:
        lines += [
            f"{counts(counted)} in {result.files} file{'s' * (result.files != 1)}."
            + (f" {result.repeats} more with the same cause as one of these." if result.repeats else ""),
            "",
        ]
    if shown:
        lines += ["| where | rule | severity | verdict | finding |", "|---|---|---|---|---|"]
        lines += [_row(f, result) for f in shown]
        lines.append("")
        for finding in shown:
            lines += _details(finding, result)
    if result.models:
        lines += ["| model | layers | predicted gradient | traced by |", "|---|---|---|---|"]
        for model in result.models:
            span = predicted_range(model)
            gradient = f"{decades(span[0])} … {decades(span[1])}" if span else "unknown"
            name = model.graph.class_name or model.graph.name
            lines.append(f"| `{name}` | {len(model.profile.layers)} | {gradient} | {model.graph.traced_by} |")
        lines.append("")
    for skipped in result.skipped:
        lines.append(f"- skipped `{result.place(skipped.location)}`: {_cell(skipped.reason)}")
    lines += [f"- note: {_cell(note)}" for note in result.notes]
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(finding: Finding, result: Result) -> str:
    verdict = finding.verdict.outcome.value if finding.verdict else "–"
    return (
        f"| `{place(finding, result)}` | {finding.code} {finding.name} | {MARKS[finding.severity]} | {verdict} "
        f"| {_cell(finding.message)} |"
    )


def _details(finding: Finding, result: Result) -> list[str]:
    numbers = chain(finding.evidence)
    body = [x for x in (numbers, finding.verdict.reason if finding.verdict else "", finding.help or "") if x]
    body += [f"`{result.place(r.location)}` {r.message}" for r in finding.related[:20]]
    if not body:
        return []
    summary = f"<details><summary>{finding.code} at <code>{place(finding, result)}</code></summary>"
    return [summary, "", *(f"- {_cell(line)}" for line in body), "", "</details>", ""]


def _cell(text: str) -> str:
    """The text for a cell of a table: on one line, and no HTML outside of code spans."""
    parts = text.replace("|", "\\|").replace("\n", " ").split("`")
    return "`".join(p if i % 2 else p.replace("<", "&lt;") for i, p in enumerate(parts))
