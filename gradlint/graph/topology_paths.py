"""Paths through a model graph: stacks of saturating activations, runs of layers, what a layer feeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gradlint.graph.model import WEIGHTED, ModelGraph, Node
from gradlint.graph.topology import HIDDEN_SATURATING, Topology, topology

HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu"})
"""Activations with φ(ax) = aφ(x): a scale before them passes through."""

ENDS_STACK = frozenset({"unknown", "softmax", "recurrent", "loop", "attention", "embedding"})
"""Kinds after which a stack of activations starts anew: they rescale the signal, or nothing is known of it."""

RESTARTS = frozenset({"recurrent", "loop", "unknown"})
"""Kinds behind which a run of layers is counted anew."""

PASSED = frozenset({"reshape", "pool", "dropout", "scale", "add", "upsample", "cat"})
"""What may stand between a weighted layer and the activation that it feeds."""


@dataclass(frozen=True)
class Stack:
    """Saturating activations in one path with no normalisation and no skip between them.

    `activations` in order; `layers` the weighted layers on the path, from the first activation's layer to the
    last activation's, and `after` the first weighted layer behind it.
    """

    activations: tuple[Node, ...]
    layers: tuple[Node, ...]
    after: Node | None = None


@dataclass(frozen=True)
class Run:
    """Weighted layers in sequence with no path around them; `has_norm` where one stands between them."""

    layers: tuple[Node, ...]
    has_norm: bool


@dataclass(frozen=True)
class Fed:
    """What a weighted layer feeds: activations (through reshape, pool, dropout, skip), and whether its scale is
    divided out by a normalisation before or right after them. `output` where it reaches the model's output."""

    activations: tuple[Node, ...] = ()
    normalized: bool = False
    output: bool = False
    unknown: bool = False


@dataclass(frozen=True)
class _Link:
    """A node at the end of a chain, with what came before it; chains share their beginnings."""

    node: int
    before: _Link | None
    length: int

    @property
    def ids(self) -> tuple[int, ...]:
        """The chain's node ids in order."""
        found: list[int] = []
        link: _Link | None = self
        while link is not None:
            found.append(link.node)
            link = link.before
        return tuple(reversed(found))


def _extended(chain: _Link | None, node: int) -> _Link:
    return _Link(node, chain, 1 + (chain.length if chain else 0))


def _repeated_weights(graph: ModelGraph) -> frozenset[str]:
    """Weights that more than one weighted node uses."""
    uses = Counter(n.parameters.get("weight", "") for n in graph.nodes if n.kind in WEIGHTED)
    return frozenset(name for name, count in uses.items() if name and count > 1)


def _weight_in(graph: ModelGraph, weight: str, chain: _Link | None) -> bool:
    return chain is not None and any(graph.nodes[i].parameters.get("weight") == weight for i in chain.ids)


@dataclass(frozen=True)
class _Trail:
    """Longest chain up to a node: its members and the weighted layers on the way, since it began.

    `fresh` is True where a weighted layer came since the last member, `tied` where that layer was there before.
    """

    members: _Link | None = None
    layers: _Link | None = None
    first: int = -1
    fresh: bool = False
    tied: bool = False

    @property
    def rank(self) -> tuple[int, bool]:
        """By which the longest is chosen."""
        return (self.members.length if self.members else 0, self.fresh)


def _same_branch(paths: Topology, a: int, b: int) -> bool:
    return paths.innermost.get(a) is paths.innermost.get(b)


def stacks(graph: ModelGraph, minimum: int = 3) -> tuple[Stack, ...]:
    """Maximal runs of at least `minimum` hidden saturating activations, one for each first activation.

    Left out: gates, attention scorers and squeeze-excite nets, output activations, recurrent gates. A weight
    that returns in the chain is a recurrence written by hand, not another layer.
    """
    paths = topology(graph)
    repeated = _repeated_weights(graph)
    trails: list[_Trail] = []
    found: dict[int, _Trail] = {}
    for node in graph.nodes:
        trail = _best([trails[i] for i in node.inputs if i < node.id and _same_branch(paths, i, node.id)])
        if node.id in paths.norms or node.id in paths.merges or node.kind in ENDS_STACK or node.op == "detach":
            trail = _Trail()
        elif node.kind in WEIGHTED:
            weight = node.parameters.get("weight", "")
            tied = weight in repeated and _weight_in(graph, weight, trail.layers)
            trail = _Trail(trail.members, _extended(trail.layers, node.id), trail.first, fresh=True, tied=tied)
        elif trail.fresh and not trail.tied and _is_member(paths, node):
            members = _extended(trail.members, node.id)
            trail = _Trail(members, trail.layers, node.id if trail.members is None else trail.first)
            kept = found.get(trail.first)
            if kept is None or kept.rank < trail.rank:
                found[trail.first] = trail
        trails.append(trail)
    return tuple(_stack(graph, t) for _, t in sorted(found.items()) if t.rank[0] >= minimum)


