"""GL303: a deep post-norm transformer is trained at a high rate from the first step."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Evidence, Finding, Related, Severity
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.notation import number
from gradlint.replay import plain_number
from gradlint.rule import Amount, Context, Count, Rule, RuleOptions
from gradlint.source.script import Model, Optimizer, Script
from gradlint.warmup import starts_cold


class WarmupOptions(RuleOptions, frozen=True):
    """`layers`: post-norm transformer layers, of two residual branches each; `learning_rate`: rates above it."""

    layers: Count = 6
    learning_rate: Amount = 1e-4


class PostNormWithoutWarmup(Rule):
    """
    ## What it does
    Looks for six or more transformer layers that normalise after the residual addition, trained with Adam or AdamW
    above 1e-4, where neither a schedule nor code in the file warms the rate up.

    ## Why it hurts
    With the normalisation behind the addition the expected gradient of the last layers is large at the start, and
    Adam's first steps, whose second moment is not settled, are as large as the rate allows. Training then diverges
    or settles at a bad place. A warm-up, or the normalisation before the branch, avoids it.

    ## Example
    ```python
    layer = nn.TransformerEncoderLayer(512, 8)  # norm_first=False
    model = nn.TransformerEncoder(layer, num_layers=12)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    ```

    ## Use instead
    ```python
    layer = nn.TransformerEncoderLayer(512, 8, norm_first=True)
    ```

    ## How it is confirmed
    Ten steps on one batch do not show it, so that nothing is measured.

    ## Fix safety
    No fix is offered.

    ## Options
    - `layers` (6; 1 or more): transformer layers from which it is reported
    - `learning-rate` (1e-4; 0 or more): rates above it

    ## References
    - Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020
    """

    code = "GL303"
    name = "post-norm-without-warmup"
    since = "0.1"
    severity = Severity.WARNING
    Options = WarmupOptions
    BAD = """\
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=8)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.encoder(x).mean(dim=1))


model = Classifier()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(16, 12, 64), torch.randint(0, 5, (16,))
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace("batch_first=True)", "batch_first=True, norm_first=True)")

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        if graph.pretrained or not context.optimizers:
            return
        merges = claims.post_norm_merges(graph)
        if len(merges) < 2 * self.options.layers:
            return
        for optimizer in context.optimizers:
            rate = self._high_rate(optimizer, context.script)
            location = claims.place(graph, merges[0])
            if rate is None or location is None or any(_pretrained(m) for m in optimizer.models):
                continue  # A rate that is too high for loaded weights is GL501's.
            yield self.finding(
                location,
                f"{len(merges)} residual branches are normalised after the addition (post-norm) and trained with "
                f"{optimizer.algorithm} at {number(rate)} without warm-up",
                help="normalise before each branch (`norm_first=True`), or warm the rate up over some thousand steps",
                related=[Related(optimizer.location, "the optimizer")],
                evidence=Evidence(numbers={"learning_rate": rate, "post_norm_branches": len(merges)}),
                model=claims.model_key(graph),
                optimizer=optimizer.algorithm,
                confidence=graph.confidence,
                needs_probe=False,
            )

    def _high_rate(self, optimizer: Optimizer, script: Script | None) -> float | None:
        """The rate, where it is surely high from the first step on."""
        rate = plain_number(optimizer.learning_rate)
        if rate is None or rate <= self.options.learning_rate:
            return None
        return rate if starts_cold(optimizer, script) else None


def _pretrained(model: Model) -> bool:
    return model.pretrained is not None or (model.model_class is not None and model.model_class.pretrained is not None)
