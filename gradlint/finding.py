"""What gradlint says about a line: a finding, its evidence and its verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gradlint.location import Location


class Severity(str, Enum):
    """How much a finding matters; `error` means that training is predicted to fail."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return ("info", "warning", "error").index(self.value)


class Outcome(str, Enum):
    """What the measurement said of the claim that a finding makes."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    UNVERIFIED = "unverified"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome with the reason and the numbers that it rests on.

    `severity`, where set, replaces the finding's: a measurement outranks a prediction.
    `evidence` is merged into the finding's evidence.
    """

    outcome: Outcome
    reason: str
    severity: Severity | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The numbers beside a finding. What is not known is None, never 0.

    `predicted_gradient_ratio` and `measured_gradient_ratio` are g = ‖∂L/∂h_first‖ / ‖∂L/∂h_last‖ over
    the hidden activations of the path that the finding speaks of. `whatif` maps a remedy, as a person
    would name it ("LayerNorm", "He init"), to the same number after it. `spread` is the ratio of the
    largest to the smallest of the seeds' values. `attribution` lists (layer, log10 contribution).
    `numbers` holds whatever else a rule measured, under field terms (`learning_rate`, `loss_after_10`).
    """

    predicted_gradient_ratio: float | None = None
    measured_gradient_ratio: float | None = None
    whatif: dict[str, float | None] = field(default_factory=dict)
    spread: float | None = None
    seeds: int | None = None
    attribution: tuple[tuple[str, float], ...] = ()
    numbers: dict[str, float | str | None] = field(default_factory=dict)

    def merged(self, other: Evidence) -> Evidence:
        """This evidence with everything that `other` knows laid over it."""
        return Evidence(
            predicted_gradient_ratio=_known(other.predicted_gradient_ratio, self.predicted_gradient_ratio),
            measured_gradient_ratio=_known(other.measured_gradient_ratio, self.measured_gradient_ratio),
            whatif={**self.whatif, **other.whatif},
            spread=_known(other.spread, self.spread),
            seeds=other.seeds if other.seeds is not None else self.seeds,
            attribution=other.attribution or self.attribution,
            numbers={**self.numbers, **other.numbers},
        )


def _known(new: float | None, old: float | None) -> float | None:
    return old if new is None else new


@dataclass(frozen=True, slots=True)
class Related:
    """A further place that a finding speaks of, with what it has to do with it."""

    location: Location
    message: str


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the text of `location` (empty span: insert there) by `replacement`."""

    location: Location
    replacement: str


@dataclass(frozen=True, slots=True)
class Fix:
    """Edits that cure a finding. A safe fix keeps the meaning of everything but the fault."""

    message: str
    edits: tuple[Edit, ...]
    safe: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault at one decisive line.

    `message` is one sentence: the problem first, no full stop, backticks round identifiers, numbers with
    two significant digits. `help` is the remedy. `model` is `path:ClassOrName` of the model it speaks of.
    `subject` is whatever the rule needs again in `experiments` and `judge`; it is plain data, is not
    reported and does not take part in equality. `needs_probe` is False where there is nothing to measure
    (the verdict stays None). `tentative`: a question to the probe rather than a claim; it is reported only where
    a measurement confirms it.
    """

    code: str
    name: str
    severity: Severity
    message: str
    location: Location
    help: str | None = None
    related: tuple[Related, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    verdict: Verdict | None = None
    fix: Fix | None = None
    model: str | None = None
    optimizer: str | None = None
    confidence: str = "high"
    primary: bool = True
    needs_probe: bool = True
    tentative: bool = False
    subject: Any = field(default=None, compare=False)
