"""Replaying a training step: what is known of how it updates, and what the replay's gradient norms say."""

from __future__ import annotations

from dataclasses import dataclass

from gradlint.probe.experiment import Experiment, Measurements
from gradlint.source.script import Optimizer, TrainingStep
from gradlint.source.value import Resolution

UNROLLED = 50
"""Time steps that are unrolled where the script does not say how long its sequences are."""


@dataclass(frozen=True)
class StepSubject:
    """A training step: optimizer facts to replay it by, and the time steps of a recurrence if there is one."""

    algorithm: str | None
    learning_rate: float | None
    momentum: float = 0.0
    weight_decay: float = 0.0
    steps: int = UNROLLED
    kinds: tuple[str, ...] = ()


def plain_number(resolution: Resolution | None) -> float | None:
    """The one number that a resolution holds, or None."""
    found = resolution.only if resolution is not None else None
    value = found.value if found is not None else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def optimizer_subject(optimizer: Optimizer | None, **known: int | tuple[str, ...]) -> StepSubject:
    """What is known of an optimizer's update."""
    if optimizer is None:
        return StepSubject(None, None, **known)  # type: ignore[arg-type]
    return StepSubject(
        algorithm=optimizer.algorithm,
        learning_rate=plain_number(optimizer.learning_rate),
        momentum=plain_number(optimizer.momentum) or 0.0,
        weight_decay=plain_number(optimizer.arguments.get("weight_decay")) or 0.0,
        **known,  # type: ignore[arg-type]
    )


def step_subject(step: TrainingStep, kinds: tuple[str, ...] = ()) -> StepSubject:
    """What is known of how a step updates."""
    length = plain_number(step.sequence_length)
    return optimizer_subject(step.optimizer, steps=max(2, int(length)) if length else UNROLLED, kinds=kinds)


def replay(subject: StepSubject, rate: float | None = None, label: str = "") -> list[Experiment]:
    """Ten steps as the script makes them, or at another `rate`, where rate and algorithm are known.

    With momentum the probe replays plain SGD at lr/(1−β) beside it: ten steps do not build the velocity up.
    """
    chosen = subject.learning_rate if rate is None else rate
    if chosen is None or subject.algorithm is None:
        return []
    return [
        Experiment(
            "step",
            label=label,
            learning_rate=chosen,
            optimizer=subject.algorithm,
            momentum=subject.momentum,
            weight_decay=subject.weight_decay,
        )
    ]


def gradient_norms(seen: Measurements) -> tuple[float, ...]:
    """The series of total gradient norms that was measured: of the replay, else of the baseline."""
    for key in ("step", "baseline"):
        found = seen.get(key)
        if found is not None and found.gradient_norms:
            return found.gradient_norms
    return ()
