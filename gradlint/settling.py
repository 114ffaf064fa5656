"""From findings to verdicts: which experiments are run on which model, and what the rule's judge says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gradlint.claims import model_key
from gradlint.config import Config
from gradlint.finding import Finding, Outcome, Severity, Verdict
from gradlint.hints import models_of
from gradlint.location import Location
from gradlint.predicting import Predictions
from gradlint.probe.experiment import Experiment, Measurement, Measurements
from gradlint.progress import Progress
from gradlint.replay import optimizer_subject
from gradlint.rule import Rule, with_verdict
from gradlint.source.script import Script
from gradlint.worker.client import WorkerPool
from gradlint.worker.protocol import Probed, ProbeJob

if TYPE_CHECKING:
    from gradlint.modelling import Modelled


@dataclass(frozen=True)
class Probing:
    """What a run may do with models, and what it predicted of them.

    `pool` is None where none may be built, and `refusal` says why.
    """

    config: Config
    progress: Progress
    pool: WorkerPool | None = None
    refusal: str | None = None
    predictions: Predictions = field(default_factory=Predictions)


@dataclass(frozen=True)
class Asked:
    """A finding before it is settled; `model` is the one whose graph it was found in, None where the script says it."""

    finding: Finding
    model: Modelled | None = None


def settle(
    asked: Sequence[Asked], rules: Sequence[Rule], models: Sequence[Modelled], script: Script, probing: Probing
) -> list[Finding]:
    """Each finding with its verdict and fix; questions that the probe did not confirm are dropped.

    What was found in a graph is measured on that very model: a script may make several of one class.
    """
    by_code = {r.code: r for r in rules}
    settled = []
    for question in asked:
        finding = question.finding
        rule = by_code[finding.code]
        judged = _judged(finding, rule, question.model or model_of(finding, models, script), probing)
        confirmed = judged.verdict is not None and judged.verdict.outcome is Outcome.CONFIRMED
        if confirmed or not finding.tentative:
            settled.append(replace(judged, fix=judged.fix or rule.fix(judged, script)))
    return settled


def model_of(finding: Finding, models: Sequence[Modelled], script: Script) -> Modelled | None:
    """The model that a finding speaks of, a built one first: by its key, else by the script's variable.

    Of several variables of that name (two functions that each train their `model`) it is the one bound last before.
    """
    found = [m for m in models if model_key(m.graph) == finding.model]
    if not found:
        named = [m for m in script.models if m.name == finding.model]
        found = [m for m in models if any(x in named for x in models_of(script, m.graph))]
        found.sort(key=lambda m: _lines_before(finding.location, m.graph.location))
    if not found:
        # A step that a model's own method makes names the class.
        found = [m for m in models if m.graph.class_name == finding.model]
    return next((m for m in found if m.session is not None), found[0] if found else None)


def _lines_before(use: Location, bound: Location | None) -> float:
    """How far above its use a name is bound in a file; infinite where it is elsewhere or below."""
    if bound is None or (bound.path, bound.cell) != (use.path, use.cell) or bound.line > use.line:
        return math.inf
    return use.line - bound.line


def _judged(finding: Finding, rule: Rule, model: Modelled | None, probing: Probing) -> Finding:
    if not finding.needs_probe or finding.verdict is not None:
        return finding
    reason = _obstacle(model, probing)
    experiments = rule.experiments(finding) if reason is None else []
    if model is None or reason is not None:
        return with_verdict(finding, Verdict(Outcome.UNVERIFIED, reason or "its model was not found"))
    verdict = rule.judge(finding, measurements(model, experiments, probing))
    if verdict.outcome is Outcome.REFUTED:
        verdict = replace(verdict, severity=Severity.INFO)
    return with_verdict(finding, verdict)


def _obstacle(model: Modelled | None, probing: Probing) -> str | None:
    """Why nothing can be measured, or None."""
    if probing.refusal is not None:
        return f"not measured: {probing.refusal}"
    if model is None:
        return "not measured: the model that is trained here was not found"
    if model.session is None:
        return f"not measured: {model.unbuilt}"
    return None if probing.config.probe else "not measured: --no-probe"


def measurements(model: Modelled, experiments: Sequence[Experiment], probing: Probing) -> Measurements:
    """The measurements of these experiments; what was measured for this model before is not measured again."""
    assert model.session is not None
    missing = [e for e in dict.fromkeys(experiments) if e not in model.measured]
    while missing:
        first_of_key = {e.key: e for e in reversed(missing)}
        batch = tuple(e for e in missing if first_of_key[e.key] is e)
        missing = [e for e in missing if e not in batch]
        probing.progress.expect(len(batch))
        probing.progress("probe", model.graph.name)
        answer = model.session.probe(_job(model, batch, probing.config))
        probing.progress.done(len(batch))
        for experiment in batch:
            seen = answer.measurements.of.get(experiment.key) if isinstance(answer, Probed) else None
            why = "not measured" if isinstance(answer, Probed) else answer.reason
            model.measured[experiment] = seen or Measurement(experiment.kind, experiment.label, error=why)
    return Measurements({e.key: model.measured[e] for e in experiments})


def _job(model: Modelled, experiments: tuple[Experiment, ...], config: Config) -> ProbeJob:
    """The job that runs these experiments as the script would train the model."""
    optimizers, script = model.context.optimizers, model.context.script
    facts = optimizer_subject(optimizers[0] if optimizers else None)
    return ProbeJob(
        experiments,
        seeds=config.seeds,
        seed=config.seed,
        device=config.device,
        batch_size=config.batch_size,
        optimizer=facts.algorithm,
        learning_rate=facts.learning_rate,
        momentum=facts.momentum,
        weight_decay=facts.weight_decay,
        loss=model.graph.loss,
        seconds=config.timeout,
        autocast=next((s.autocast for s in (script.steps if script else ()) if s.autocast), None),
    )
