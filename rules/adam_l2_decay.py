"""GL505: Adam is given a weight decay of the size that AdamW takes."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint.finding import Finding, Severity
from gradlint.notation import number
from gradlint.replay import plain_number
from gradlint.rule import Amount, Rule, RuleOptions
from gradlint.source.script import Script


class DecayOptions(RuleOptions, frozen=True):
    """`at_least`: smaller decays are usual for L2 and are left alone."""

    at_least: Amount = 0.01


class AdamL2Decay(Rule):
    """
    ## What it does
    Looks for `torch.optim.Adam` with `weight_decay` of 0.01 or more, the size that AdamW takes.

    ## Why it hurts
    Adam adds the decay to the gradient and then divides by the gradient's own scale: weights with large gradients
    are hardly decayed, and those with small gradients far too much. AdamW decays all alike.

    ## Example
    ```python
    torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=0.05)
    ```

    ## Use instead
    ```python
    torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    ```

    ## How it is confirmed
    There is nothing to measure in one batch.

    ## Fix safety
    No fix is offered: AdamW at the same number is another strength.

    ## Options
    - `at-least` (0.01; 0 or more): smaller decays are left alone

    ## References
    - Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019
    """

    code = "GL505"
    name = "adam-l2-decay"
    since = "0.1"
    severity = Severity.INFO
    Options = DecayOptions
    BAD = """\
import torch
from torch import nn

model = nn.Linear(16, 4)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.05)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 4, (32,))
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace("optim.Adam(", "optim.AdamW(")

    def check_script(self, script: Script) -> Iterator[Finding]:
        for optimizer in script.optimizers:
            decay = plain_number(optimizer.arguments.get("weight_decay"))
            decoupled = optimizer.arguments.get("decoupled_weight_decay")
            if optimizer.algorithm != "Adam" or decay is None or decay < self.options.at_least or decoupled is not None:
                continue
            yield self.finding(
                optimizer.location,
                f"`Adam` with weight decay {number(decay)} divides the decay by the gradient's scale",
                help="use `torch.optim.AdamW`",
                optimizer="Adam",
                needs_probe=False,
            )
