"""GL504: the learning-rate schedule is stepped before the optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint.finding import Finding, Related, Severity
from gradlint.rule import Rule
from gradlint.source.script import Script


class SchedulerOrder(Rule):
    """
    ## What it does
    Looks for a loop in which `scheduler.step()` comes before the `optimizer.step()` of its optimizer, per batch or per
    epoch, and is not held back in the first round.

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
        seen = set()
        for step in script.steps:
            early = step.early_schedule
            if early is None or early in seen:
                continue
            seen.add(early)
            yield self.finding(
                early,
                "the schedule is stepped before the optimizer, which skips the schedule's first value",
                help="call `scheduler.step()` after `optimizer.step()`",
                related=[Related(step.optimizer_step, "the optimizer steps here")],
                model=step.models[0].name if step.models else None,
                optimizer=step.optimizer.algorithm if step.optimizer else None,
                needs_probe=False,
            )