def _best(trails: Sequence[_Trail]) -> _Trail:
    return max(trails, key=lambda t: t.rank, default=_Trail())


def _is_member(paths: Topology, node: Node) -> bool:
    return (
        node.kind == "activation"
        and node.op in HIDDEN_SATURATING
        and node.id not in paths.gates
        and node.id not in paths.side
        and paths.before_weights[node.id]
    )


def _stack(graph: ModelGraph, trail: _Trail) -> Stack:
    assert trail.members is not None
    assert trail.layers is not None
    members = tuple(graph.nodes[i] for i in trail.members.ids)
    layers = [i for i in trail.layers.ids if i < members[-1].id]
    first = max((i for i in layers if i < members[0].id), default=layers[0])
    after = _next_layer(graph, members[-1])
    return Stack(members, tuple(graph.nodes[i] for i in layers if i >= first), after)


def _next_layer(graph: ModelGraph, node: Node) -> Node | None:
    seen, frontier = {node.id}, [node.id]
    while frontier:
        i = frontier.pop(0)
        for c in graph.consumers[i]:
            if graph.nodes[c].kind in WEIGHTED:
                return graph.nodes[c]
            if c not in seen:
                seen.add(c)
                frontier.append(c)
    return None


# ---- runs of weighted layers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Count:
    """Fewest weighted layers to a node since the last skip came back, with the way they were counted."""

    layers: _Link | None = None
    norm: bool = False

    @property
    def length(self) -> int:
        """How many layers."""
        return self.layers.length if self.layers else 0


def longest_run(graph: ModelGraph) -> Run | None:
    """The longest sequence of weighted layers that no path leads around, or None if there is none.

    Where branches run side by side the shortest counts: gradient takes it. Layers inside a skip are not in a
    run, and a merge begins a new one. Where the graph was not read to its end the run is a lower bound.
    """
    best = max(_ends(graph), key=lambda c: c.length, default=None)
    if best is None or best.layers is None:
        return None
    return Run(tuple(graph.nodes[i] for i in best.layers.ids), best.norm)


def _ends(graph: ModelGraph) -> list[_Count]:
    """The counts where runs end: at the outputs, where a skip parts, and before what starts a run anew."""
    paths = topology(graph)
    counts = _counts(graph)
    ends = [counts[skip.source] for skip in paths.skips]
    for node in graph.nodes:
        if node.kind in RESTARTS or node.op == "detach":
            ends += [counts[i] for i in node.inputs if i < node.id]
        elif node.kind == "output":
            ends += [counts[i] for i in node.inputs]
        elif not graph.consumers[node.id] and node.id == graph.nodes[-1].id:
            ends.append(counts[node.id])
    return [c for c in ends if c is not None]


def _counts(graph: ModelGraph) -> list[_Count | None]:
    paths = topology(graph)
    repeated = _repeated_weights(graph)
    counts: list[_Count | None] = []
    for node in graph.nodes:
        if node.kind == "input":
            counts.append(_Count())
            continue
        if node.id in paths.innermost or node.id in paths.side:
            counts.append(None)
            continue
        if node.id in paths.merges or node.kind in RESTARTS or node.op == "detach":
            counts.append(_Count() if paths.from_input[node.id] else None)
            continue
        reached = [counts[i] for i in node.inputs if i < node.id and paths.from_input[i]]
        known = [c for c in reached if c is not None]
        if not known:
            counts.append(_Count() if reached else None)
            continue
        least = min(known, key=lambda c: c.length)
        if node.kind in WEIGHTED:
            weight = node.parameters.get("weight", "")
            tied = weight in repeated and _weight_in(graph, weight, least.layers)
            least = least if tied else _Count(_extended(least.layers, node.id), least.norm)
        elif node.id in paths.norms:
            least = _Count(least.layers, norm=True)
        counts.append(least)
    return counts


def longest_chain(graph: ModelGraph, members: Collection[int]) -> tuple[int, ...]:
    """The most of the given nodes on one path, with no normalisation, skip or unknown operation between them."""
    paths = topology(graph)
    inside = frozenset(members)
    chains: list[_Link | None] = []
    best: _Link | None = None
    for node in graph.nodes:
        before = [chains[i] for i in node.inputs if i < node.id and _same_branch(paths, i, node.id)]
        chain = max(before, key=lambda c: c.length if c else 0, default=None)
        if node.id in paths.norms or node.id in paths.merges or node.kind in ENDS_STACK or node.op == "detach":
            chain = None
        if node.id in inside:
            chain = _extended(chain, node.id)
            if best is None or chain.length > best.length:
                best = chain
        chains.append(chain)
    return best.ids if best else ()


# ---- what a layer feeds ----------------------------------------------------------------------------------


