"""GL405: nothing clears the gradient between two steps."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gradlint.finding import Finding, Related, Severity
from gradlint.rule import Rule
from gradlint.source.script import Script, TrainingStep

CLEARS = re.compile(r"zero_grad|\.grad\s*=\s*None|\.grad\b.*\.zero_\(|\.grad\.zero_|del\s+\S+\.grad|autograd\.grad\(")
"""Whatever may clear a gradient, anywhere in the file: where in doubt the rule is silent."""


class ZeroGradMissing(Rule):
    """
    ## What it does
    Looks for a training loop with `backward()` and `step()` in which nothing ever clears the gradient, or only that
    of other optimizers; a function that is given its optimizer counts, where it is called one. Silent for deliberate
    accumulation, dist_autograd, and trainers that clear it themselves.

    ## Why it hurts
    `backward()` adds to what is there. Every step then follows the sum of all gradients since the start, which
    grows without bound.

    ## Example
    ```python
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    ```

    ## How it is confirmed
    There is nothing to measure: the statement is missing.

    ## Fix safety
    No fix is offered: it may stand in code that gradlint does not see.

    ## Options
    None.

    ## References
    - PyTorch, torch.optim.Optimizer.zero_grad
    """

    code = "GL405"
    name = "zero-grad-missing"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn

model = nn.Linear(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 4, (32,))
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
"""
    GOOD = BAD.replace("    loss.backward()", "    optimizer.zero_grad()\n    loss.backward()")

    def check_script(self, script: Script) -> Iterator[Finding]:
        for step in script.steps:
            if step.framework != "plain" or step.accumulation or step.backward is None or not step.loop_depth:
                continue
            if (step.optimizer is None and not step.given) or step.optimizer_step.path != script.path:
                continue
            if step.cleared or _cleared_elsewhere(script, step):
                continue
            name = step.optimizer.name if step.optimizer else _name(step)
            yield self.finding(
                step.optimizer_step,
                f"`{name}.step()` runs in a loop and nothing clears the gradient: `backward()` adds "
                "to that of all steps before",
                help=f"call `{name}.zero_grad()` before `backward()`",
                related=[Related(step.backward, "the gradient is added to here")],
                model=step.models[0].name if step.models else None,
                optimizer=step.optimizer.algorithm if step.optimizer else None,
                needs_probe=False,
            )


def _name(step: TrainingStep) -> str:
    """What the function calls the optimizer that it is given."""
    return next((e.receiver for e in step.events if e.location == step.optimizer_step), "optimizer")


def _cleared_elsewhere(script: Script, step: TrainingStep) -> bool:
    """Whether the file has a line that may clear the gradient, those aside that clear that of other optimizers."""
    others = {e.location.line for e in step.events if e.kind == "zero_grad" and e.location.path == script.path}
    lines = script.text.splitlines()
    if others:  # Beside `zero_grad`, `autograd.grad` is there for a penalty and clears nothing.
        lines = [line.replace("autograd.grad(", "") for line in lines]
    return any(CLEARS.search(line) for number, line in enumerate(lines, start=1) if number not in others)
