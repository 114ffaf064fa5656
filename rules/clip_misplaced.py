"""GL402: the gradient is clipped where it does not help."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint.finding import Finding, Related, Severity
from gradlint.rule import Rule
from gradlint.source.script import Script

REASONS = {
    "after_step": (
        "after the optimizer has stepped, so that it bounds a gradient which is thrown away",
        "move it between `backward()` and `step()`",
    ),
    "before_backward": (
        "before `backward()` has made the gradient",
        "move it between `backward()` and `step()`",
    ),
    "before_unscale": (
        "while the GradScaler's factor, often 65536, is still on the gradient, so that the bound is far too tight",
        "call `scaler.unscale_(optimizer)` before it",
    ),
}


class ClipMisplaced(Rule):
    """
    ## What it does
    Looks for gradient clipping that runs after the optimizer step, before `backward()`, or under a GradScaler
    before `unscale_`. Where the clipping, or the scaler, is off by default it is a warning.

    ## Why it hurts
    The optimizer reads the gradient when it steps. A bound that comes later or earlier bounds nothing; one on the
    scaled gradient cuts every step down to next to nothing.

    ## Example
    ```python
    loss.backward()
    optimizer.step()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    ```

    ## Use instead
    ```python
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    ```

    ## How it is confirmed
    There is nothing to measure: the order of the statements is the fault.

    ## Fix safety
    No fix is offered yet.

    ## Options
    None.

    ## References
    - PyTorch, Automatic Mixed Precision examples: gradient clipping
    """

    code = "GL402"
    name = "clip-misplaced"
    since = "0.1"
    severity = Severity.ERROR
    BAD = """\
import torch
from torch import nn

model = nn.Linear(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 4, (32,))
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
"""
    GOOD = BAD.replace("    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\n", "").replace(
        "    optimizer.step()\n",
        "    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\n    optimizer.step()\n",
    )

    def check_script(self, script: Script) -> Iterator[Finding]:
        seen = set()
        for step in script.steps:
            clipping = step.misplaced_clipping
            if clipping is None or clipping.position not in REASONS or clipping.location in seen:
                continue
            if step.clipping is not None and clipping.position != "before_unscale":
                continue
            seen.add(clipping.location)
            fault, cure = REASONS[clipping.position]
            yield self.finding(
                clipping.location,
                f"the gradient is clipped {fault}{'' if clipping.enabled else ' (off by default)'}",
                help=cure,
                severity=None if clipping.enabled else Severity.WARNING,
                related=[Related(step.optimizer_step, "the optimizer steps here")],
                model=step.models[0].name if step.models else None,
                optimizer=step.optimizer.algorithm if step.optimizer else None,
                needs_probe=False,
            )
