"""The `gitlab` format: a Code Quality report."""

from __future__ import annotations

import msgspec

from gradlint.finding import Finding, Severity
from gradlint.report.fingerprint import fingerprints
from gradlint.result import Result

LEVELS = {Severity.ERROR: "critical", Severity.WARNING: "major", Severity.INFO: "info"}


def render(result: Result, refuted: bool = False) -> str:
    """One JSON array; fingerprints are stable across moves."""
    shown = {id(f) for f in result.shown(refuted)}
    issues = [
        {
            "description": f"{finding.code}: {_where(finding)}{finding.message}",
            "check_name": finding.name,
            "fingerprint": fingerprint,
            "severity": LEVELS[finding.severity],
            "location": {
                "path": result.relative(finding.location.path),
                "lines": _lines(finding),
            },
        }
        for finding, fingerprint in zip(result.findings, fingerprints(result), strict=True)
        if id(finding) in shown
    ]
    return msgspec.json.format(msgspec.json.encode(issues), indent=1).decode() + "\n"


def _where(finding: Finding) -> str:
    at = finding.location
    return "" if at.cell is None else f"cell {at.cell}, line {at.line}: "


def _lines(finding: Finding) -> dict[str, int]:
    at = finding.location
    # Lines within a cell are not lines of the file, and the format has no place without a line.
    return {"begin": at.line, "end": at.end_line} if at.cell is None else {"begin": 1, "end": 1}
