"""A Lightning callback: `Trainer(callbacks=[GradientProbe()])` measures the first real batch and logs what it shows."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from gradlint.finding import Severity
from gradlint.probe.first_batch import FirstBatch, metrics
from gradlint.report.measured import Report


def _package() -> str:
    """The one that the program imports: Lightning is installed under two names, with classes of its own under each."""
    old, new = "pytorch_lightning", "lightning.pytorch"
    if old in sys.modules and new not in sys.modules:
        return old
    return new if find_spec("lightning") is not None else old


Callback: Any = import_module(f"{_package()}.callbacks").Callback


class GradientProbe(Callback):
    """Measures the first training batch, once for each optimizer, and logs to the trainer's loggers.

    The numbers go under `gradlint/…` (see `gradlint.probe.first_batch.metrics`), with `layers` those of every layer
    too; a profile at or beyond `tell` is also warned of with its table, and one at or beyond `fail_on` ends the run
    with UnhealthyGradientsError. `reports` holds what was measured. Training goes on exactly as it would have without.
    """

    def __init__(
        self,
        *,
        layers: bool = False,
        tell: Severity | str | None = "warning",
        fail_on: Severity | str | None = None,
    ) -> None:
        super().__init__()
        self.layers = layers
        self._first = FirstBatch(tell, fail_on)
        self._over = False

    @property
    def reports(self) -> list[Report]:
        """What was measured, in the order of the optimizers' first steps."""
        return list(self._first.reports.values())

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch the steps up to the first of the optimizer: several batches may lead to it."""
        if not self._over:
            self._first.begin()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Measure between backward and the step."""
        report = self._first.report(optimizer)
        if report is None:
            return
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.log_metrics(metrics(report, self.layers), step=trainer.global_step)
        try:
            self._first.judge(report)
        except Exception:
            self._first.end()
            raise

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Watch no more once every optimizer has stepped."""
        if len(self._first.reports) >= max(1, len(trainer.optimizers)):
            self._over = True
            self._first.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave nothing patched."""
        self._first.end()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave nothing patched."""
        self._first.end()
