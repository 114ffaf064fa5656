"""GL203: several layers start with the very same weights."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding, Severity
from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.profile import Profile
from gradlint.rule import Context, Count, Rule, RuleOptions


class CopyOptions(RuleOptions, frozen=True):
    """`copies`: how many layers with the same sample of weights are reported."""

    copies: Count = 3


class IdenticalLayers(Rule):
    """
    ## What it does
    Looks for three or more layers that hold the same sample of weights, because they were made with `deepcopy`:
    by hand, or by `nn.TransformerEncoder` and `nn.TransformerDecoder`, which copy the layer they are given.

    ## Why it hurts
    Layers that start equal add coherently: the signal grows differently than with independent draws, and until
    training has told them apart they are worth less than as many layers.

    ## Example
    ```python
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4), num_layers=6)
    ```

    ## Use instead
    ```python
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4), num_layers=6)
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    ```

    ## How it is confirmed
    There is nothing to measure: that the samples are the same is seen when the model is built.

    ## Fix safety
    No fix is offered.

    ## Options
    - `copies` (3; 1 or more): how many layers with the same weights are reported

    ## References
    - PyTorch, torch.nn.TransformerEncoder: "all layers are initialised with the same parameters"
    """

    code = "GL203"
    name = "identical-layers"
    since = "0.1"
    severity = Severity.INFO
    Options = CopyOptions
    BAD = """\
import copy

import torch
from torch import nn

block = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())
net = nn.Sequential(*[copy.deepcopy(block) for _ in range(4)], nn.Linear(64, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""
    GOOD = """\
import torch
from torch import nn

blocks = [nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()) for _ in range(4)]
net = nn.Sequential(*blocks, nn.Linear(64, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        if graph.pretrained:
            return
        copies = max(_copies(graph).values(), key=len, default=[])
        if len(copies) < self.options.copies:
            return
        location = claims.place(graph, *copies)
        if location is None:
            return
        yield self.finding(
            location,
            f"{len(copies)} layers start with the very same weights: {claims.listed([n.name for n in copies])}",
            help="initialise each of them anew, for example with nn.init.xavier_uniform_",
            related=claims.further(copies, "a copy", beside=location),
            model=claims.model_key(graph),
            optimizer=context.algorithm,
            confidence=graph.confidence,
            needs_probe=False,
        )


def _copies(graph: ModelGraph) -> dict[str, list[Node]]:
    """Weighted nodes by the sample that their weight holds, each parameter once; constants are no sample."""
    found: dict[str, dict[str, Node]] = {}
    for node in graph.nodes:
        for name in node.parameters.values():
            parameter = graph.parameter.get(name)
            law = parameter.law if parameter else None
            if parameter is None or law is None or law.draw is None or not law.std or len(parameter.shape) < 2:
                continue
            found.setdefault(law.draw, {}).setdefault(parameter.name, node)
    return {draw: list(nodes.values()) for draw, nodes in found.items()}
