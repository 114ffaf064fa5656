"""A callback of Hugging Face's Trainer that measures the first real batch and logs what it shows."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from gradlint.finding import Severity
from gradlint.probe.first_batch import FirstBatch, metrics
from gradlint.report.measured import Report


class GradientProbe(TrainerCallback):
    """Measures the batch of the first optimizer step and logs what it shows.

    With the `trainer` (or its `log`) the numbers go where all of the trainer's go, under `gradlint/…` (see
    `gradlint.probe.first_batch.metrics`); without, into `state.log_history` alone: a callback is not told which trainer
    it belongs to. With `layers` those of every layer are logged too; a profile at or beyond `tell` is also warned of
    with its table, and one at or beyond `fail_on` ends the run with UnhealthyGradientsError. `reports` holds what was
    measured. Training goes on exactly as it would have without.
    """

    def __init__(
        self,
        trainer: Any = None,
        *,
        layers: bool = False,
        tell: Severity | str | None = "warning",
        fail_on: Severity | str | None = None,
    ) -> None:
        self.log = getattr(trainer, "log", trainer)
        self.layers = layers
        self._first = FirstBatch(tell, fail_on)

    @property
    def reports(self) -> list[Report]:
        """What was measured."""
        return list(self._first.reports.values())

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Watch the batches that lead to the first step."""
        if not self._first.reports:
            self._first.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Measure between backward and the step."""
        try:
            report = self._first.report(optimizer)
            if report is None:
                return
            found = metrics(report, self.layers)
            if self.log is not None:
                self.log(found)
            else:
                state.log_history.append({**found, "step": state.global_step})
            self._first.judge(report)
        finally:
            self._first.end()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave nothing patched."""
        self._first.end()
