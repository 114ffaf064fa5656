"""The `rdjson` format: Reviewdog Diagnostic Format, for review comments on any code host."""

from __future__ import annotations

from typing import Any

import msgspec

from gradlint.finding import Finding, Severity
from gradlint.location import Location
from gradlint.report.github import message
from gradlint.result import Result
from gradlint.rule import registry

LEVELS = {Severity.ERROR: "ERROR", Severity.WARNING: "WARNING", Severity.INFO: "INFO"}


def render(result: Result, refuted: bool = False) -> str:
    """One `DiagnosticResult` of reviewdog's proto/rdf; columns count bytes of UTF-8 from 1."""
    document = {
        "source": {"name": "gradlint", "url": "https://github.com/gradlint/gradlint"},
        "diagnostics": [_diagnostic(f, result) for f in result.shown(refuted)],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _diagnostic(finding: Finding, result: Result) -> dict[str, Any]:
    rule = registry().get(finding.code)
    diagnostic: dict[str, Any] = {
        "message": message(finding),
        "location": _place(finding.location, result),
        "severity": LEVELS[finding.severity],
        "code": {"value": finding.code, **({"url": rule.url()} if rule else {})},
    }
    fix = finding.fix
    # A suggestion stands beside the finding in the same file; a notebook's lines are none of the file's.
    if fix is not None and all(e.location.path == finding.location.path and e.location.cell is None for e in fix.edits):
        diagnostic["suggestions"] = [{"range": _range(e.location, result), "text": e.replacement} for e in fix.edits]
    if finding.related:
        diagnostic["related_locations"] = [
            {"message": r.message, "location": _place(r.location, result)} for r in finding.related
        ]
    return diagnostic


def _place(at: Location, result: Result) -> dict[str, Any]:
    place: dict[str, Any] = {"path": result.relative(at.path)}
    if at.cell is None:
        place["range"] = _range(at, result)
    return place


def _range(at: Location, result: Result) -> dict[str, Any]:
    lines = result.quotable(at) or []
    return {
        "start": {"line": at.line, "column": _bytes(lines, at.line, at.column)},
        "end": {"line": at.end_line, "column": _bytes(lines, at.end_line, at.end_column)},
    }


def _bytes(lines: list[str], line: int, column: int) -> int:
    """The column in bytes of a column in characters."""
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    return len(text[: column - 1].encode()) + 1 if text else column
