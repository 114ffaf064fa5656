"""A finding's identity across edits of other lines: for code scanning, code quality and baselines."""

from __future__ import annotations

import hashlib
from collections import Counter

from gradlint.finding import Finding
from gradlint.result import Result


def fingerprints(result: Result) -> list[str]:
    """One fingerprint for each finding of the result, in order.

    Made of rule, path, model and the text of the line and of its neighbours with white space folded, so that it
    survives moves; findings that are the same in all this are numbered.
    """
    seen: Counter[str] = Counter()
    prints = []
    for finding in result.findings:
        base = _base(finding, result)
        prints.append(hashlib.sha256(f"{base}\0{seen[base]}".encode()).hexdigest()[:32])
        seen[base] += 1
    return prints


def _base(finding: Finding, result: Result) -> str:
    lines = result.quotable(finding.location) or []
    at = finding.location.line
    context = [" ".join(lines[i - 1].split()) for i in (at - 1, at, at + 1) if 0 < i <= len(lines)]
    model = (finding.model or "").rpartition(":")[2]
    return "\0".join((finding.code, result.relative(finding.location.path), model, *context))
