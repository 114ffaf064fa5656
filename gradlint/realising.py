"""Settles findings on the script's own batches: the whole script is run up to a few of its optimizer steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from gradlint.finding import Evidence, Finding, Outcome, Severity, Verdict
from gradlint.notation import number
from gradlint.probe.experiment import OVERFLOW, Experiment, Measurement, Measurements
from gradlint.probe.judging import DIVERGENCE, PROGRESS, finite, worst_stretch
from gradlint.probe.real import RealOutcome, Watched, run_script
from gradlint.rule import Rule, with_verdict
from gradlint.settling import Probing, model_of
from gradlint.source.script import Optimizer, Script

if TYPE_CHECKING:
    from gradlint.modelling import Modelled

QUICK_STEPS = 10
"""Steps that show whether a loss runs away."""

SPIKE_STEPS = 100
"""Steps in which spikes are looked for: rewards of one episode in a hundred spike too."""

RATE_STEPS = 200
"""Steps after which two learning rates are compared. A rate of a tenth takes ten times as long to get anywhere."""


PATIENCE = 2.0
"""A run may take so many times the limit for one model: it has data to load, and many steps."""


@dataclass
class _Runs:
    """Runs of one script, each made once."""

    path: str
    script: Script
    probing: Probing
    made: dict[tuple[Optimizer | None, int, float | None], RealOutcome] = field(default_factory=dict)

    def run(self, optimizer: Optimizer | None, steps: int, rate: float | None = None) -> RealOutcome:
        """The script, watched at this optimizer; a longer run that was made serves as well."""
        for (known, length, at), outcome in self.made.items():
            if known == optimizer and at == rate and length >= steps:
                return outcome
        config = self.probing.config
        self.probing.progress("run", Path(self.path).name)
        outcome = run_script(
            self.path,
            config.script_args,
            steps=steps,
            learning_rate=rate,
            optimizer=_construction(optimizer, self.script),
            seconds=PATIENCE * config.timeout,
            python=config.python,
        )
        self.made[optimizer, steps, rate] = outcome
        return outcome


def realise(
    asked: Sequence[Finding],
    settled: Sequence[Finding],
    rules: Sequence[Rule],
    models: Sequence[Modelled],
    script: Script,
    probing: Probing,
) -> list[Finding]:
    """The settled findings, with verdicts from the script's own run where they had none.

    `asked` are all findings before they were settled: questions to the probe (`tentative`) that a synthetic batch did
    not confirm are asked again. A script without a training step, a notebook and text that is not on disk are not run.
    """
    path = _runnable(asked, script)
    if path is None or probing.refusal is not None:
        return list(settled)
    runs = _Runs(path, script, probing)
    by_code = {r.code: r for r in rules}
    reported = {_identity(f) for f in settled}
    questions = [f for f in asked if f.tentative and f.needs_probe and _identity(f) not in reported]
    open_ones = [f for f in settled if f.verdict is not None and f.verdict.outcome is Outcome.UNVERIFIED]
    # The longest run comes first and serves the others.
    for finding in sorted((*open_ones, *questions), key=lambda f: -_steps(f, by_code[f.code])):
        runs.run(_optimizer_of(finding, script), _steps(finding, by_code[finding.code]))
    answers = []
    for finding in settled:
        judged = _judged(finding, by_code, models, runs) if finding in open_ones else finding
        answers.append(replace(judged, fix=judged.fix or by_code[finding.code].fix(judged, script)))
    for finding in questions:
        judged = _judged(finding, by_code, models, runs)
        if judged.verdict is not None and judged.verdict.outcome is Outcome.CONFIRMED:
            answers.append(replace(judged, fix=judged.fix or by_code[finding.code].fix(judged, script)))
    return answers


def _identity(finding: Finding) -> tuple[str, object, str | None]:
    return finding.code, finding.location, finding.model


def _runnable(findings: Iterable[Finding], script: Script) -> str | None:
    """The script's file where it trains and is a program on disk, else None."""
    path = script.path
    if not (script.steps or script.optimizers) or not path.endswith(".py") or not Path(path).is_file():
        return None
    return path if any(f.needs_probe for f in findings) else None


def _steps(finding: Finding, rule: Rule) -> int:
    """How far the script has to run for this finding."""
    if len(_rates(finding, rule)) == 2:
        return QUICK_STEPS if finding.tentative else RATE_STEPS
    return SPIKE_STEPS if any(e.kind == "step" for e in rule.experiments(finding)) else QUICK_STEPS


def _rates(finding: Finding, rule: Rule) -> list[float]:
    """The learning rates that the rule compares, the script's own first."""
    steps = [e for e in rule.experiments(finding) if e.kind == "step" and e.label]
    return [e.learning_rate for e in steps if e.learning_rate is not None]


def _optimizer_of(finding: Finding, script: Script) -> Optimizer | None:
    """The optimizer that a finding speaks of, None where that is not known."""
    for step in script.steps:
        if step.optimizer_step == finding.location:
            return step.optimizer
    for optimizer in script.optimizers:
        if finding.location in (optimizer.location, *(g.location for g in optimizer.groups)):
            return optimizer
    named = [o for o in script.optimizers if any(m.name == finding.model for m in o.models)]
    return named[0] if len(named) == 1 else None


def _construction(optimizer: Optimizer | None, script: Script) -> tuple[str, int, int] | None:
    """Where the one optimizer to watch is constructed; None where the script has no other, or its library makes it."""
    if optimizer is None or len(script.optimizers) < 2 or any(s.framework == "transformers" for s in script.steps):
        return None
    at = optimizer.location
    return at.path, at.line, at.end_line


