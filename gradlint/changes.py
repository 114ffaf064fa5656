"""Which lines changed since a commit, as git tells it."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

from gradlint.finding import Finding
from gradlint.location import Location

SECONDS = 120
"""git answers sooner than this on any repository that a person waits for."""


class ChangesError(Exception):
    """What changed cannot be told; the message is one line with the next step."""


@dataclass(frozen=True)
class Changes:
    """Changed lines by absolute path; None stands for a whole file (new ones, notebooks)."""

    lines: dict[str, frozenset[int] | None]

    def touch(self, finding: Finding) -> bool:
        """Whether the finding's lines, or a related line, changed."""
        return any(self._holds(at) for at in (finding.location, *(r.location for r in finding.related)))

    def _holds(self, at: Location) -> bool:
        changed = self.lines.get(at.path, frozenset())
        return changed is None or not changed.isdisjoint(range(at.line, at.end_line + 1))


def changed_since(ref: str, folder: Path) -> Changes:
    """What the working tree changed since it parted from `ref`, untracked files included.

    The comparison is with the merge base, so that what others did on `ref` meanwhile is not counted. Where lines
    were only deleted, the two lines around the gap count as changed. Raises ChangesError.
    """
    try:
        top = Path(_git(folder, "rev-parse", "--show-toplevel").strip()).resolve()
    except subprocess.CalledProcessError as error:
        raise ChangesError(f"--changed-since: {_first_line(error)}") from error
    base = _merge_base(ref, folder)
    try:
        diff = _git(
            folder, "diff", "-U0", "-M", "--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all",
            "--src-prefix=a/", "--dst-prefix=b/", base, "--",
        )  # fmt: skip
        untracked = _git(top, "ls-files", "--others", "--exclude-standard", "-z")
        lines = dict(_changed(diff, top))
    except subprocess.CalledProcessError as error:
        raise ChangesError(f"--changed-since: {_first_line(error)}") from error
    except UnidiffParseError as error:
        raise ChangesError(f"--changed-since: the output of `git diff` cannot be read: {error}") from error
    lines |= {str(top / name): None for name in untracked.split("\0") if name}
    return Changes(lines)


def _merge_base(ref: str, folder: Path) -> str:
    """The commit that the working tree parted from `ref` at."""
    shallow = _git(folder, "rev-parse", "--is-shallow-repository").strip() == "true"
    deepen = "this is a shallow clone: fetch more of its history (`git fetch --unshallow`, or `fetch-depth: 0`)"
    try:
        commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}").strip()
    except subprocess.CalledProcessError as error:
        hint = f"; {deepen}" if shallow else ""
        raise ChangesError(f"--changed-since: git knows no commit `{ref}`{hint}") from error
    try:
        return _git(folder, "merge-base", commit, "HEAD").strip()
    except subprocess.CalledProcessError as error:
        hint = deepen if shallow else "their histories are unrelated"
        raise ChangesError(f"--changed-since: `{ref}` and HEAD share no commit; {hint}") from error


def _changed(diff: str, top: Path) -> Iterator[tuple[str, frozenset[int] | None]]:
    # Only "\n" ends a line of a diff; form feeds and U+2028 stand within lines.
    for file in PatchSet(io.StringIO(diff, newline="\n")):
        if file.is_removed_file:
            continue
        path = str(top / file.path)
        if file.is_added_file or path.endswith(".ipynb"):  # lines of a notebook's JSON are no lines of its cells
            yield path, None
            continue
        spans = [
            range(h.target_start, h.target_start + (h.target_length or 2))  # 0: a gap behind target_start
            for h in file
        ]
        yield path, frozenset(line for span in spans for line in span)


def _git(folder: Path, *arguments: str) -> str:
    """What git prints. Raises ChangesError where it is not installed, CalledProcessError where it fails."""
    command = ["git", "-c", "core.quotePath=false", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=SECONDS)
    except FileNotFoundError as error:
        raise ChangesError("--changed-since: git is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ChangesError(f"--changed-since: git took longer than {SECONDS} s") from error
    return done.stdout.decode("utf-8", errors="replace")


def _first_line(error: subprocess.CalledProcessError) -> str:
    said = error.stderr.decode("utf-8", errors="replace").strip().splitlines()
    return said[0].removeprefix("fatal: ") if said else f"git failed with {error.returncode}"
