"""GL506: a transformer is trained at its peak rate from the first step."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Evidence, Finding, Related, Severity
from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.profile import Profile
from gradlint.graph.topology import topology
from gradlint.notation import number
from gradlint.replay import plain_number
from gradlint.rule import Amount, Context, Count, Rule, RuleOptions
from gradlint.source.script import Optimizer, Script
from gradlint.warmup import starts_cold


class NoWarmupOptions(RuleOptions, frozen=True):
    """`layers`: attention layers from which a model is taken for a transformer; `learning_rate`: rates above it;
    `post_norm_layers` and `post_norm_rate`: from where on it is a warning."""

    layers: Count = 2
    learning_rate: Amount = 3e-4
    post_norm_layers: Count = 4
    post_norm_rate: Amount = 1e-3


class NoWarmup(Rule):
    """
    ## What it does
    Looks for a transformer of two or more attention layers that is trained from scratch with Adam or AdamW above 3e-4,
    where neither a schedule nor code in the file warms the rate up. An info; a warning where the layers normalise after
    the residual addition, there are four or more of them, and the rate is 1e-3 or more.

    ## Why it hurts
    Adam's first steps rest on a second moment of a few batches and are as large as the rate allows, in every parameter
    at once. Attention saturates and the loss settles on a plateau, or diverges. Layers that normalise before the branch
    bear it better; those that normalise after the addition have large gradients at the start.

    ## Example
    ```python
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-3)
    ```

    ## Use instead
    ```python
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-3)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=1000)
    ```

    ## How it is confirmed
    Ten steps on one batch do not show it, so that nothing is measured.

    ## Fix safety
    No fix is offered: how long to warm up depends on how long the training is.

    ## Options
    - `layers` (2; 1 or more): attention layers from which it is reported
    - `learning-rate` (3e-4; 0 or more): rates above it
    - `post-norm-layers` (4; 1 or more): post-norm layers from which it is a warning
    - `post-norm-rate` (1e-3; 0 or more): the rate from which it is one

    ## References
    - Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020
    - Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020
    """

    code = "GL506"
    name = "no-warmup"
    since = "0.1"
    severity = Severity.WARNING
    Options = NoWarmupOptions
    BAD = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x):
        x = self.norm1(x + self.attention(x, x, x)[0])
        return self.norm2(x + self.mlp(x))


class Tagger(nn.Module):
    def __init__(self, tokens, tags, width=64, heads=4, layers=4):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.head = nn.Linear(width, tags)

    def forward(self, x):
        return self.head(self.blocks(self.embedding(x)))


tagger = Tagger(tokens=500, tags=9)
optimizer = torch.optim.AdamW(tagger.parameters(), lr=2e-3)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    words, tags = torch.randint(0, 500, (16, 12)), torch.randint(0, 9, (16, 12))
    optimizer.zero_grad()
    criterion(tagger(words).flatten(0, 1), tags.flatten()).backward()
    optimizer.step()
"""
    GOOD = BAD.replace(
        "criterion = ", "warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=50)\ncriterion = "
    ).replace("optimizer.step()\n", "optimizer.step()\n    warmup.step()\n")

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        script = context.script
        if graph.pretrained or script is None:
            return
        layers = _attention_layers(graph)
        if len(layers) < self.options.layers:
            return
        post_norm = len(claims.post_norm_merges(graph)) // 2
        for optimizer in context.optimizers:
            rate = plain_number(optimizer.learning_rate)
            if rate is None or rate <= self.options.learning_rate or not _is_cold(optimizer, script):
                continue
            severe = post_norm >= self.options.post_norm_layers and rate >= self.options.post_norm_rate
            kind = "post-norm " if post_norm else ""
            yield self.finding(
                optimizer.location,
                f"a transformer of {len(layers)} {kind}attention layers starts with {optimizer.algorithm} at "
                f"{number(rate)}, without warm-up",
                help="warm the rate up over some hundred to thousand steps, for example with `LinearLR` before the "
                "schedule, or lower it",
                severity=Severity.WARNING if severe else Severity.INFO,
                related=[
                    Related(at, "the first of the attention layers") for at in (claims.place(graph, layers[0]),) if at
                ],
                evidence=Evidence(numbers={"learning_rate": rate, "attention_layers": len(layers)}),
                model=claims.model_key(graph),
                optimizer=optimizer.algorithm,
                confidence=graph.confidence,
                needs_probe=False,
            )


def _attention_layers(graph: ModelGraph) -> list[Node]:
    """The attention layers of a transformer: inside residual branches, with at least one norm for each."""
    paths = topology(graph)
    inside = {i for skip in paths.skips if skip.kind == "add" for i in skip.branch}
    found = [n for n in graph.nodes if n.id in inside and (n.kind == "attention" or _weighs_values(graph, n))]
    norms = sum(n.op in ("layer_norm", "rms_norm") for n in graph.nodes)
    return found if norms >= len(found) else []


def _weighs_values(graph: ModelGraph, node: Node) -> bool:
    """Whether a softmax gives the weights of a matrix product."""
    if node.kind != "softmax":
        return False
    behind = [graph.nodes[c] for c in graph.consumers[node.id]]
    behind += [graph.nodes[c] for n in behind if n.kind in {"dropout", "reshape"} for c in graph.consumers[n.id]]
    return any(n.kind == "matmul" for n in behind)


def _is_cold(optimizer: Optimizer, script: Script) -> bool:
    """Whether Adam surely starts at its full rate, on weights that were drawn."""
    if not starts_cold(optimizer, script) or any(m.pretrained for m in optimizer.models):
        return False
    return any(s.optimizer is not None and s.optimizer.location == optimizer.location for s in script.steps)
