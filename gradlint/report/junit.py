"""The `junit` format: one test case a finding, as CI servers read it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from gradlint.report.concise import place
from gradlint.report.github import message
from gradlint.result import Result

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(result: Result, refuted: bool = False) -> str:
    """One suite; a run without findings holds one case that passed."""
    shown = result.shown(refuted)
    suites = ElementTree.Element("testsuites", name="gradlint", tests=str(max(1, len(shown))), failures=str(len(shown)))
    suite = ElementTree.SubElement(
        suites, "testsuite", name="gradlint", tests=suites.get("tests", ""), failures=str(len(shown)), errors="0",
        time=f"{result.seconds:.3f}",
    )  # fmt: skip
    for finding in shown:
        at = finding.location
        path = result.relative(at.path)
        case = ElementTree.SubElement(
            suite, "testcase", name=f"{finding.code} {finding.name}", classname=path, file=path, line=str(at.line)
        )
        failure = ElementTree.SubElement(case, "failure", message=_legal(finding.message), type=finding.severity.value)
        failure.text = _legal(f"{place(finding, result)}\n{message(finding)}")
    if not shown:
        ElementTree.SubElement(suite, "testcase", name="gradlint", classname="gradlint")
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
