"""What a team asks of a run: new findings only, changed lines only, or suppressions for what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradlint import baseline as baselines
from gradlint import fixing
from gradlint.causes import standing
from gradlint.ignoring import with_ignores
from gradlint.result import Result
from gradlint.source.project import UnreadableError

if TYPE_CHECKING:
    from gradlint.changes import Changes


class AdoptionError(Exception):
    """The options contradict each other, or a file cannot be written; the message is one line."""


@dataclass
class Adoption:
    """The options `--baseline`, `--no-baseline`, `--update-baseline`, `--changed-since`, `--add-ignore` and `--reason`
    of one run."""

    baseline: Path | None = None
    no_baseline: bool = False
    update_baseline: bool = False
    changed_since: str | None = None
    add_ignore: bool = False
    reason: str = ""
    _entries: tuple[baselines.Entry, ...] = ()
    _changes: Changes | None = None

    def prepare(self, folder: Path, configured: Path | None = None) -> None:
        """Read the baseline (the option's, else the `configured` one) and what changed in the repository of `folder`,
        before the work begins.

        Raises AdoptionError, BaselineError and ChangesError.
        """
        if self.no_baseline and (self.baseline is not None or self.update_baseline):
            raise AdoptionError("--no-baseline contradicts --baseline and --update-baseline")
        if self.baseline is None and not self.no_baseline:
            self.baseline = _from_here(configured)
        if self.update_baseline and self.baseline is None:
            raise AdoptionError("--update-baseline: say which file with --baseline FILE")
        if self.update_baseline and (self.changed_since is not None or self.add_ignore):
            raise AdoptionError("--update-baseline takes all findings: leave --changed-since and --add-ignore out")
        if self.baseline is not None and (self.baseline.exists() or not self.update_baseline):
            self._entries = baselines.load(self.baseline)
        if self.changed_since is not None:
            from gradlint.changes import changed_since

            self._changes = changed_since(self.changed_since, folder)

    def narrowed(self, result: Result, files: Sequence[Path]) -> Result:
        """The result with only what is new and on changed lines, and with notes that say what was left out."""
        if self.baseline is not None and not self.update_baseline:
            compared = baselines.compare(result, self._entries, self.baseline, files)
            notes = list(result.notes)
            if compared.accepted:
                notes.append(f"{_count(compared.accepted)} accepted by {self.baseline}")
            notes += [
                f"stale in {self.baseline}: {e.path}:{e.line} {e.code} (--update-baseline drops it)"
                for e in compared.stale
            ]
            result = replace(compared.result, findings=standing(compared.result.findings), notes=tuple(notes))
        if self._changes is not None:
            kept = [f for f in result.findings if self._changes.touch(f)]
            left = len(result.findings) - len(kept)
            note = f"{_count(left)} on lines that did not change since {self.changed_since}"
            result = replace(result, findings=standing(kept), notes=(*result.notes, *([note] if left else [])))
        return result

    @property
    def writes(self) -> bool:
        """Whether the run writes a baseline or suppressions instead of a report."""
        return self.update_baseline or self.add_ignore

    def write(self, result: Result, files: Sequence[Path]) -> list[str]:
        """Write the baseline or the suppressions; one line for each file that says what was done.

        Raises AdoptionError and BaselineError.
        """
        if self.update_baseline:
            assert self.baseline is not None
            dropped = baselines.update(result, self._entries, self.baseline, files)
            stale = f", {dropped} stale dropped" if dropped else ""
            return [f"{self.baseline}: {len(baselines.load(self.baseline))} accepted{stale}"]
        said = []
        for file in with_ignores(result.findings, self.reason):
            name = result.relative(str(file.path))
            if file.changed:
                try:
                    fixing.write(file)
                except (OSError, UnicodeEncodeError, UnreadableError) as error:
                    raise AdoptionError(f"{name}: {error}") from error
            dropped = file.dropped
            missed = f", {dropped} left (no place for a comment)" if dropped else ""
            said.append(f"{name}: {len(file.applied)} suppressed{missed}")
        return said


def _from_here(path: Path | None) -> Path | None:
    """The path as told from the working folder, if it is in there."""
    here = Path.cwd().resolve()
    return path.resolve().relative_to(here) if path and path.resolve().is_relative_to(here) else path


def _count(number: int) -> str:
    return f"{number} finding{'s' * (number != 1)}"