def feeds(graph: ModelGraph, layer: Node) -> Fed:
    """The activations that a weighted layer feeds, and whether its scale matters to them."""
    paths = topology(graph)
    activations: dict[int, Node] = {}
    normalized: list[bool] = []
    output = unknown = False
    seen, stack = {layer.id}, [layer.id]
    while stack:
        for c in graph.consumers[stack.pop()]:
            if c in seen:
                continue
            seen.add(c)
            user = graph.nodes[c]
            if c in paths.norms:
                normalized.append(True)
                activations.update((a.id, a) for a in feeds_after(graph, user))
            elif user.kind == "activation":
                activations[c] = user
                normalized.append(user.op in _LOOSELY_HOMOGENEOUS and _normalized_next(graph, paths, user))
            elif user.kind in PASSED:
                stack.append(c)
            elif user.kind == "output":
                output = True
            elif user.kind in ("unknown", "loop"):
                unknown = True
            elif user.kind == "reduce":
                stack.append(c)
    return Fed(
        tuple(activations[i] for i in sorted(activations)),
        normalized=bool(normalized) and all(normalized),
        output=output,
        unknown=unknown,
    )


_LOOSELY_HOMOGENEOUS = HOMOGENEOUS | {"gelu", "silu", "elu", "relu6", "hardswish", "mish"}


def feeds_after(graph: ModelGraph, node: Node) -> list[Node]:
    """The activations next behind a node."""
    found, stack, seen = [], [node.id], {node.id}
    while stack:
        for c in graph.consumers[stack.pop()]:
            if c in seen:
                continue
            seen.add(c)
            user = graph.nodes[c]
            if user.kind == "activation":
                found.append(user)
            elif user.kind in PASSED or user.kind == "normalization":
                stack.append(c)
    return found


def _normalized_next(graph: ModelGraph, paths: Topology, activation: Node) -> bool:
    """Whether every way on from an activation meets a normalisation before the next bend but one.

    One further weighted layer with a homogeneous activation may stand between (the first convolution of a
    DCGAN discriminator): the scale is still divided out behind it.
    """
    stack = [(activation.id, 0)]
    seen = {activation.id}
    met = False
    while stack:
        i, layers = stack.pop()
        for c in graph.consumers[i]:
            if c in paths.norms:
                met = True
                continue
            user = graph.nodes[c]
            if c in seen:
                continue
            seen.add(c)
            weighted = user.kind in ("linear", "conv", "conv_transpose")
            passes = user.kind in PASSED or (user.kind == "activation" and user.op in HOMOGENEOUS)
            if (weighted and layers == 0) or passes:
                stack.append((c, layers + weighted))
            else:
                return False
    return met


def in_normalized_branch(graph: ModelGraph, layer: Node) -> bool:
    """Whether a layer sits in a residual branch that is normalised: before it, inside it or at the merge.

    Sums within the branch (a modulation that adds up its own contexts) do not hide the residual around them.
    """
    paths = topology(graph)
    around = [s for s in paths.skips if layer.id in s.branch and s.kind == "add"]
    innermost = paths.innermost.get(layer.id)
    if innermost is not None and innermost not in around:
        around.append(innermost)
    return any(s.branch & paths.norms or any(c in paths.norms for c in graph.consumers[s.merge]) for s in around)


def only_final_state(graph: ModelGraph, recurrent: Node) -> bool:
    """Whether a model reads nothing of a recurrent layer but its state after the last time step.

    True for `out[:, -1]`, `out[-1]`, `h_n` and another recurrent layer's initial state; False where any other use
    of the output (mean over time, attention, a loss at every step) gives early steps a short way, or is not known.
    """
    users = graph.consumers[recurrent.id]
    return bool(users) and all(_takes_final(graph, graph.nodes[c], recurrent.id) for c in users)


def _takes_final(graph: ModelGraph, node: Node, source: int) -> bool:
    if node.kind == "recurrent":  # As its initial state; as its sequence it would take every step.
        return source in node.inputs[1:] and node.inputs[0] != source
    if node.kind != "reshape":
        return False
    from_recurrent = graph.nodes[source].kind == "recurrent"
    if node.op in ("select", "slice", "getitem"):
        whole, part = graph.nodes[source].shape, node.shape
        parts = [p.strip(" ()[]") for p in str(node.attributes.get("index", "")).split(",")]
        if "-1" in parts:
            return True
        if from_recurrent and parts[0].isdigit() and whole is not None and part is not None and len(part) == 3:
            # An element of the tuple: the sequence has the node's own shape, the states that of (layers, batch, size).
            if part != whole:
                return int(parts[0]) > 0
        elif from_recurrent and node.op == "select" and parts == [""] and part is None and whole is not None:
            return True  # Read from source: an index into the states, whose shape is not the sequence's.
    users = graph.consumers[node.id]
    passes = node.op in ("transpose", "permute", "squeeze", "contiguous", "view", "getitem")
    return passes and bool(users) and all(_takes_final(graph, graph.nodes[c], node.id) for c in users)
