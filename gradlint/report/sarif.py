"""The `sarif` format, version 2.1.0, for code scanning."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gradlint import __version__
from gradlint.finding import Finding, Severity
from gradlint.location import Location
from gradlint.report.fingerprint import fingerprints
from gradlint.report.github import message
from gradlint.report.json import model_name
from gradlint.result import Result
from gradlint.rule import Rule, registry

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
FULL_DESCRIPTION = 1024
"""GitHub cuts longer descriptions off."""


def render(result: Result, refuted: bool = False) -> str:
    """One SARIF document with one run. The region of a result is one decisive line, so that a pull request shows it."""
    prints = dict(zip(map(id, result.findings), fingerprints(result), strict=True))
    findings = result.shown(refuted)
    codes = sorted({f.code for f in findings} & registry().keys())
    document = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "gradlint",
                        "semanticVersion": __version__,
                        "informationUri": "https://github.com/gradlint/gradlint",
                        "rules": [_rule(registry()[code]) for code in codes],
                    }
                },
                "originalUriBaseIds": {"ROOT": {"description": {"text": "The project root."}}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(f, prints[id(f)], codes, result) for f in findings],
            }
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _rule(rule: type[Rule]) -> dict[str, Any]:
    documentation = rule.documentation()
    about = _section(documentation, "What it does")
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.name},
        "fullDescription": {"text": about[:FULL_DESCRIPTION]},
        "help": {"text": documentation, "markdown": documentation},
        "helpUri": rule.url(),
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {"tags": ["pytorch", "gradients"]},
    }


def _section(documentation: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", documentation, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _result(finding: Finding, fingerprint: str, codes: list[str], result: Result) -> dict[str, Any]:
    verdict = finding.verdict
    return {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code) if finding.code in codes else -1,
        "level": LEVELS[finding.severity],
        "message": {"text": message(finding)},
        "locations": [{"physicalLocation": _place(finding.location, result, one_line=True)}],
        "relatedLocations": [
            {"id": i, "physicalLocation": _place(r.location, result), "message": {"text": r.message}}
            for i, r in enumerate(finding.related, 1)
        ],
        "partialFingerprints": {"gradlint/v1": fingerprint},
        "properties": {
            "verdict": verdict.outcome.value if verdict else None,
            "verdictReason": verdict.reason if verdict else None,
            "confidence": finding.confidence,
            "model": model_name(finding.model, result),
        },
    }


def _place(at: Location, result: Result, one_line: bool = False) -> dict[str, Any]:
    path = result.relative(at.path)
    artifact: dict[str, Any] = {"uri": _uri(path)}
    if not _is_absolute(path):
        artifact["uriBaseId"] = "ROOT"
    place: dict[str, Any] = {"artifactLocation": artifact}
    if at.cell is None:  # lines within a cell are not lines of the file
        region: dict[str, Any] = {"startLine": at.line, "startColumn": at.column}
        if at.end_line == at.line:
            region["endColumn"] = max(at.end_column, at.column)
        elif not one_line:
            region |= {"endLine": at.end_line, "endColumn": at.end_column}
        place["region"] = region
    return place


def _uri(path: str) -> str:
    from urllib.parse import quote

    if not _is_absolute(path):
        return quote(path)
    return f"file://{'' if path.startswith('/') else '/'}{quote(path, safe='/:')}"


def _is_absolute(path: str) -> bool:
    """Whether a path with `/` names a root, or a drive of Windows."""
    return path.startswith("/") or path[1:3] == ":/"
