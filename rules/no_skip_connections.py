"""GL301: many weighted layers follow one another with no path around them."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding, Severity
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.graph.topology_paths import longest_run
from gradlint.path_rule import PathRule
from gradlint.probe.experiment import Experiment
from gradlint.rule import Context, Count
from gradlint.severity import BandOptions


class SkipOptions(BandOptions, frozen=True):
    """`layers`: more weighted layers than this in sequence are reported; `at_least`: from here on, where the
    prediction is bad."""

    layers: Count = 20
    at_least: Count = 10


class NoSkipConnections(PathRule):
    """
    ## What it does
    Looks for more than 20 weighted layers in sequence with no path around them: no `x + F(x)`, no concatenation
    as in DenseNet and U-Net, no highway gate. Where branches run side by side the shortest counts. From 10 layers
    on where the gradient is predicted to leave the healthy band in spite of normalisation.

    ## Why it hurts
    Every layer multiplies the gradient by its own factor. Normalisation does not help: with BatchNorm before
    ReLU the gradient *grows* by √(π/(π−1)) ≈ 1.21 a layer towards the input, which makes 35 at 20 layers, 1.9e4 at
    50 and more than 1e10 at 152. A path around the layers hands the gradient on as it is.

    ## Example
    ```python
    for conv, norm in zip(self.convs, self.norms):  # 50 times
        x = torch.relu(norm(conv(x)))
    ```

    ## Use instead
    ```python
    for conv, norm in zip(self.convs, self.norms):
        x = x + norm(conv(torch.relu(x)))  # with nn.init.zeros_(norm.weight)
    ```
    Take a form that starts near the identity: a zero-initialised last norm of each branch, SkipInit or Fixup.
    Plain He blocks with bare skips double the variance in every block.

    ## How it is confirmed
    The gradient ratio over the run is measured on one batch, and again with identity paths around every two
    layers, the branches grown to a scale of 0.2 (at zero every net with skips is the identity, which would prove
    nothing). Refuted when the numbers are healthy.

    ## Fix safety
    No fix is offered: skips change the model.

    ## Options
    - `layers` (20; 1 or more): more layers in sequence than this are reported
    - `at-least` (10; 1 or more): the same where the prediction is in the warning band
    - `ratio-plain`, `ratio-adaptive`, `absolute`, `forward`: thresholds `info`, `warning`, `error`

    ## References
    - He et al., Deep Residual Learning for Image Recognition, CVPR 2016
    - Yang et al., A Mean Field Theory of Batch Normalization, ICLR 2019
    - De and Smith, Batch Normalization Biases Residual Blocks Towards the Identity Function, NeurIPS 2020
    """

    code = "GL301"
    name = "no-skip-connections"
    since = "0.1"
    Options = SkipOptions
    BAD = """\
import torch
from torch import nn

layers = []
for _ in range(50):
    layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
net = nn.Sequential(*layers, nn.Linear(64, 10))
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


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.norm = nn.BatchNorm1d(64)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        return x + self.norm(self.linear(torch.relu(x)))


net = nn.Sequential(*[Block() for _ in range(50)], nn.BatchNorm1d(64), nn.Linear(64, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        run = longest_run(graph)
        if graph.assumed:
            return  # The path around them may be what was assumed away.
        if run is None or len(run.layers) < self.options.at_least or claims.from_checkpoint(graph, run.layers):
            return
        path = self.predict(claims.hidden(graph, run.layers) or run.layers, graph, profile, context)
        # Without a norm the init or the activations are the nearer cause, and have rules of their own.
        harms = {path.severity, path.health.ratio_severity} <= {Severity.WARNING, Severity.ERROR}
        if len(run.layers) <= self.options.layers and not (run.has_norm and harms):
            return
        location = claims.place(graph, run.layers[0])
        if location is None:
            return
        nodes = tuple(n.name for n in path.layers)
        yield self.path_finding(
            path,
            location,
            f"{len(run.layers)} weighted layers in sequence with no path around them",
            help="add x + F(x) around every two or three layers, with the last norm of each branch initialised to zero "
            "(or SkipInit, Fixup)",
            related=[
                *claims.further(run.layers[-1:], "the last of them", beside=location),
                *claims.built(graph, location),
            ],
            remedies=(Experiment("add_skips", label="skips", nodes=nodes, every=2, branch_scale=0.2),),
        )
