"""Applies fixes to files and cells of notebooks: whole or not at all, re-parsed first, written atomically."""

from __future__ import annotations

import ast
import difflib
import io
import os
import tempfile
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gradlint.finding import Edit, Finding
from gradlint.result import is_refuted
from gradlint.source.notebook import MAX_BYTES, code_cells, python_of, with_cells
from gradlint.source.project import UNPARSABLE, UnreadableError, read_bytes, read_text

Place = tuple[str, int]
"""What is edited as one text: a path, and the index of a cell where that is a notebook (else -1)."""

Rewrite = Callable[[str, list[Finding], Callable[[str], str]], tuple[str, list[Finding]]]
"""From a text, findings in it, and what makes Python of the text (magics of a cell commented out) to the text as it
shall be, and the findings that this settles."""


@dataclass(frozen=True)
class Change:
    """The text of a file, or of one cell of a notebook, before and after."""

    cell: int | None
    before: str
    after: str


@dataclass(frozen=True)
class FixedFile:
    """A file as fixes change it. `applied` are the findings whose fix was taken, `dropped` counts those
    whose fix was thrown away."""

    path: Path
    changes: tuple[Change, ...]
    applied: tuple[Finding, ...]
    dropped: int

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return any(c.before != c.after for c in self.changes)

    def diff(self, name: str) -> str:
        """The change as a unified diff, one for each cell of a notebook."""
        return "".join(_diff(c, name if c.cell is None else f"{name}#cell{c.cell}") for c in self.changes)


def _diff(change: Change, name: str) -> str:
    before, after = (text.splitlines(keepends=True) for text in (change.before, change.after))
    lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def fixed(
    findings: Iterable[Finding], unsafe: bool = False, given: Mapping[str, str] | None = None
) -> Iterator[FixedFile]:
    """The files that fixes change, by path; `given` are texts that stand for files. Those of refuted findings are
    not applied.

    A fix that overlaps one that was taken, or after which the text no longer parses, is thrown away.
    """
    by_place: dict[Place, list[Finding]] = {}
    for finding in findings:
        fix = finding.fix
        if fix is None or is_refuted(finding) or (not fix.safe and not unsafe):
            continue
        places = {place_of(e.location.path, e.location.cell) for e in fix.edits}
        if len(places) == 1:
            by_place.setdefault(places.pop(), []).append(finding)
    yield from rewritten(by_place, _with_fixes, given or {})


def place_of(path: str, cell: int | None) -> Place:
    """The text that a path and a cell name."""
    return path, -1 if cell is None else cell


def rewritten(
    by_place: Mapping[Place, list[Finding]], rewrite: Rewrite, given: Mapping[str, str]
) -> Iterator[FixedFile]:
    """The files, by path, with each text that has findings rewritten. Files that cannot be read are left out."""
    for path in sorted({path for path, _ in by_place}):
        try:
            texts = {-1: given[path]} if path in given else _texts(Path(path))
        except UnreadableError:
            continue
        changes, applied, asked = [], [], 0
        for (_, cell), findings in sorted((x for x in by_place.items() if x[0][0] == path), key=lambda x: x[0]):
            asked += len(findings)
            if (before := texts.get(cell)) is not None:
                after, settled = rewrite(before, findings, str if cell < 0 else python_of)
                changes.append(Change(None if cell < 0 else cell, before, after))
                applied += settled
        yield FixedFile(Path(path), tuple(changes), tuple(applied), asked - len(applied))


def _texts(path: Path) -> dict[int, str]:
    """The texts of a file as they stand: its own, or those of a notebook's cells."""
    if path.suffix == ".ipynb":
        return code_cells(read_bytes(path, MAX_BYTES, "a notebook"))
    return {-1: read_text(path)}


def _with_fixes(text: str, findings: list[Finding], plain: Callable[[str], str]) -> tuple[str, list[Finding]]:
    taken: list[Edit] = []
    applied: list[Finding] = []
    for finding in findings:
        assert finding.fix is not None
        new = [e for e in finding.fix.edits if e not in taken]
        candidate = [*taken, *new]
        if not _overlap(candidate, text) and _parses(plain(edited(text, candidate))):
            taken = candidate
            applied.append(finding)
    return edited(text, taken), applied


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
    return any(a[1] > b[0] or a == b for a, b in pairwise(spans)) or any(not 0 <= a <= b <= len(text) for a, b in spans)


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except UNPARSABLE:
        return False
    return True


def write(file: FixedFile) -> None:
    """Replace the file in one step, keeping its mode, byte order mark and line ends.

    Raises OSError, UnicodeEncodeError, and UnreadableError for a notebook that is not laid out as Jupyter does.
    """
    raw = file.path.read_bytes()
    if file.path.suffix == ".ipynb":
        body = with_cells(raw, {c.cell: c.after for c in file.changes if c.cell is not None and c.before != c.after})
    else:
        (change,) = file.changes
        bom = b"\xef\xbb\xbf" if raw.startswith(b"\xef\xbb\xbf") else b""
        newline = "\r\n" if b"\r\n" in raw else "\n"
        body = bom + change.after.replace("\n", newline).encode(_encoding(raw))
    replace_file(file.path, body)


def replace_file(path: Path, body: bytes) -> None:
    """Put other content into a file in one step, keeping its mode; a link stays a link. Raises OSError."""
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(body)
        Path(name).chmod(target.stat().st_mode & 0o7777 if target.exists() else 0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _encoding(raw: bytes) -> str:
    try:
        found = tokenize.detect_encoding(io.BytesIO(raw).readline)[0]
    except (SyntaxError, LookupError):
        found = "utf-8"
    return "utf-8" if found == "utf-8-sig" else found
