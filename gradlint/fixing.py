"""Applies fixes to files: whole or not at all, re-parsed first, written atomically."""

from __future__ import annotations

import ast
import difflib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gradlint.finding import Edit, Finding
from gradlint.result import is_refuted
from gradlint.source.project import UNPARSABLE, UnreadableError, read_text


@dataclass(frozen=True)
class FixedFile:
    """A file as fixes change it. `applied` are the findings whose fix was taken, `dropped` counts those
    whose fix was thrown away."""

    path: Path
    before: str
    after: str
    applied: tuple[Finding, ...]
    dropped: int

    def diff(self, name: str) -> str:
        """The change as a unified diff."""
        return "".join(
            difflib.unified_diff(
                self.before.splitlines(keepends=True), self.after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
            )
        )


def fixed(findings: Iterable[Finding], unsafe: bool = False) -> Iterator[FixedFile]:
    """The files that fixes change, by path. Fixes of refuted findings and of notebooks are not applied.

    A fix that overlaps one that was taken, or after which the file no longer parses, is thrown away.
    """
    by_path: dict[str, list[Finding]] = {}
    for finding in findings:
        fix = finding.fix
        if fix is None or is_refuted(finding) or (not fix.safe and not unsafe):
            continue
        paths = {e.location.path for e in fix.edits}
        if len(paths) == 1 and not any(e.location.cell is not None for e in fix.edits):
            by_path.setdefault(paths.pop(), []).append(finding)
    for path in sorted(by_path):
        try:
            text = read_text(Path(path))
        except UnreadableError:
            continue
        yield _fixed_file(Path(path), text, by_path[path])


def _fixed_file(path: Path, text: str, findings: list[Finding]) -> FixedFile:
    taken: list[Edit] = []
    applied: list[Finding] = []
    dropped = 0
    for finding in findings:
        assert finding.fix is not None
        new = [e for e in finding.fix.edits if e not in taken]
        candidate = [*taken, *new]
        if _overlap(candidate, text) or not _parses(edited(text, candidate)):
            dropped += 1
            continue
        taken = candidate
        applied.append(finding)
    return FixedFile(path, text, edited(text, taken), tuple(applied), dropped)


def edited(text: str, edits: Iterable[Edit]) -> str:
    """The text with the edits made; they must not overlap."""
    spans = sorted(((*_span(e, text), e.replacement) for e in edits), key=lambda s: (s[0], s[1]), reverse=True)
    for start, end, replacement in spans:
        text = text[:start] + replacement + text[end:]
    return text


def _span(edit: Edit, text: str) -> tuple[int, int]:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    at = edit.location
    return starts[at.line - 1] + at.column - 1, starts[at.end_line - 1] + at.end_column - 1


def _overlap(edits: list[Edit], text: str) -> bool:
    spans = sorted(_span(e, text) for e in edits)
    return any(a[1] > b[0] or a == b for a, b in pairwise(spans))


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except UNPARSABLE:
        return False
    return True


def write(file: FixedFile) -> None:
    """Replace the file in one step, keeping its mode, byte order mark and line ends. Raises OSError."""
    raw = file.path.read_bytes()
    bom = b"\xef\xbb\xbf" if raw.startswith(b"\xef\xbb\xbf") else b""
    newline = "\r\n" if b"\r\n" in raw else "\n"
    body = bom + file.after.replace("\n", newline).encode(_encoding(raw))
    descriptor, name = tempfile.mkstemp(dir=file.path.parent, prefix=f".{file.path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(body)
        Path(name).chmod(file.path.stat().st_mode & 0o7777)
        Path(name).replace(file.path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _encoding(raw: bytes) -> str:
    import io
    import tokenize

    try:
        found = tokenize.detect_encoding(io.BytesIO(raw).readline)[0]
    except (SyntaxError, LookupError):
        found = "utf-8"
    return "utf-8" if found == "utf-8-sig" else found
