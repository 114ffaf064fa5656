"""GL504: the learning-rate schedule is stepped before the optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint.finding import Finding, Related, Severity
from gradlint.location import Location
from gradlint.rule import Rule
from gradlint.source.script import Script, TrainingStep


class SchedulerOrder(Rule):
    """
    ## What it does
    Looks for `scheduler.step()` between `backward()` and `optimizer.step()`.

    ## Why it hurts
    PyTorch's schedules count from the first optimizer step. Stepped before it, the first value of the schedule is
    skipped: a warm-up starts too high, a decay too early.

    ## Example
    ```python
    loss.backward()
    scheduler.step()
    optimizer.step()
    ```

    ## Use instead
    ```python
    loss.backward()
    optimizer.step()
    scheduler.step()
    ```

    ## How it is confirmed
    There is nothing to measure: the order of the statements is the fault.

    ## Fix safety
    No fix is offered.

    ## Options
    None.

    ## References
    - PyTorch, torch.optim: how to adjust learning rate
    """

    code = "GL504"
    name = "scheduler-order"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn

model = nn.Linear(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 4, (32,))
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    scheduler.step()
    optimizer.step()
"""
    GOOD = BAD.replace("    scheduler.step()\n    optimizer.step()\n", "    optimizer.step()\n    scheduler.step()\n")

    def check_script(self, script: Script) -> Iterator[Finding]:
        for step in script.steps:
            early = self._early(step)
            if early is None:
                continue
            yield self.finding(
                early,
                "the schedule is stepped before the optimizer, which skips the schedule's first value",
                help="call `scheduler.step()` after `optimizer.step()`",
                related=[Related(step.optimizer_step, "the optimizer steps here")],
                model=step.models[0].name if step.models else None,
                optimizer=step.optimizer.algorithm if step.optimizer else None,
                needs_probe=False,
            )

    def _early(self, step: TrainingStep) -> Location | None:
        """The schedule's step between this step's backward and its optimizer step, where there is just one of each."""
        if step.framework != "plain" or step.optimizer is None or not step.optimizer.schedules:
            return None
        kinds = [event.kind for event in step.events]
        if kinds.count("step") != 1 or kinds.count("scheduler_step") != 1 or "backward" not in kinds:
            return None
        before = kinds[: kinds.index("step")]
        after_backward = before[before.index("backward") :] if "backward" in before else []
        if "scheduler_step" not in after_backward:
            return None
        return step.events[kinds.index("scheduler_step")].location
