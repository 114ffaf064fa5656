"""The `github` format: workflow commands that become annotations on a pull request."""

from __future__ import annotations

from gradlint.finding import Finding, Severity
from gradlint.report import text
from gradlint.report.numbers import chain
from gradlint.result import Result

LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def render(result: Result, refuted: bool = False) -> str:
    """Annotations, then the plain report.

    GitHub shows 10 errors and 10 warnings a step, so the worst and the surest come first.
    """
    order = ("confirmed", "unverified", "refuted")
    shown = sorted(
        result.shown(refuted),
        key=lambda f: (-f.severity.rank, order.index(f.verdict.outcome.value) if f.verdict else 0),
    )
    commands = "".join(_command(f, result) + "\n" for f in shown)
    return commands + text.render(result, refuted)


def _command(finding: Finding, result: Result) -> str:
    at = finding.location
    properties = {"title": f"gradlint ({finding.code})", "file": result.relative(at.path)}
    if at.cell is None:
        properties["line"] = str(at.line)
        if at.end_line == at.line:  # columns of a span of several lines are refused
            properties |= {"col": str(at.column), "endLine": str(at.end_line), "endColumn": str(at.end_column)}
        else:
            properties["endLine"] = str(at.end_line)
    listed = ",".join(f"{k}={_property(v)}" for k, v in properties.items())
    return f"::{LEVELS[finding.severity]} {listed}::{_data(message(finding))}"


def message(finding: Finding) -> str:
    """What a one-paragraph report says of a finding: message, verdict, numbers, help."""
    at = finding.location
    parts = [finding.message if at.cell is None else f"cell {at.cell}, line {at.line}: {finding.message}"]
    if finding.verdict is not None:
        parts.append(f"{finding.verdict.outcome.value}: {finding.verdict.reason}")
    numbers = chain(finding.evidence)
    if numbers:
        parts.append(numbers)
    if finding.help:
        parts.append(f"help: {finding.help}")
    return "\n".join(parts)


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
