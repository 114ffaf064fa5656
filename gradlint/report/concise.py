"""The `concise` format: one line a finding, as compilers write it."""

from __future__ import annotations

from gradlint.finding import Finding
from gradlint.result import Result


def render(result: Result, refuted: bool = False) -> str:
    """`path:line:col: CODE severity message [verdict]`, one a line, all findings that are not refuted."""
    shown = [f for f in result.findings if refuted or f in result.shown() or not f.primary]
    lines = [f"{place(f, result)}: {f.code} {f.severity.value} {f.message}{_verdict(f)}" for f in shown]
    return "".join(line + "\n" for line in lines)


def place(finding: Finding, result: Result) -> str:
    """`train.py:8:5`, in a notebook `nb.ipynb#cell3:7:5`."""
    return f"{result.place(finding.location)}:{finding.location.column}"


def _verdict(finding: Finding) -> str:
    return f" [{finding.verdict.outcome.value}]" if finding.verdict else ""
