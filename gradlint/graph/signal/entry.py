"""Where the loss enters a graph: which outputs carry one, and the gradient it starts them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradlint.graph.model import WEIGHTED, ModelGraph
from gradlint.graph.signal import loss
from gradlint.graph.signal.moments import Gradient
from gradlint.graph.signal.transfer import Site


@dataclass(frozen=True)
class Entry:
    """The node that a loss reads, ∂L/∂ its output, the first loss expected there, and what was assumed."""

    node: int
    gradient: Gradient
    first_loss: float
    note: str | None = None


def entry(graph: ModelGraph, sites: Sequence[Site | None], root: int, nth: int) -> Entry | None:
    """Where the loss on one output enters; outputs after the first get a squared error. None where the output, or
    what the loss reads of it, is not known. Raises ArithmeticError where the loss cannot be evaluated."""
    site = sites[root]
    if site is None:
        return None
    kind, note = loss.resolve(graph.loss, site.output)
    if nth:
        kind, note = "mse", f"several outputs: squared error assumed on `{graph.nodes[root].name}`"
    start, kind = _loss_input(graph, root, kind)
    read = sites[start]
    if read is None:
        return None
    gradient, first = loss.start(kind, graph.loss.reduction, read.output)
    return Entry(start, gradient, first, note)


def roots(graph: ModelGraph) -> list[int]:
    """The outputs that carry a loss: the first one, and those of the others that reach layers of their own.

    The states and attention weights that a layer returns beside its output carry none.
    """
    outputs = [n for n in graph.nodes if n.kind == "output" and n.inputs]
    if not outputs:
        return [graph.nodes[-1].id] if graph.nodes else []
    found: list[int] = []
    below = [False] * len(graph.nodes)
    for i in dict.fromkeys(outputs[-1].inputs):
        own = _depends(graph, i)
        fresh = any(graph.nodes[j].kind in WEIGHTED and own[j] and not below[j] for j in range(len(own)))
        if found and (not fresh or _is_side_output(graph, i)):
            continue
        found.append(i)
        below = [x or y for x, y in zip(below, own, strict=True)]
    return found


def _depends(graph: ModelGraph, root: int) -> list[bool]:
    """Nodes that `root` depends on, itself included."""
    found = [False] * len(graph.nodes)
    found[root] = True
    for node in reversed(graph.nodes[: root + 1]):
        if found[node.id]:
            for i in node.inputs:
                found[i] = True
    return found


def _is_side_output(graph: ModelGraph, i: int) -> bool:
    node = graph.nodes[i]
    while node.kind == "reshape" and node.inputs:
        node = graph.nodes[node.inputs[0]]
    return node.kind in ("recurrent", "softmax", "constant", "input")


def _loss_input(graph: ModelGraph, root: int, kind: str) -> tuple[int, str]:
    """Log-softmax before NLL and sigmoid before BCE belong to the loss: start in front of them."""
    node = graph.nodes[root]
    while node.kind == "reshape" and node.op in ("view", "squeeze", "flatten", "contiguous") and node.inputs:
        inner = graph.nodes[node.inputs[0]]
        if inner.kind not in ("activation", "softmax"):
            break
        node = inner
    fused = {("nll", "log_softmax"): "cross_entropy", ("cross_entropy", "log_softmax"): "cross_entropy"}
    if (kind, node.op) in fused and node.inputs:
        return node.inputs[0], fused[(kind, node.op)]
    if kind == "bce" and node.op == "sigmoid" and node.inputs:
        return node.inputs[0], "bce_with_logits"
    return root, kind
