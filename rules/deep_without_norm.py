"""GL102: a deep path has no normalisation and its gradient leaves the healthy band."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.graph.topology_paths import longest_run
from gradlint.path_rule import PathRule
from gradlint.probe.experiment import Experiment
from gradlint.rule import Context, Count
from gradlint.severity import BandOptions


class NormOptions(BandOptions, frozen=True):
    """`layers`: more weighted layers than this without a normalisation are looked at."""

    layers: Count = 8


class DeepWithoutNorm(PathRule):
    """
    ## What it does
    Looks for more than 8 weighted layers in sequence without a normalisation between them, where the gradient is
    predicted to leave the healthy band.

    ## Why it hurts
    Without normalisation the scale of signal and gradient is the product of every layer's gain. A gain of 0.7
    leaves a thousandth after 20 layers; a gain that is right at the start drifts as soon as training changes it.

    ## Example
    ```python
    for conv in self.convs:  # 16 of them
        x = torch.relu(conv(x))
    ```

    ## Use instead
    ```python
    for conv, norm in zip(self.convs, self.norms):
        x = torch.relu(norm(conv(x)))
    ```

    ## How it is confirmed
    The gradient ratio over the path is measured on one batch as it is, and with a normalisation before every
    activation. Refutes itself when the numbers are healthy.

    ## Fix safety
    No fix is offered: a normalisation changes the model.

    ## Options
    - `layers` (8; 1 or more): more layers than this in sequence are looked at
    - `ratio-plain`, `ratio-adaptive`, `absolute`, `forward`: thresholds `info`, `warning`, `error`

    ## References
    - Ioffe and Szegedy, Batch Normalization, ICML 2015
    - Hanin and Rolnick, How to Start Training: The Effect of Initialization and Architecture, NeurIPS 2018
    """

    code = "GL102"
    name = "deep-without-norm"
    since = "0.1"
    Options = NormOptions
    BAD = """\
import torch
from torch import nn

layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
for _ in range(15):
    layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""
    GOOD = """\
import torch
from torch import nn

layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
for _ in range(9):
    layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        run = longest_run(graph)
        if graph.assumed:
            return  # The normalisation may be what was assumed away.
        if run is None or run.has_norm or len(run.layers) <= self.options.layers:
            return
        if claims.from_checkpoint(graph, run.layers):
            return
        path = self.predict(claims.hidden(graph, run.layers) or run.layers, graph, profile, context)
        location = claims.place(graph, run.layers[0])
        if path.health.ratio_severity is None or location is None:
            return
        activations = claims.activations_after(graph, path.layers)
        yield self.path_finding(
            path,
            location,
            f"{len(run.layers)} weighted layers in sequence without normalisation",
            help="put a BatchNorm (images) or LayerNorm before each activation",
            related=[
                *claims.further(run.layers[-1:], "the last of them", beside=location),
                *claims.built(graph, location),
            ],
            remedies=(Experiment("insert_norm", label="LayerNorm", nodes=activations, norm="layer"),),
        )
