"""GL101: hidden sigmoid or tanh layers follow one another with nothing to keep the gradient up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.graph.topology_paths import Stack, stacks
from gradlint.path_rule import PathRule
from gradlint.probe.experiment import Experiment
from gradlint.rule import Context, Count
from gradlint.severity import BandOptions


class SaturatingOptions(BandOptions, frozen=True):
    """`minimum`: how many saturating layers in one path make a stack."""

    minimum: Count = 3


class SaturatingStack(PathRule):
    """
    ## What it does
    Looks for three or more hidden layers with sigmoid, tanh, hardsigmoid, hardtanh or softsign in one path, with
    no normalisation and no skip connection between them. Output activations, gates, squeeze-excite nets,
    attention scorers and the gates of recurrent layers are not counted.

    ## Why it hurts
    The slope of a sigmoid is at most 1/4 and that of tanh at most 1, reached only at zero. Back-propagation
    multiplies these slopes with each other: with PyTorch's default init a sigmoid layer multiplies the gradient
    by about 0.14 and a tanh layer by 0.57, so six sigmoid layers leave 7e-5 of it for the first layer, ten leave
    3e-8 and twenty 9e-17.

    ## Example
    ```python
    net = nn.Sequential(
        nn.Linear(64, 64), nn.Sigmoid(),
        nn.Linear(64, 64), nn.Sigmoid(),
        nn.Linear(64, 64), nn.Sigmoid(),
        nn.Linear(64, 10),
    )
    ```

    ## Use instead
    ```python
    net = nn.Sequential(
        nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(),
        nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(),
        nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(),
        nn.Linear(64, 10),
    )
    ```
    A ReLU or GELU with He init, a normalisation before each activation, or, where tanh has to stay, Xavier init.

    ## How it is confirmed
    The gradient ratio g between the first and the last layer of the stack is measured on one batch and compared
    with the thresholds below; so are the weight gradients and the forward signal. What-ifs: the activations
    replaced by ReLU with He init, a LayerNorm before each, Xavier init. The finding is refuted when all three
    numbers are healthy.

    ## Fix safety
    No fix is offered: another activation is another model.

    ## Options
    - `minimum` (3; 1 or more): how many saturating layers make a stack
    - `ratio-plain`, `ratio-adaptive`, `absolute`, `forward`: thresholds `info`, `warning`, `error`

    ## References
    - Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010
    - Schoenholz et al., Deep Information Propagation, ICLR 2017
    """

    code = "GL101"
    name = "saturating-stack"
    since = "0.1"
    Options = SaturatingOptions
    BAD = """\
import torch
from torch import nn

net = nn.Sequential(
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 64), nn.Sigmoid(),
    nn.Linear(64, 10),
)
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

net = nn.Sequential(
    nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(),
    nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(),
    nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(),
    nn.Linear(64, 10),
)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        for stack in stacks(graph, self.options.minimum):
            if claims.from_checkpoint(graph, stack.layers):
                continue
            found = self._found(stack, graph, profile, context)
            if found is not None:
                yield found

    def _found(self, stack: Stack, graph: ModelGraph, profile: Profile, context: Context) -> Finding | None:
        location = claims.place(graph, *stack.activations)
        if location is None:
            return None
        path = self.predict(stack.layers, graph, profile, context)
        kinds = Counter(node.op for node in stack.activations)
        named = " and ".join(f"`{op}`" for op, _ in kinds.most_common())
        nodes = tuple(node.name for node in stack.activations)
        remedies = (
            Experiment("swap_activation", label="ReLU with He init", nodes=nodes, to="relu"),
            Experiment("insert_norm", label="LayerNorm", nodes=nodes, norm="layer"),
            Experiment("reinit", label="Xavier init", nodes=tuple(n.name for n in stack.layers), law="xavier"),
        )
        return self.path_finding(
            path,
            location,
            f"{len(nodes)} {named} layers in a row with no normalisation or skip between",
            help="use ReLU or GELU with He init, or put a LayerNorm before each activation"
            + ("; where tanh has to stay, Xavier init" if "tanh" in kinds else ""),
            related=claims.further(stack.activations, "and here", beside=location),
            remedies=remedies,
            nodes=stack.activations,
        )
