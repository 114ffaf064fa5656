"""The `gitlab` format: a Code Quality report."""

from __future__ import annotations

import msgspec

from gradlint.finding import Severity
from gradlint.report.fingerprint import fingerprints
from gradlint.result import Result

LEVELS = {Severity.ERROR: "critical", Severity.WARNING: "major", Severity.INFO: "info"}


def render(result: Result, refuted: bool = False) -> str:
    """One JSON array; fingerprints are stable across moves."""
    shown = {id(f) for f in result.shown(refuted)}
    issues = [
        {
            "description": f"{finding.code}: {finding.message}",
            "check_name": finding.name,
            "fingerprint": fingerprint,
            "severity": LEVELS[finding.severity],
            "location": {
                "path": result.relative(finding.location.path),
                "lines": {"begin": finding.location.line, "end": finding.location.end_line},
            },
        }
        for finding, fingerprint in zip(result.findings, fingerprints(result), strict=True)
        if id(finding) in shown
    ]
    return msgspec.json.format(msgspec.json.encode(issues), indent=1).decode() + "\n"
