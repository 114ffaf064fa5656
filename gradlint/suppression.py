"""Comments that switch findings off: `# gradlint: ignore[GL201]`, `# noqa: GL201`, `# gradlint: ignore-file[…]`."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gradlint.config import matches
from gradlint.finding import Finding, Severity
from gradlint.location import Location
from gradlint.rule import registry

_COMMENT = re.compile(
    r"#\s*(?:gradlint:\s*(?P<kind>ignore-file|ignore)\s*(?:\[(?P<codes>[^\]]*)\])?"
    r"|(?P<noqa>noqa)\s*:\s*(?P<list>[A-Za-z]+[0-9]+(?:\s*[,\s]\s*[A-Za-z]+[0-9]+)*))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Suppression:
    """A comment that switches findings off.

    `codes` are codes, prefixes or names; empty means all. `lines` is the span of the statement it stands on
    (first, last), or None for the whole file. `location` spans the comment.
    """

    codes: tuple[str, ...]
    location: Location
    lines: tuple[int, int] | None
    blanket: bool = False

    def covers(self, finding: Finding) -> bool:
        """Whether this comment switches that finding off."""
        if finding.location.path != self.location.path or finding.location.cell != self.location.cell:
            return False
        if self.lines is not None and not self.lines[0] <= finding.location.line <= self.lines[1]:
            return False
        return self.blanket or any(matches(c, finding.code, finding.name) for c in self.codes)


def suppressions(path: str, text: str, tree: ast.Module | None) -> list[Suppression]:
    """All suppression comments of a file, in order. On a statement of several lines either end serves."""
    if "gradlint" not in text and "noqa" not in text.lower():
        return []
    spans = _statement_ends(tree) if tree is not None else {}
    found = []
    for line, column, comment in _comments(text):
        for match in _COMMENT.finditer(comment):
            raw = match["list"] if match["noqa"] else match["codes"]
            codes = tuple(c for c in re.split(r"[,\s]+", raw or "") if c)
            if match["noqa"]:
                codes = tuple(c.upper() for c in codes if c.upper().startswith("GL"))
                if not codes:
                    continue
            whole = (match["kind"] or "").lower() == "ignore-file"
            start = column + match.start()
            place = Location(path, line, start + 1, line, column + match.end() + 1)
            lines = None if whole else spans.get(line, (line, line))
            found.append(Suppression(codes, place, lines, blanket=not codes and match["codes"] is None))
    return found


def _comments(text: str) -> Iterator[tuple[int, int, str]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.start[1], token.string
    except (tokenize.TokenError, SyntaxError):
        return


def _statement_ends(tree: ast.Module) -> dict[int, tuple[int, int]]:
    """First and last line of simple statements and of the headers of compound ones, keyed by either line."""
    spans: dict[int, tuple[int, int]] = {}
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.stmt):
            last = node.end_lineno or node.lineno
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                last = max(node.lineno, body[0].lineno - 1)
            if last > node.lineno:
                spans.setdefault(node.lineno, (node.lineno, last))
                spans.setdefault(last, (node.lineno, last))
        stack.extend(ast.iter_child_nodes(node))
    return spans


def apply(findings: Iterable[Finding], comments: Sequence[Suppression]) -> tuple[list[Finding], list[Suppression]]:
    """The findings that no comment switches off, and the comments that switched none off."""
    used: set[int] = set()
    kept = []
    for finding in findings:
        covering = [i for i, comment in enumerate(comments) if comment.covers(finding)]
        used.update(covering)
        if not covering:
            kept.append(finding)
    return kept, [c for i, c in enumerate(comments) if i not in used]


def unused(comments: Iterable[Suppression], active: Sequence[str]) -> Iterator[Finding]:
    """GL002 for comments that switched nothing off, of those whose rules are all `active` (codes)."""
    rules = registry()
    if "GL002" not in active or "GL002" not in rules:
        return
    for comment in comments:
        meant = [r for r in rules.values() if any(matches(c, r.code, r.name) for c in comment.codes)]
        known = {c for c in comment.codes if any(matches(c, r.code, r.name) for r in rules.values())}
        stray = [c for c in comment.codes if c not in known]
        if not stray and any(r.code not in active for r in meant):
            continue
        shown = ", ".join(comment.codes)
        message = (
            f"`{', '.join(stray)}` in a suppression is no rule"
            if stray
            else f"the suppression of `{shown}` suppresses nothing"
            if shown
            else "this suppression suppresses nothing"
        )
        yield Finding(
            "GL002",
            rules["GL002"].name,
            Severity.WARNING,
            message,
            comment.location,
            help="remove the comment" if not stray else "write a code or a name that `gradlint explain` lists",
            needs_probe=False,
        )
