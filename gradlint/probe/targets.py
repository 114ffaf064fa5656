"""Where in a model graph an experiment acts: the activation a layer feeds, the layers before one, skips to add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.naming import clean_path, wrapped_paths

TRANSPARENT = frozenset({"reshape", "dropout", "scale", "normalization", "pool", "upsample", "add", "cat", "identity"})
"""Kinds that may stand between a weighted layer and the activation that it feeds."""

DENSE = frozenset({"linear", "conv", "conv_transpose"})
"""Kinds whose one weight is drawn by an init law with a fan-in."""

ELEMENTWISE_MATH = frozenset(
    ["exp", "log", "sqrt", "square", "abs", "neg", "sin", "cos", "reciprocal", "pow", "clamp", "logsigmoid"]
)
"""Activations in the graph's sense that are arithmetic rather than a layer's nonlinearity."""

LONGEST_BRANCH = 3
"""Weighted layers by which a branch may be longer than asked, to end at a shape that fits (bottleneck blocks)."""


def nonlinearity(node: Node) -> bool:
    """Whether the node is an activation function that a person would swap for another."""
    return node.kind == "activation" and node.op not in ELEMENTWISE_MATH


def fed_activation(graph: ModelGraph, node: Node) -> Node | None:
    """The first activation that reads the node's output, through norms, reshapes, dropout and sums; None if none."""
    seen = {node.id}
    queue = list(graph.consumers[node.id])
    while queue:
        user = graph.nodes[queue.pop(0)]
        if user.id in seen:
            continue
        seen.add(user.id)
        if nonlinearity(user):
            return user
        if user.kind in TRANSPARENT:
            queue.extend(graph.consumers[user.id])
    return None


def chosen_layers(graph: ModelGraph, names: tuple[str, ...]) -> list[Node]:
    """The dense layers among the named nodes (or that feed a named activation); all of the graph if none is named."""
    wanted = set(names)
    return [
        node
        for node in graph.nodes
        if node.kind in DENSE
        and (
            not wanted
            or node.name in wanted
            or ((fed := fed_activation(graph, node)) is not None and fed.name in wanted)
        )
    ]


def chosen_activations(graph: ModelGraph, names: tuple[str, ...]) -> list[Node]:
    """The activations among the named nodes, or that a named layer feeds; all of the graph if none is named."""
    if not names:
        return [node for node in graph.nodes if nonlinearity(node)]
    wanted = set(names)
    for node in graph.nodes:
        if node.name in wanted and not nonlinearity(node):
            fed = fed_activation(graph, node)
            wanted |= {fed.name} if fed is not None else set()
    return [node for node in graph.nodes if nonlinearity(node) and node.name in wanted]


@dataclass(frozen=True)
class Branch:
    """Weighted layers to lead an identity path around: from the input of `first` to the output of `merge`."""

    first: str
    merge: str


def branches(graph: ModelGraph, names: tuple[str, ...], every: int) -> list[Branch]:
    """Non-overlapping branches of `every` weighted layers in sequence (up to 3 more) with equal shape at both ends.

    A branch ends after the normalisation that directly follows its last layer, where a ResNet adds.
    """
    wanted = set(names)
    chain = [n for n in graph.nodes if n.kind in DENSE and (not wanted or n.name in wanted)]
    if not chain and wanted:
        layers = set(chosen_layers(graph, names))
        chain = [n for n in graph.nodes if n in layers]
    found: list[Branch] = []
    start = 0
    while start < len(chain):
        for length in range(every, every + LONGEST_BRANCH + 1):
            block = chain[start : start + length]
            if len(block) == length and _in_sequence(graph, block) and _fits(graph, block):
                found.append(Branch(block[0].name, _after_norm(graph, block[-1]).name))
                start += length
                break
        else:
            start += 1
    return found


def _after_norm(graph: ModelGraph, node: Node) -> Node:
    users = graph.consumers[node.id]
    if len(users) == 1 and graph.nodes[users[0]].kind == "normalization":
        return graph.nodes[users[0]]
    return node


def _fits(graph: ModelGraph, block: list[Node]) -> bool:
    """Whether the shape that enters the block leaves it again."""
    source = _signal_input(graph, block[0])
    return source is not None and source.shape is not None and source.shape == block[-1].shape


def _signal_input(graph: ModelGraph, node: Node) -> Node | None:
    inputs = [graph.nodes[i] for i in node.inputs if graph.nodes[i].kind not in ("parameter", "constant")]
    return inputs[0] if inputs else None


def _in_sequence(graph: ModelGraph, block: list[Node]) -> bool:
    """Whether each layer of the block reads, through weightless operations, the one before it."""
    return all(_reaches(graph, a, b) for a, b in pairwise(block))


def _reaches(graph: ModelGraph, source: Node, target: Node) -> bool:
    stack, seen = list(target.inputs), set(target.inputs)
    while stack:
        node = graph.nodes[stack.pop()]
        if node.id == source.id:
            return True
        if node.id < source.id or node.kind in DENSE:
            continue
        fresh = [i for i in node.inputs if i not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return False


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by their name in the graph (no wrapper's prefixes), tied ones under each of their names."""
    wrapped = wrapped_paths(module)
    return {clean_path(n, wrapped): p for n, p in module.named_parameters(remove_duplicate=False)}


def weights_of(node: Node, table: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, nn.Parameter]]:
    """The node's weights (not biases) with their names."""
    for role, name in sorted(node.parameters.items()):
        if "bias" not in role and name in table:
            yield name, table[name]
