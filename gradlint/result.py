"""What a run of gradlint found out: findings, models with their profiles, and what was skipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gradlint.finding import Finding, Outcome, Severity
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.location import Location
from gradlint.probe.experiment import Measurements
from gradlint.source.project import UnreadableError, read_text
from gradlint.source.script import Skipped


@dataclass(frozen=True)
class CheckedModel:
    """A model with its prediction and, where it was probed, its measurements.

    `path` is the file under check; `guarantees` name what the kernel kept its code from while it was built.
    """

    path: str
    graph: ModelGraph
    profile: Profile
    measurements: Measurements | None = None
    guarantees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """All of a run. `root` is the project root that reported paths are relative to; `texts` the checked sources
    by absolute path, for reports that quote lines. `failures` counts gradlint's own errors (exit code 2); `unbuilt`
    are models that were asked for by name and could not be looked into, `unread` files that could not be read; both
    are in `skipped` too."""

    root: Path
    findings: tuple[Finding, ...] = ()
    models: tuple[CheckedModel, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    files: int = 0
    seconds: float = 0.0
    failures: int = 0
    notes: tuple[str, ...] = ()
    unbuilt: tuple[Skipped, ...] = ()
    unread: tuple[Skipped, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)

    def relative(self, path: str) -> str:
        """A path as reports show it: relative to the root, with `/`; absolute when it lies outside."""
        return relative_path(path, self.root)

    def place(self, at: Location) -> str:
        """A line as reports name it: `train.py:8`, in a notebook `nb.ipynb#cell3:7`."""
        cell = "" if at.cell is None else f"#cell{at.cell}"
        return f"{self.relative(at.path)}{cell}:{at.line}"

    def quotable(self, at: Location) -> list[str] | None:
        """The lines of the text that a location is in (of the cell, in a notebook), or None where it is not at hand."""
        key = at.path if at.cell is None else f"{at.path}#cell{at.cell}"
        if key in self.texts:
            return self.texts[key].split("\n")
        try:
            return read_text(Path(at.path)).split("\n") if at.cell is None else None
        except UnreadableError:
            return None

    def count(self, outcome: Outcome) -> int:
        """How many findings have that verdict."""
        return sum(1 for f in self.findings if f.verdict is not None and f.verdict.outcome is outcome)

    def shown(self, refuted: bool = False) -> list[Finding]:
        """The findings that a person sees: refuted ones only on request, one cause once."""
        return [f for f in self.findings if (refuted or not is_refuted(f)) and f.primary]

    @property
    def repeats(self) -> int:
        """How many findings, refuted ones aside, have the same cause as another that is shown."""
        return sum(1 for f in self.findings if not f.primary and not is_refuted(f))

    def reaches(self, threshold: Severity) -> bool:
        """Whether any finding that is not refuted is at or above the severity."""
        return any(f.severity.rank >= threshold.rank and not is_refuted(f) for f in self.findings)


def relative_path(path: str, root: Path) -> str:
    """A path as reports show it: relative to the root, with `/`; absolute when it lies outside.

    Bytes of a name that are no UTF-8 are shown as U+FFFD: most formats could not hold them.
    """
    try:
        shown = Path(path).relative_to(root).as_posix()
    except ValueError:
        shown = Path(path).as_posix()
    return shown.encode(errors="surrogateescape").decode(errors="replace")


def is_refuted(finding: Finding) -> bool:
    """Whether the harm was measured absent."""
    return finding.verdict is not None and finding.verdict.outcome is Outcome.REFUTED


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by path, cell, line, column and code, so that the same input gives the same bytes."""
    return tuple(
        sorted(
            findings,
            key=lambda f: (
                f.location.path,
                -1 if f.location.cell is None else f.location.cell,
                f.location.line,
                f.location.column,
                f.code,
                f.message,
            ),
        )
    )


def predicted_range(model: CheckedModel) -> tuple[float, float] | None:
    """log10 of the smallest and largest relative gradient over the model's layers, or None if none is known."""
    known: Sequence[float] = [x.gradient for x in model.profile.layers if x.gradient is not None]
    return (min(known), max(known)) if known else None
