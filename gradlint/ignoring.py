"""Writes suppression comments for findings that a person has decided to live with."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

from gradlint.finding import Edit, Finding
from gradlint.fixing import FixedFile, Place, edited, place_of, rewritten
from gradlint.location import Location
from gradlint.result import is_refuted
from gradlint.suppression import suppressions

NOT_SUPPRESSED = frozenset({"GL001", "GL002"})
"""A file that does not parse, and a suppression that is not needed, are to be put right, not silenced."""

_OWN = re.compile(r"#\s*gradlint:\s*ignore\s*\[(?P<codes>[^\]]*)\]", re.IGNORECASE)


def with_ignores(findings: Iterable[Finding], reason: str) -> Iterator[FixedFile]:
    """The files with `# gradlint: ignore[CODE] -- reason` at each finding, by path.

    `applied` are the findings that are suppressed now; `dropped` counts those for which there is no place for a
    comment (in a string of several lines). Refuted findings are left alone.
    """
    by_place: dict[Place, list[Finding]] = {}
    for finding in findings:
        if not is_refuted(finding) and finding.code not in NOT_SUPPRESSED:
            by_place.setdefault(place_of(finding.location.path, finding.location.cell), []).append(finding)
    yield from rewritten(by_place, partial(_with_comments, " ".join(reason.split())), {})


def _with_comments(
    reason: str, text: str, findings: list[Finding], plain: Callable[[str], str]
) -> tuple[str, list[Finding]]:
    after = text
    applied = []
    for finding in findings:
        try:
            changed = suppressed(after, finding, reason, plain)
        except (SyntaxError, ValueError, RecursionError):
            continue
        if changed is not None:
            after = changed
            applied.append(finding)
    return after, applied


def suppressed(text: str, finding: Finding, reason: str, plain: Callable[[str], str] = str) -> str | None:
    """The text of the finding's file (or cell) with a comment that suppresses it, or None where there is no place for
    one. `plain` makes Python of a text, line by line.

    Raises SyntaxError, ValueError and RecursionError for a text that does not parse.
    """
    program = ast.parse(plain(text))
    before = ast.dump(program)
    here = replace(finding, location=replace(finding.location, cell=None))
    candidates = _candidates(text, program, here, reason)
    return next((c for c in candidates if _covers(plain(c), here, before)), None)


def _candidates(text: str, program: ast.Module, finding: Finding, reason: str) -> Iterator[str]:
    """The text with a comment on the finding's line, or on the first or the last line of its statement."""
    yield text
    line = finding.location.line
    lines = [line]
    for node in ast.walk(program):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            lines += [node.end_lineno or node.lineno, node.lineno]
    for place in dict.fromkeys(lines):
        yield _commented(text, place, finding.code, reason)


def _commented(text: str, line: int, code: str, reason: str) -> str:
    """The text with the code in the suppression on that line, or in a new one at its end."""
    content = text.split("\n")[line - 1]
    own = _OWN.search(content)
    if own and own["codes"].strip():
        at = Location("", line, own.end("codes") + 1)
        return edited(text, [Edit(at, f", {code}")])
    end = len(content.rstrip()) + 1
    because = f" -- {reason}" if reason else ""
    return edited(
        text, [Edit(Location("", line, end, line, len(content) + 1), f"  # gradlint: ignore[{code}]{because}")]
    )


def _covers(text: str, finding: Finding, tree: str) -> bool:
    """Whether the program is the same as before and the finding is suppressed in it."""
    try:
        parsed = ast.parse(text)
        list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return False
    comments = suppressions(finding.location.path, text, parsed)
    return ast.dump(parsed) == tree and any(c.covers(finding) for c in comments)
