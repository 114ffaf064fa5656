"""The first batches of a program that trains, measured between its backward pass and its optimizer's step."""

from __future__ import annotations

import warnings
from typing import Any

from torch.optim import Optimizer

from gradlint.finding import Severity
from gradlint.probe.calls import unwrapped
from gradlint.probe.experiment import Measurement
from gradlint.probe.judging import finite
from gradlint.probe.live import trace_call
from gradlint.probe.ranks import Ranks, together
from gradlint.probe.replay import Recipe
from gradlint.probe.run import writable
from gradlint.probe.watch import Watch, samples_of
from gradlint.report.measured import Report

RANKS_OF_SEVERITY = {None: 0, Severity.INFO: 1, Severity.WARNING: 2, Severity.ERROR: 3}
"""Severities as numbers, for loggers that know no words."""


class UnhealthyGradientsError(RuntimeError):
    """The first batch showed gradients that are worse than the program wanted; the message holds the table."""


class FirstBatch:
    """Watches one training step, from `begin` to `end`, and reports on each optimizer that steps in it once.

    `tell` is the least severity that is warned of, `fail_on` the least that stops the program; None for never.
    """

    def __init__(self, tell: Severity | str | None = "warning", fail_on: Severity | str | None = None) -> None:
        self.tell = Severity(tell) if tell is not None else None
        self.fail_on = Severity(fail_on) if fail_on is not None else None
        self.reports: dict[int, Report] = {}
        self._watch: Watch | None = None

    def begin(self) -> None:
        """Begin to watch, where that is not done already."""
        if self._watch is None:
            self._watch = Watch()
            self._watch.install()

    def end(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def report(self, optimizer: Optimizer) -> Report | None:
        """The report on the batch that led to this optimizer's step; None if there was one, or if none was watched.

        Raises RuntimeError where no model was called, UnhealthyGradientsError, and what the model raises.
        """
        optimizer = inner(optimizer)
        if self._watch is None or id(optimizer) in self.reports:
            return None
        self._watch.busy = True
        try:
            report = self.reports[id(optimizer)] = measured(self._watch, optimizer)
        finally:
            self._watch.busy = False
        return report

    def judge(self, report: Report) -> None:
        """Warn of what is unhealthy, on the first rank, or raise UnhealthyGradientsError on all."""
        severity = report.severity
        if severity is None:
            return
        if self.fail_on is not None and severity.rank >= self.fail_on.rank:
            raise UnhealthyGradientsError(f"unhealthy gradients: {'; '.join(report.problems)}\n{report}")
        ranks = Ranks.here()
        if self.tell is not None and severity.rank >= self.tell.rank and (ranks is None or ranks.rank == 0):
            warnings.warn(f"gradlint: {'; '.join(report.problems)}\n{report}", stacklevel=3)


def measured(watch: Watch, optimizer: Optimizer) -> Report:
    """What the watched batch shows of the model that this optimizer steps; the model stays as it was."""
    ranks = Ranks.here()
    mine = frozenset(id(p) for group in optimizer.param_groups for p in group["params"])
    call = together(lambda: watch.call_of(mine), ranks)
    graph, seen = call.measured(trace_call, watch.scale, Recipe.of(optimizer), ranks)
    loss, _ = watch.loss_and_norm(mine, samples_of(call))
    watch.forget(mine)
    count = f"measured by {ranks.count} ranks, {seen.samples} samples in all" if ranks is not None else None
    measurement: Measurement = writable(
        Measurement(
            kind="baseline",
            layers=seen.layers,
            per_seed={name: (norm,) for name, norm in seen.gradients.items()},
            loss=loss,
            gradient_norms=(seen.total_norm,),
            first_nonfinite=seen.first_nonfinite,
            device=next((p.device.type for p in unwrapped(call.module).parameters()), "cpu"),
            batch="real",
            notes=(*seen.notes, *((count,) if count else ())),
        )
    )
    return Report(graph, measurement, type(optimizer).__name__)


def inner(optimizer: Any) -> Optimizer:
    """The torch optimizer inside what a trainer wraps round it."""
    while not isinstance(optimizer, Optimizer) or hasattr(optimizer, "optimizer"):
        following = getattr(optimizer, "optimizer", None)
        if following is None:
            break
        optimizer = following
    found: Optimizer = optimizer
    return found


def metrics(report: Report, layers: bool = False) -> dict[str, float]:
    """The report as numbers for a logger, what is not finite or not known left out.

    `gradlint/severity` is 0 for healthy, 1 for info, 2 for warning, 3 for error. With `layers` also the gradient, the
    weight gradient, the activation's std and the update ratio of every layer.
    """
    health = report.health
    found: dict[str, float | None] = {
        "severity": float(RANKS_OF_SEVERITY[report.severity]),
        "gradient_ratio": health.ratio.median if health.ratio else None,
        "smallest_weight_gradient": health.smallest[1] if health.smallest else None,
        "largest_weight_gradient": health.largest[1] if health.largest else None,
        "gradient_norm": report.measurement.gradient_norms[0],
        "loss": report.measurement.loss,
    }
    for layer in report.layers if layers else ():
        found |= {
            f"gradient/{layer.name}": layer.gradient,
            f"weight_gradient/{layer.name}": layer.weight_gradient,
            f"activation_std/{layer.name}": layer.activation_std,
            f"update_ratio/{layer.name}": layer.update_ratio,
        }
    return {f"gradlint/{key}": v for key, v in found.items() if v is not None and finite(v)}
