"""The findings that a project has accepted for now, kept in a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from gradlint.finding import Finding
from gradlint.fixing import replace_file
from gradlint.report.fingerprint import fingerprints
from gradlint.result import Result, is_refuted

VERSION = 1


class BaselineError(Exception):
    """The baseline cannot be read or written; the message is one line with the path."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted finding. `path` is relative to the baseline's folder; `text` is its line with white space folded;
    `line` and `message` are for people."""

    fingerprint: str
    code: str
    path: str
    line: int
    text: str
    message: str
    model: str = ""


class _Document(msgspec.Struct, frozen=True):
    version: int
    findings: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Compared:
    """A result held against a baseline: what is new, how many findings it accepts, and the entries that no finding
    of a checked (or vanished) file answers to any more."""

    result: Result
    accepted: int
    stale: tuple[Entry, ...]


def load(path: Path) -> tuple[Entry, ...]:
    """The entries of a baseline file. Raises BaselineError."""
    try:
        document = msgspec.json.decode(path.read_bytes(), type=_Document)
    except OSError as error:
        hint = " (--update-baseline writes it)" if isinstance(error, FileNotFoundError) else ""
        raise BaselineError(f"{path}: {error.strerror or error}{hint}") from error
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path}: not a baseline: {error}") from error
    if document.version != VERSION:
        raise BaselineError(f"{path}: a baseline of version {document.version}; this gradlint reads version {VERSION}")
    return document.findings


def compare(result: Result, entries: Iterable[Entry], path: Path, files: Iterable[Path]) -> Compared:
    """The result without what the baseline at `path` accepts; `files` are those that were checked.

    A finding answers to an entry with its fingerprint; else, as its neighbouring lines may have changed, to one of
    the same rule, file, model and line of text. Each entry accepts one finding.
    """
    known = list(entries)
    current = _entries(result, path)
    accepted: dict[int, Entry] = {}
    for same in (_by_fingerprint, _by_text):
        waiting: dict[object, list[Entry]] = {}
        taken = {id(e) for e in accepted.values()}
        for entry in known:
            if id(entry) not in taken:
                waiting.setdefault(same(entry), []).append(entry)
        for i, entry in enumerate(current):
            if i not in accepted and not is_refuted(result.findings[i]) and waiting.get(same(entry)):
                accepted[i] = waiting[same(entry)].pop(0)
    used = {id(e) for e in accepted.values()}
    checked = {str(f.resolve()) for f in files}
    stale = tuple(e for e in known if id(e) not in used and _was_checked(e, path, checked))
    left = tuple(f for i, f in enumerate(result.findings) if i not in accepted)
    return Compared(replace(result, findings=left), len(accepted), stale)


def update(result: Result, entries: Iterable[Entry], path: Path, files: Iterable[Path]) -> int:
    """Write the findings of the result as the baseline, keeping entries of files that were not checked.

    Returns how many stale entries were dropped. Raises BaselineError.
    """
    before = tuple(entries)
    checked = {str(f.resolve()) for f in files}
    stale = len(compare(result, before, path, files).stale)
    findings = [e for e, f in zip(_entries(result, path), result.findings, strict=True) if not is_refuted(f)]
    kept = [e for e in before if not _was_checked(e, path, checked)]
    ordered = sorted((*kept, *findings), key=lambda e: (e.path, e.line, e.code, e.fingerprint))
    _write(path, msgspec.json.format(msgspec.json.encode(_Document(VERSION, tuple(ordered))), indent=1) + b"\n")
    return stale


def _entries(result: Result, path: Path) -> list[Entry]:
    """One entry for each finding. Paths are told from the baseline's folder, whatever folder gradlint runs in."""
    here = replace(result, root=path.resolve().parent)
    return [
        Entry(
            fingerprint=fingerprint,
            code=finding.code,
            path=_key(finding, here),
            line=finding.location.line,
            text=_text(finding, here),
            message=finding.message,
            model=(finding.model or "").rpartition(":")[2],
        )
        for finding, fingerprint in zip(result.findings, fingerprints(here), strict=True)
    ]


def _key(finding: Finding, result: Result) -> str:
    return result.relative(finding.location.path)


def _text(finding: Finding, result: Result) -> str:
    lines = result.quotable(finding.location) or []
    at = finding.location.line
    return " ".join(lines[at - 1].split()) if 0 < at <= len(lines) else ""


def _by_fingerprint(entry: Entry) -> object:
    return entry.fingerprint


def _by_text(entry: Entry) -> object:
    return entry.code, entry.path, entry.model, entry.text


def _was_checked(entry: Entry, path: Path, checked: set[str]) -> bool:
    """Whether this run can say that the entry is stale: its file was checked, or is gone."""
    file = (path.resolve().parent / entry.path).resolve()
    return str(file) in checked or not file.exists()


def _write(path: Path, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise BaselineError(f"{path}: {error.strerror or error}") from error
