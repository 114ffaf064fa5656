"""GL408: a model is trained in float16 without a GradScaler."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint.finding import Finding, Severity
from gradlint.rule import Rule
from gradlint.source.script import Script


class Fp16WithoutScaler(Rule):
    """
    ## What it does
    Looks for a training step under float16 autocast in a file without any GradScaler. bfloat16 needs none.

    ## Why it hurts
    float16 holds nothing smaller than 6e-8. Gradients below that become zero, first in the layers farthest from
    the loss; a GradScaler multiplies the loss so that they do not.

    ## Example
    ```python
    with torch.autocast("cuda", dtype=torch.float16):
        loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    ```

    ## Use instead
    ```python
    with torch.autocast("cuda", dtype=torch.float16):
        loss = criterion(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    ```

    ## How it is confirmed
    There is nothing to measure without the device that the script trains on.

    ## Fix safety
    No fix is offered.

    ## Options
    None.

    ## References
    - Micikevicius et al., Mixed Precision Training, ICLR 2018, §3.2
    """

    code = "GL408"
    name = "fp16-without-scaler"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn

model = nn.Linear(16, 4).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16).cuda(), torch.randint(0, 4, (32,)).cuda()
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
"""
    GOOD = BAD.replace("torch.float16", "torch.bfloat16")

    def check_script(self, script: Script) -> Iterator[Finding]:
        # With a scaler or bfloat16 anywhere in the file the plain step may be the branch that needs none.
        if "GradScaler" in script.text or "bfloat16" in script.text or any(step.scaler for step in script.steps):
            return
        for step in script.steps:
            if step.autocast != "float16" or step.scaler or step.framework != "plain" or step.backward is None:
                continue
            yield self.finding(
                step.backward,
                "the model is trained under float16 autocast without a GradScaler: small gradients become zero",
                help="use `torch.amp.GradScaler`, or bfloat16, which needs none",
                model=step.models[0].name if step.models else None,
                optimizer=step.optimizer.algorithm if step.optimizer else None,
                needs_probe=False,
            )
