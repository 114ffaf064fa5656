"""GL103: the model ends in a rectifier, and its loss needs what the rectifier cuts off."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding, Severity
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.rule import Context, Rule

CUTS_OFF = frozenset({"relu", "relu6", "threshold"})
"""Rectifiers without any gradient below zero."""

LOGITS = {
    "cross_entropy": "a class whose logit falls below 0 gets no gradient any more",
    "bce_with_logits": "no probability below 0.5 can be said, and a logit that falls below 0 gets no gradient any more",
}
VALUES = frozenset({"mse", "l1", "smooth_l1"})


class ReluOnOutput(Rule):
    """
    ## What it does
    Looks for a model whose last operation is ReLU or ReLU6. A warning under CrossEntropyLoss and BCEWithLogitsLoss,
    which need logits of both signs; an info under regression losses, where targets may be known to be positive. Only
    where the model has a single output and the script a single model and kind of loss.

    ## Why it hurts
    Where the layer before it is negative the rectifier gives 0 and passes no gradient. Of a hidden layer other units
    take over; of the output nothing does: a sample whose outputs are all 0 teaches nothing, and an output that is
    negative for every sample stays dead.

    ## Example
    ```python
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.ReLU())
    criterion = nn.CrossEntropyLoss()
    ```

    ## Use instead
    ```python
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    criterion = nn.CrossEntropyLoss()
    ```
    For values that cannot be negative, `nn.Softplus()`.

    ## How it is confirmed
    There is nothing to measure: what the model ends in is written in the source.

    ## Fix safety
    No fix is offered: code that reads the outputs may rely on their sign.

    ## Options
    None.

    ## References
    - Maas et al., Rectifier Nonlinearities Improve Neural Network Acoustic Models, ICML 2013
    - PyTorch, torch.nn.CrossEntropyLoss
    """

    code = "GL103"
    name = "relu-on-output"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10), nn.ReLU())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace("nn.Linear(64, 10), nn.ReLU()", "nn.Linear(64, 10)")

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        last = claims.output_of(graph)
        if last is None or last.op not in CUTS_OFF or graph.pretrained or graph.assumed:
            return
        loss = graph.loss.kind
        location = claims.end_of(graph, last)
        if location is None or not context.optimizers or not claims.one_loss(context):
            return
        if loss not in LOGITS and loss not in VALUES:
            return
        harm = LOGITS.get(
            loss, "no negative value can be said, and an output that falls below 0 gets no gradient any more"
        )
        yield self.finding(
            location,
            f"the model ends in `{last.op}`: {harm}",
            help=f"return the input of `{last.op}`"
            if loss in LOGITS
            else f"return the input of `{last.op}`, or use `softplus` where the targets are positive",
            severity=None if loss in LOGITS else Severity.INFO,
            related=claims.at(graph.loss.location, "the loss"),
            model=claims.model_key(graph),
            optimizer=context.algorithm,
            confidence=graph.confidence,
            needs_probe=False,
        )
