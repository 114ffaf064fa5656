"""Static what-ifs: the graph after one change, for the same algebra to run on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradlint.graph.model import WEIGHTED, InitLaw, ModelGraph, Node, Parameter


@dataclass(frozen=True)
class Reinit:
    """Draw the weights of `nodes` (names; all weighted layers when empty) anew: "kaiming", "xavier" or
    "orthogonal", with the gain of the activation that follows."""

    law: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SwapActivation:
    """Replace the activations named in `nodes` (all when empty) by `to`."""

    to: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class InsertNorm:
    """Put a "layer" or "batch" norm behind each of `nodes` (all hidden weighted layers when empty)."""

    kind: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AddSkips:
    """Add x + branch_scale·F(x) around every `every` consecutive layers of `nodes` (all weighted when empty), or
    around up to twice as many, until the shapes on both sides agree."""

    every: int = 2
    branch_scale: float = 1.0
    nodes: tuple[str, ...] = ()


Change = Reinit | SwapActivation | InsertNorm | AddSkips

_GAIN_SQUARED = {"relu": 2.0, "leaky_relu": 2.0, "tanh": 25.0 / 9.0, "gelu": 1.534**2, "silu": 1.677**2, "sigmoid": 1.0}
"""Squared gains that keep the variance (He et al. 2015; tanh as `torch.nn.init.calculate_gain`)."""


def apply(graph: ModelGraph, change: Change) -> ModelGraph:
    """The graph after `change`. Raises ValueError for a law, activation or norm that is not known."""
    match change:
        case Reinit(law, nodes):
            return _reinit(graph, law, nodes)
        case SwapActivation(to, nodes):
            return _swap(graph, to, nodes)
        case InsertNorm(kind, nodes):
            return _insert_norm(graph, kind, nodes)
        case AddSkips():
            return _add_skips(graph, change)


def _chosen(graph: ModelGraph, names: Sequence[str], kinds: frozenset[str]) -> list[Node]:
    wanted = frozenset(names)
    return [n for n in graph.nodes if n.kind in kinds and (not wanted or n.name in wanted)]


def _follows(graph: ModelGraph, node: Node) -> str | None:
    """The activation that consumes a layer, past norms and reshapes."""
    users = graph.consumers[node.id]
    for _ in range(4):
        if len(users) != 1:
            return None
        user = graph.nodes[users[0]]
        if user.kind == "activation":
            return user.op
        if user.kind not in ("normalization", "reshape", "dropout", "pool"):
            return None
        users = graph.consumers[user.id]
    return None


def _reinit(graph: ModelGraph, law: str, names: Sequence[str]) -> ModelGraph:
    if law not in ("kaiming", "xavier", "orthogonal"):
        raise ValueError(f"unknown init law {law!r}: kaiming, xavier or orthogonal")
    new: dict[str, InitLaw] = {}
    for node in _chosen(graph, names, WEIGHTED):
        gain = _GAIN_SQUARED.get(_follows(graph, node) or "", 1.0)
        for role, name in node.parameters.items():
            owner = graph.parameter.get(name)
            if owner is None:
                continue
            if "bias" in role:
                new[owner.name] = InitLaw("constant", 0.0, 0.0, origin="explicit")
            elif role == "weight" or "weight" in role or role.endswith("proj"):
                new[owner.name] = _law(law, owner, gain)
    parameters = tuple(replace(p, law=new[p.name]) if p.name in new else p for p in graph.parameters)
    return replace(graph, parameters=parameters)


def _law(law: str, owner: Parameter, gain: float) -> InitLaw:
    old = owner.law
    fan_in, fan_out = (old.fan_in, old.fan_out) if old else (None, None)
    if fan_in is None and len(owner.shape) > 1 and all(isinstance(n, int) for n in owner.shape):
        sizes = [n for n in owner.shape if n is not None]
        fan_in, fan_out = math.prod(sizes[1:]), sizes[0] * math.prod(sizes[2:])
    factor = gain
    if fan_in and fan_out and law == "xavier":
        # Glorot & Bengio 2010, eq. 12, times the gain where the activation has one of its own (tanh).
        factor = gain * 2.0 * fan_in / (fan_in + fan_out)
    elif fan_in and fan_out and law == "orthogonal":
        factor = gain * fan_in / max(fan_in, fan_out)
    std = math.sqrt(factor / fan_in) if fan_in else None
    name = {"kaiming": "normal", "xavier": "normal", "orthogonal": "orthogonal"}[law]
    return InitLaw(name, 0.0, std, fan_in, fan_out, factor, origin="explicit", scheme=f"{law}_what_if")


def _swap(graph: ModelGraph, to: str, names: Sequence[str]) -> ModelGraph:
    from gradlint.graph.signal.elementwise import elementwise

    if elementwise(to, {}) is None:
        raise ValueError(f"no rule for the activation {to!r}")
    chosen = {n.id for n in _chosen(graph, names, frozenset({"activation"}))}
    nodes = tuple(replace(n, op=to, attributes={}) if n.id in chosen else n for n in graph.nodes)
    return replace(graph, nodes=nodes)


def _insert_norm(graph: ModelGraph, kind: str, names: Sequence[str]) -> ModelGraph:
    if kind not in ("layer", "batch"):
        raise ValueError(f"unknown norm {kind!r}: layer or batch")
    last = _last_layer(graph)
    draft = _Draft(graph)
    for node in graph.nodes:
        draft.keep(node)
        hidden = node.kind in WEIGHTED and (node.id != last or bool(names))
        if not hidden or (names and node.name not in names):
            continue
        if any(graph.nodes[i].kind == "normalization" for i in graph.consumers[node.id]):
            continue
        spatial = node.shape is not None and len(node.shape) > 3
        op = "batch_norm" if kind == "batch" else "group_norm" if spatial else "layer_norm"
        attributes: dict[str, object] = {"num_groups": 1} if op == "group_norm" else {"training": True}
        draft.insert(node, "normalization", op, attributes)
    return draft.finish()


def _add_skips(graph: ModelGraph, change: AddSkips) -> ModelGraph:
    chosen = _chosen(graph, change.nodes, WEIGHTED)
    if not change.nodes and chosen:
        chosen = [n for n in chosen if n.id != _last_layer(graph)]
    draft = _Draft(graph)
    ends = {n.id for n in chosen}
    start: Node | None = None
    count = 0
    for node in graph.nodes:
        draft.keep(node)
        if node.id in ends:
            if start is None and node.inputs:
                start = graph.nodes[node.inputs[0]]
            count += 1
        # A branch ends at the last operation before the next chosen layer.
        users = graph.consumers[node.id]
        closes = count >= max(change.every, 1) and len(users) == 1 and (users[0] in ends or _is_end(graph, users[0]))
        if not closes or start is None:
            continue
        if start.shape != node.shape or start.id not in draft.moved:
            # A bottleneck comes back to its width after three layers; a new stage never does.
            if count > 2 * change.every:
                start, count = None, 0
            continue
        branch = draft.moved[node.id]
        if change.branch_scale != 1.0:
            branch = draft.insert(node, "scale", "scale", {"factor": change.branch_scale})
        draft.join(node, draft.moved[start.id], branch)
        start, count = None, 0
    return draft.finish()


def _is_end(graph: ModelGraph, i: int) -> bool:
    node = graph.nodes[i]
    return node.kind in ("output", "pool", "reshape") or (node.kind in WEIGHTED and i == _last_layer(graph))


def _last_layer(graph: ModelGraph) -> int | None:
    layers = [n.id for n in graph.nodes if n.kind in WEIGHTED]
    return layers[-1] if layers else None


class _Draft:
    """A graph under rewriting: `moved` maps an old id to the new id that stands for its output."""

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.moved: dict[int, int] = {}

    def keep(self, node: Node) -> None:
        """Copy a node, its operands renumbered."""
        inputs = tuple(self.moved.get(i, i) for i in node.inputs)
        self.moved[node.id] = len(self.nodes)
        self.nodes.append(replace(node, id=len(self.nodes), inputs=inputs))

    def insert(self, node: Node, kind: str, op: str, attributes: dict[str, object]) -> int:
        """Put an operation behind `node`; later readers of `node` read it instead."""
        new = Node(
            len(self.nodes), kind, op, f"{node.name}+{op}", (self.moved[node.id],), node.shape, attributes,
            feature_axis=node.feature_axis, batch_axis=node.batch_axis, location=node.location,
        )  # fmt: skip
        self.nodes.append(new)
        self.moved[node.id] = new.id
        return new.id

    def join(self, node: Node, skip: int, branch: int) -> None:
        """Put `skip + branch` behind `node`."""
        new = Node(
            len(self.nodes), "add", "add", f"{node.name}+skip", (skip, branch), node.shape,
            feature_axis=node.feature_axis, batch_axis=node.batch_axis, location=node.location,
        )  # fmt: skip
        self.nodes.append(new)
        self.moved[node.id] = new.id

    def finish(self) -> ModelGraph:
        """The rewritten graph."""
        return replace(self.graph, nodes=tuple(self.nodes))
