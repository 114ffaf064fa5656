"""GL202: a hidden layer starts with the same value in every weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradlint import claims
from gradlint.finding import Evidence, Finding, Outcome, Severity, Verdict
from gradlint.graph.model import InitLaw, ModelGraph, Node
from gradlint.graph.profile import Profile
from gradlint.graph.topology import topology
from gradlint.notation import number
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.rule import Context, Rule
from gradlint.verdicts import unmeasured

_READ_AT = {"affine_grid": {0}, "grid_sample": {1}, "deform_conv2d": {1, 2}}
"""Operations that read a signal at places which they are given, and which of their inputs those are."""


class ZeroOrConstantInit(Rule):
    """
    ## What it does
    Looks for a hidden Linear or convolution whose weights all start at zero or at one constant. Output layers,
    residual branches and parallel heads that start at zero, what a spatial transformer or a deformable convolution
    reads its places from, gates, frozen filters and layers with a single unit are left alone.

    ## Why it hurts
    Units with equal weights compute the same and receive the same gradient: they stay equal for ever, and the
    layer is worth one unit. At zero nothing passes in either direction.

    ## Example
    ```python
    nn.init.constant_(self.hidden.weight, 0.1)
    ```

    ## Use instead
    ```python
    nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
    ```

    ## How it is confirmed
    The weight gradients of the layers before it are measured on one batch: zero behind a zero layer confirms.
    The symmetry of a constant layer is certain and is not measured.

    ## Fix safety
    No fix is offered.

    ## Options
    None.

    ## References
    - Goodfellow et al., Deep Learning, 2016, §8.4
    """

    code = "GL202"
    name = "zero-or-constant-init"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn

hidden = nn.Linear(64, 64)
nn.init.zeros_(hidden.weight)
net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), hidden, nn.Tanh(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace("nn.init.zeros_(hidden.weight)", "nn.init.xavier_uniform_(hidden.weight)")

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        if graph.pretrained:
            return
        groups: dict[object, list[tuple[Node, InitLaw]]] = {}
        for node in graph.of_kind("linear", "conv", "conv_transpose"):
            law = graph.weight_law(node)
            if law is not None and self._symmetric(graph, node, law):
                groups.setdefault(law.location or node.name, []).append((node, law))
        for group in groups.values():
            node, law = group[0]
            location = law.location or claims.place(graph, node)
            if location is None:
                continue
            zero = not law.mean
            layers = [n for n, _ in group]
            yield self.finding(
                location,
                f"every weight of {claims.listed([n.name for n in layers])} starts at {number(law.mean or 0.0)}: "
                + ("no signal and no gradient passes" if zero else "its units are equal and stay equal"),
                help="draw the weights at random: He init before a rectifier, Xavier before tanh",
                related=claims.further(layers, "gets this init", beside=location),
                model=claims.model_key(graph),
                optimizer=context.algorithm,
                confidence=claims.confidence(graph, profile),
                needs_probe=zero,
                subject=(tuple(n.name for n in layers), tuple(_before(graph, node))),
            )

    def _symmetric(self, graph: ModelGraph, node: Node, law: InitLaw) -> bool:
        paths = topology(graph)
        parameter = graph.parameter.get(node.parameters.get("weight", ""))
        if law.distribution != "constant" or law.partial or law.origin != "explicit" or law.mean is None:
            return False
        if parameter is None or not parameter.trainable or len(parameter.aliases) > 0:
            return False
        if any(size == 1 for size in parameter.shape[:1]) or "lora" in node.name.lower():
            return False
        if node.id in paths.innermost or node.id in paths.side or not paths.before_weights[node.id]:
            return False
        if not law.mean and (_passed_by(graph, node) or _steers(graph, node)):
            return False
        return (node.attributes.get("groups") or 1) == 1

    def experiments(self, finding: Finding) -> list[Experiment]:
        return [Experiment("baseline")]

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        own, before = finding.subject
        smallest, whose = _smallest(seen, before), "the layers before it get"
        if smallest is None:
            # Nothing stands before it. Its own weights move unless what follows holds them still.
            smallest, whose = _smallest(seen, own), "its weights get"
            if smallest:
                return unmeasured(seen, "no layer stands before it whose gradient it could hold up")
        if smallest is None:
            return unmeasured(seen, "no gradient was seen at it or before it")
        evidence = Evidence(numbers={"measured_weight_gradient": smallest})
        if smallest == 0:
            return Verdict(Outcome.CONFIRMED, f"{whose} no gradient", Severity.ERROR, evidence)
        told = f"{whose} a gradient of {number(smallest)} and more"
        return Verdict(Outcome.REFUTED, told, Severity.INFO, evidence)


def _smallest(seen: Measurements, names: Sequence[str]) -> float | None:
    """The smallest norm of a weight gradient measured in these layers, None if none was."""
    layers = [seen.baseline.layers[n] for n in names if n in seen.baseline.layers] if seen.baseline else []
    return min((x.weight_gradient for x in layers if x.weight_gradient is not None), default=None)


def _before(graph: ModelGraph, node: Node) -> list[str]:
    return [graph.nodes[i].name for i in _weighted_before(graph, node)]


def _weighted_before(graph: ModelGraph, node: Node) -> list[int]:
    paths = topology(graph)
    return [i for i in range(node.id) if paths.weighted_mask >> i & 1 and paths.reaches(i, node.id)]


def _steers(graph: ModelGraph, node: Node) -> bool:
    """Whether all that comes of a node are places at which another signal is read, which start where they are."""
    paths = topology(graph)
    ahead, seen = [node.id], {node.id}
    while ahead:
        source = ahead.pop()
        users = graph.consumers[source]
        if not users:
            return False
        for user in (graph.nodes[c] for c in users):
            if user.op in _READ_AT and user.inputs.index(source) in _READ_AT[user.op]:
                continue
            if user.kind == "output" or paths.weighted_mask >> user.id & 1:
                return False
            if user.id not in seen:
                seen.add(user.id)
                ahead.append(user.id)
    return True


def _passed_by(graph: ModelGraph, node: Node) -> bool:
    """Whether every weighted layer before the node has another way to an output, as that of a variational mean."""
    alive = [False] * len(graph.nodes)
    for other in reversed(graph.nodes):
        alive[other.id] = other.id != node.id and (
            other.kind == "output" or any(alive[c] for c in graph.consumers[other.id])
        )
    before = _weighted_before(graph, node)
    return bool(before) and all(alive[i] for i in before)