def _judged(finding: Finding, rules: dict[str, Rule], models: Sequence[Modelled], runs: _Runs) -> Finding:
    """The finding with the verdict of the script's own run; its old one, with the reason, where that shows nothing."""
    rule = rules[finding.code]
    optimizer = _optimizer_of(finding, runs.script)
    steps = _steps(finding, rule)
    outcome = runs.run(optimizer, steps)
    seen = _watched(outcome, finding)
    if seen is None:
        return _unsettled(finding, outcome.failed or "its optimizer made no step")
    rates = _rates(finding, rule)
    if len(rates) == 2:
        own = seen.measurement
        # The losses of a game or of rewards rise and fall for other reasons than the rate.
        moving = any(s.adversarial or s.reinforcement for s in runs.script.steps)
        if finding.tentative and (moving or not runs_away(own.losses)):
            return finding
        other = runs.run(optimizer, steps, rates[1])
        there = _watched(other, finding)
        if there is None:
            return _unsettled(finding, f"at {number(rates[1])}: {other.failed or 'no step was made'}")
        verdict = compare_rates(own, there.measurement, rates[1], by_end=not finding.tentative)
    else:
        verdict = rule.judge(finding, _measurements(finding, rule, seen, model_of(finding, models, runs.script)))
        verdict = replace(verdict, reason=f"{verdict.reason} (over {len(seen.measurement.losses)} steps of the script)")
    if verdict.outcome is Outcome.UNVERIFIED:
        return _unsettled(finding, verdict.reason)
    if verdict.outcome is Outcome.REFUTED:
        verdict = replace(verdict, severity=Severity.INFO)
    return with_verdict(finding, verdict)


def _unsettled(finding: Finding, reason: str) -> Finding:
    """The finding, its verdict saying too why the script's own run did not settle it."""
    before = f"{finding.verdict.reason}; " if finding.verdict is not None else ""
    severity = finding.verdict.severity if finding.verdict is not None else None
    return with_verdict(finding, Verdict(Outcome.UNVERIFIED, f"{before}run for real: {reason}", severity))


def _watched(outcome: RealOutcome, finding: Finding) -> Watched | None:
    """What was seen at the optimizer of the finding: of its class if there are several."""
    same = [w for w in outcome.watched if w.optimizer == finding.optimizer]
    found = same or list(outcome.watched)
    return found[0] if found and not found[0].measurement.error else None


def _measurements(finding: Finding, rule: Rule, seen: Watched, model: Modelled | None) -> Measurements:
    """The real batch in place of the synthetic one; what only a model at hand can show stays from there."""
    norms = worst_stretch(seen.measurement.gradient_norms)
    baseline = replace(seen.measurement, gradient_norms=norms)
    of: dict[str, Measurement] = {}
    if model is not None:
        kept: Iterable[Experiment] = (e for e in rule.experiments(finding) if e in model.measured)
        of |= {e.key: model.measured[e] for e in kept if e.kind not in ("baseline", "step", "clip")}
    return Measurements({**of, "baseline": baseline, "step": replace(baseline, kind="step")})


def runs_away(losses: Sequence[float]) -> bool:
    """Whether a loss is not finite, or all of the last fifth lie above 1.5 times the first two.

    Fresh batches differ: one loss above another says little.
    """
    if len(losses) < 2:
        return False
    if not all(finite(loss) for loss in losses):
        return True
    start = max(losses[:2])
    return start > 0 and min(_last_fifth(losses)) > DIVERGENCE * start


def _last_fifth(losses: Sequence[float]) -> Sequence[float]:
    return losses[-max(1, len(losses) // 5) :]


def _end(losses: Sequence[float]) -> float:
    """The loss that a curve over fresh batches ends at: the median of its last fifth."""
    return median(_last_fifth(losses))


def compare_rates(own: Measurement, other: Measurement, rate: float, *, by_end: bool) -> Verdict:
    """The verdict on "the learning rate is too high" from the script's losses at its own rate and at `rate`.

    Confirmed when the loss runs away at its own rate alone, or (`by_end`, and over enough steps for the lower rate to
    get somewhere) when it ends above 1.5 times what the other rate reaches. Refuted when, over as many steps, it ends
    no higher; else unverified: a rate that is too high may be ahead for a while.
    """
    count = min(len(own.losses), len(other.losses))
    if count < 2 or not finite(own.losses[0]):
        return Verdict(Outcome.UNVERIFIED, "no loss was seen")
    mine, theirs = own.losses[:count], other.losses[:count]
    ends = [_end(x) if all(finite(v) for v in x) else OVERFLOW for x in (mine, theirs)]
    said = [number(e) for e in ends]
    told = f"after {count} steps of the script the loss is {said[0]}, {said[1]} at {number(rate)}"
    evidence = Evidence(numbers={"loss_after": ends[0], "loss_after_at_recommended": ends[1], "steps": float(count)})
    if runs_away(own.losses) and not runs_away(theirs):
        return Verdict(Outcome.CONFIRMED, f"diverges: {told}", evidence=evidence)
    positive = min(ends) > 0
    learnt = finite(ends[1]) and theirs[0] - ends[1] >= PROGRESS * abs(theirs[0])
    if by_end and positive and learnt and ends[0] > DIVERGENCE * ends[1]:
        return Verdict(Outcome.CONFIRMED, f"collapses: {told}", evidence=evidence)
    if count >= RATE_STEPS and learnt and ends[0] <= ends[1]:
        return Verdict(Outcome.REFUTED, told, Severity.INFO, evidence)
    return Verdict(Outcome.UNVERIFIED, told, evidence=evidence)
