"""GL302: residual branches without normalisation or a small start double the variance in every block."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding
from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.profile import Profile
from gradlint.graph.topology import Skip, topology
from gradlint.notation import from_log10
from gradlint.path_rule import PathRule
from gradlint.probe.experiment import Experiment
from gradlint.rule import Amount, Context, Count
from gradlint.severity import BandOptions, power

GROWTH = 1.0
"""Decades by which the stream has to grow over all blocks: seven blocks that double the variance."""


SCALED_BRANCHES = "branches scaled by 0.2"
"""What-if: He init with the last layer of each branch scaled down, a zero start after some training."""


class ResidualOptions(BandOptions, frozen=True):
    """`blocks`: fewer residual blocks are not looked at; `growth`: decades by which their stream has to grow."""

    blocks: Count = 8
    growth: Amount = GROWTH


class UnscaledResidual(PathRule):
    """
    ## What it does
    Looks for eight or more residual blocks with no normalisation anywhere between the first and the last, over
    which the signal is predicted to grow by ten times or more.

    ## Why it hurts
    The variance of x + F(x) is the sum of both. A branch with He init keeps the variance of its input, so that
    every block doubles that of the stream: after 50 blocks the signal is 3e7 times as large, and the gradient too.

    ## Example
    ```python
    x = x + self.conv2(torch.relu(self.conv1(x)))  # 50 times, He init
    ```

    ## Use instead
    ```python
    nn.init.zeros_(self.conv2.weight)  # Fixup; or a scalar that starts at zero (SkipInit), or a norm
    ```

    ## How it is confirmed
    The gradient ratio, the weight gradients and the forward signal over the blocks are measured on one batch, and
    again with the last layer of each branch scaled by 0.2 (at zero every block is the identity, which would prove
    nothing), and with a normalisation before every activation.

    ## Fix safety
    No fix is offered.

    ## Options
    - `blocks` (8; 1 or more): fewer residual blocks are not looked at
    - `growth` (1.0; 0 or more): decades by which the signal has to grow
    - `ratio-plain`, `ratio-adaptive`, `absolute`, `forward`: thresholds `info`, `warning`, `error`

    ## References
    - Zhang et al., Fixup Initialization, ICLR 2019
    - De and Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function, NeurIPS 2020
    """

    code = "GL302"
    name = "unscaled-residual"
    since = "0.1"
    Options = ResidualOptions
    BAD = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


net = nn.Sequential(*[Block() for _ in range(30)], nn.Linear(64, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace(
        "            nn.init.kaiming_normal_(layer.weight)\n",
        "            nn.init.kaiming_normal_(layer.weight)\n        nn.init.zeros_(self.second.weight)\n",
    )

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        paths = topology(graph)
        blocks = [s for s in paths.skips if s.kind == "add"]
        if len(blocks) < self.options.blocks or graph.pretrained:
            return
        first, last = blocks[0], blocks[-1]
        if any(paths.reaches(first.source, n) and paths.reaches(n, last.merge) for n in paths.norms):
            return
        growth = _growth(profile, first, last)
        layers = _layers(graph, blocks)
        location = claims.place(graph, graph.nodes[first.merge], *layers)
        if growth is None or growth < self.options.growth or not layers or location is None:
            return
        if claims.from_checkpoint(graph, layers):
            return
        path = self.predict(layers, graph, profile, context)
        nodes = claims.activations_after(graph, layers)
        remedies = (
            Experiment("reinit", label=SCALED_BRANCHES, nodes=tuple(n.name for n in layers), law="kaiming_residual"),
            Experiment("insert_norm", label="LayerNorm", nodes=nodes, norm="layer"),
        )
        yield self.path_finding(
            path,
            location,
            f"the signal grows {from_log10(growth)} times over {len(blocks)} residual blocks without normalisation",
            help="initialise the last layer of each branch to zero (Fixup, SkipInit), or normalise the branch's input",
            related=claims.further([graph.nodes[last.merge]], "the last of them", beside=location),
            remedies=remedies,
        )


def _growth(profile: Profile, first: Skip, last: Skip) -> float | None:
    """log10 of the stream's std at the last merge over that at the first branch, or None."""
    at = profile.std_at
    if last.merge >= len(at) or (profile.void and (profile.void[first.source] or profile.void[last.merge])):
        return None
    start, end = at[first.source], at[last.merge]
    return None if start is None or end is None or not power(start) else end - start


def _layers(graph: ModelGraph, blocks: list[Skip]) -> tuple[Node, ...]:
    """The weighted layers on the branches, in order."""
    paths = topology(graph)
    inside = {i for block in blocks for i in block.branch if paths.weighted_mask >> i & 1}
    return tuple(graph.nodes[i] for i in sorted(inside))
