"""How signal and gradient can travel through a model graph: which layers have a path around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush

from gradlint.graph.model import SATURATING, WEIGHTED, ModelGraph, Node

CARRIES = frozenset({"reshape", "dropout", "scale", "normalization", "pool", "upsample", "add", "mul", "cat"})
"""Kinds that hand an operand on without a weight or a bend between: what a shortcut may be made of."""

POOLS = frozenset({"amax", "amin"})
"""Reductions over windows that a shortcut is pooled by, written out."""

HIDDEN_SATURATING = SATURATING - {"logsigmoid"}
SMOOTH_GATES = frozenset({"sigmoid", "hardsigmoid"})
BLOCKS_GRADIENT = frozenset({"detach"})


@dataclass(frozen=True)
class Skip:
    """A merge of a branch with a path around it.

    `kind` is "add" (residual), "gate" (highway: the shortcut passes a gate) or "cat" (DenseNet, U-Net).
    `source` is the node where the two part, `branch` the ids strictly between source and merge that lie on the
    branch or its projection. `projection` is True where the shortcut holds one weight of its own.
    """

    merge: int
    source: int
    kind: str
    branch: frozenset[int]
    projection: bool = False


class Topology:
    """Derived facts of one ModelGraph, each computed once.

    Reachability is kept as one integer bit set a node, so that graphs of some thousand nodes stay cheap.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.nodes = graph.nodes

    @cached_property
    def ancestors(self) -> list[int]:
        """For each node the bit set of the nodes that its gradient reaches, itself included."""
        found: list[int] = []
        for node in self.nodes:
            bits = 1 << node.id
            if node.op not in BLOCKS_GRADIENT:
                for i in node.inputs:
                    bits |= found[i] if i < node.id else 0
            found.append(bits)
        return found

    @cached_property
    def from_input(self) -> list[bool]:
        """Which nodes depend on the model's input."""
        found: list[bool] = []
        for node in self.nodes:
            found.append(node.kind == "input" or any(found[i] for i in node.inputs if i < node.id))
        return found

    @cached_property
    def signal(self) -> list[bool]:
        """Which nodes are activations: they depend on the input and a parameter, or are a float input."""
        found: list[bool] = []
        learns = WEIGHTED | {"embedding"}
        for node in self.nodes:
            if node.kind == "input":
                found.append(not _is_ids(node))
                continue
            parents = [i for i in node.inputs if i < node.id]
            if node.kind in learns:
                found.append(any(self.from_input[i] for i in parents))
                continue
            found.append(any(found[i] for i in parents))
        return found

    @cached_property
    def learned_tokens(self) -> list[bool]:
        """Which nodes are parameters that a stream starts from: class tokens and latents that attend to the signal."""
        found: list[bool] = []
        for node in self.nodes:
            moved = node.kind == "reshape" and any(found[i] for i in node.inputs if i < node.id)
            found.append((node.kind == "parameter" and node.op == "parameter") or moved)
        return found

    @cached_property
    def weighted_mask(self) -> int:
        """The weighted layers as a bit set."""
        return sum(1 << n.id for n in self.nodes if n.kind in WEIGHTED)

    def reaches(self, source: int, target: int) -> bool:
        """Whether gradient at `target` reaches `source`."""
        return bool(self.ancestors[target] >> source & 1)

    def weighted_between(self, source: int, target: int) -> list[int]:
        """Weighted layers on some path from `source` (excluded) to `target` (included)."""
        candidates = self.ancestors[target] & ~self.ancestors[source] & self.weighted_mask
        return [w for w in _bits(candidates) if self.reaches(source, w)]

    def between(self, source: int, target: int) -> frozenset[int]:
        """All nodes strictly between the two, on any path."""
        candidates = self.ancestors[target] & ~self.ancestors[source] & ~(1 << target)
        return frozenset(i for i in _bits(candidates) if self.reaches(source, i))

    def fewest_weights(self, source: int, target: int) -> int | None:
        """The smallest number of weighted layers on a path from `source` (excluded) to `target`, or None."""
        inside = sorted(self.between(source, target) | {target})
        count: dict[int, int] = {source: 0}
        for i in inside:
            node = self.nodes[i]
            reached = [count[j] for j in node.inputs if j in count]
            if reached:
                count[i] = min(reached) + (node.kind in WEIGHTED)
        return count.get(target)

    # ---- skips -----------------------------------------------------------------------------------------

    @cached_property
    def skips(self) -> tuple[Skip, ...]:
        """Every residual add, highway gate and concatenation with a path around weighted layers."""
        found = []
        for node in self.nodes:
            if node.kind == "add" or (node.kind == "cat" and node.op == "cat"):
                skip = self._skip_at(node)
                if skip is not None:
                    found.append(skip)
        return tuple(found)

    def _skip_at(self, merge: Node) -> Skip | None:
        operands = [i for i in merge.inputs if i < merge.id and (self.signal[i] or self.learned_tokens[i])]
        best: Skip | None = None
        for position, shortcut in enumerate(operands):
            for other_position, other in enumerate(operands):
                if position == other_position or not self._same_shape(merge, shortcut, other):
                    continue
                skip = self._shortcut(merge, shortcut, other)
                if skip is not None and (best is None or (best.projection and not skip.projection)):
                    best = skip
        return best

    def _same_shape(self, merge: Node, a: int, b: int) -> bool:
        """Residual operands have equal shapes; a broadcast bias or mask has not. Unknown shapes may be equal."""
        one, other = self.nodes[a].shape, self.nodes[b].shape
        if merge.kind == "cat" or one is None or other is None:
            return True
        if len(one) != len(other):
            return False
        return all(x is None or y is None or x == y for x, y in zip(one, other, strict=True))

    def _shortcut(self, merge: Node, shortcut: int, other: int) -> Skip | None:
        """Walk back from `shortcut`, nearest first, until the walk meets an ancestor of `other`."""
        heap: list[tuple[int, int, bool]] = [(-shortcut, 0, False)]
        seen: set[tuple[int, int]] = set()
        while heap:
            negative, weights, gated = heappop(heap)
            i = -negative
            if (i, weights) in seen:
                continue
            seen.add((i, weights))
            node = self.nodes[i]
            if i != other and self.reaches(i, other):
                skip = self._skip(merge, i, other, weights, gated)
                if skip is not None or not gated:
                    return skip
                continue  # The gate itself is common to both; the carried signal lies further back.
            if i == other:
                return None
            if node.op in BLOCKS_GRADIENT:
                continue
            inputs = [j for j in node.inputs if j < i and self.signal[j]]
            if node.kind in CARRIES or node.op in POOLS:
                for j in inputs:
                    heappush(heap, (-j, weights, gated or (node.kind == "mul" and len(inputs) > 1)))
            elif node.kind in ("linear", "conv", "conv_transpose") and weights == 0 and merge.kind == "add":
                for j in inputs:
                    heappush(heap, (-j, 1, gated))
        return None

    def _skip(self, merge: Node, source: int, other: int, weights: int, gated: bool) -> Skip | None:
        if not self.signal[source] and not self.learned_tokens[source]:
            return None
        around = self.weighted_between(source, other)
        if not around:
            return None
        if weights:
            fewest = self.fewest_weights(source, other)
            if fewest is None or fewest <= weights:
                return None
        kind = "cat" if merge.kind == "cat" else "gate" if gated else "add"
        return Skip(merge.id, source, kind, self.between(source, merge.id), projection=weights > 0)

    @cached_property
    def innermost(self) -> dict[int, Skip]:
        """The smallest skip that leads around each node that has one."""
        table: dict[int, Skip] = {}
        for skip in sorted(self.skips, key=lambda s: (-len(s.branch), s.merge)):
            table.update(dict.fromkeys(skip.branch, skip))
        return table

    @cached_property
    def merges(self) -> frozenset[int]:
        """Nodes where a skip comes back."""
        return frozenset(s.merge for s in self.skips)

    # ---- what is beside the main signal ------------------------------------------------------------------

    @cached_property
    def gates(self) -> frozenset[int]:
        """Activations that are multiplied into another branch: gates, squeeze-excite, gated units, or by zero."""
        return frozenset(
            node.id
            for node in self.nodes
            if node.kind == "activation"
            and node.op in HIDDEN_SATURATING
            and any(self._multiplies(merge, via) for merge, via in self._products(node.id))
        )

    def _products(self, start: int) -> Iterator[tuple[Node, int]]:
        """Products that a node's output reaches unbent, with the operand by which it arrives."""
        stack, seen = [start], {start}
        while stack:
            i = stack.pop()
            for c in self.graph.consumers[i]:
                user = self.nodes[c]
                if user.kind == "mul" or user.op in ("bmm", "matmul", "einsum"):
                    yield user, i
                elif user.kind in ("reshape", "scale", "dropout", "upsample") and c not in seen:
                    seen.add(c)
                    stack.append(c)

    def _multiplies(self, product: Node, via: int) -> bool:
        if product.kind != "mul" or product.op == "div":
            return False
        others = [i for i in product.inputs if i != via]
        return any((self.signal[i] and self._learned(i)) or self._is_zero(i) for i in others)

    def _is_zero(self, i: int) -> bool:
        """Whether a node is zero everywhere, as the state before the first step is: no gradient crosses a product."""
        node = self.nodes[i]
        while node.kind in ("reshape", "scale") and len(node.inputs) == 1:
            node = self.nodes[node.inputs[0]]
        return node.kind == "constant" and node.attributes.get("value") == 0.0

    def _learned(self, i: int) -> bool:
        return bool(self.ancestors[i] & self.weighted_mask)

    @cached_property
    def side(self) -> frozenset[int]:
        """Nodes whose whole influence goes through a gate or attention weights: scorers, squeeze-excite nets."""
        gate_edges = {
            (via, product.id)
            for node in self.nodes
            if node.kind == "softmax" or (node.kind == "activation" and node.op in SMOOTH_GATES)
            for product, via in self._products(node.id)
            if node.kind == "softmax" or self._multiplies(product, via)
        }
        for node in self.nodes:
            if node.op == "scaled_dot_product_attention" and len(node.inputs) >= 3:
                # Query and key act through the weights alone, unless one tensor is the value too.
                gate_edges |= {(i, node.id) for i in node.inputs[:2] if i != node.inputs[2]}
        inside: set[int] = set()
        for node in reversed(self.nodes):
            users = self.graph.consumers[node.id]
            if users and all((node.id, c) in gate_edges or c in inside for c in users):
                inside.add(node.id)
        return frozenset(inside)

    @cached_property
    def before_weights(self) -> list[bool]:
        """Which nodes still have a weighted layer after them."""
        found = [False] * len(self.nodes)
        for node in reversed(self.nodes):
            found[node.id] = any(found[c] or self.nodes[c].kind in WEIGHTED for c in self.graph.consumers[node.id])
        return found

    # ---- normalisation -----------------------------------------------------------------------------------

    @cached_property
    def norms(self) -> frozenset[int]:
        """Normalisations, those written by hand (divide by a std of the same signal) included."""
        return frozenset(
            node.id
            for node in self.nodes
            if (node.kind == "normalization" and node.op != "local_response_norm") or self._divides_by_spread(node)
        )

    def _divides_by_spread(self, node: Node) -> bool:
        if node.kind != "mul" or len(node.inputs) < 2:
            return False
        for divisor in node.inputs[1:] if node.op == "div" else node.inputs:
            spread = self._spread(divisor, inverted=node.op == "div")
            if spread is not None and any(
                self.ancestors[i] & self.ancestors[spread] & ~1 for i in node.inputs if i != divisor
            ):
                return True
        return False

    def _spread(self, start: int, inverted: bool) -> int | None:
        """The std, variance or norm that a divisor is made of, or None."""
        i, squared = start, False
        for _ in range(12):
            node = self.nodes[i]
            if node.kind == "reduce":
                named = node.op in ("std", "var", "norm")
                return i if inverted and (named or (node.op == "mean" and self._squares(node))) else None
            inverted = inverted or node.op in ("reciprocal", "rsqrt", "pow")
            squared = squared or node.op in ("sqrt", "rsqrt")
            if node.kind not in ("activation", "scale", "reshape", "add") or not node.inputs:
                return None
            i = max(node.inputs, key=lambda j: self.from_input[j])
        return None

    def _squares(self, node: Node) -> bool:
        return any(self.nodes[i].op in ("square", "pow") or self.nodes[i].kind == "mul" for i in node.inputs)


def topology(graph: ModelGraph) -> Topology:
    """The graph's topology, computed once for each graph object."""
    found = graph.__dict__.get("_topology")
    if found is None:
        found = graph.__dict__["_topology"] = Topology(graph)
    assert isinstance(found, Topology)
    return found


def _is_ids(node: Node) -> bool:
    dtype = str(node.attributes.get("dtype") or "")
    return "int" in dtype or "bool" in dtype or "long" in dtype or node.attributes.get("law") == "ids"


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
