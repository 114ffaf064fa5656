"""Residual branches: the layers that end one, whose scale decides what a block adds to the stream."""

from __future__ import annotations

from gradlint.graph.model import WEIGHTED, ModelGraph
from gradlint.graph.topology import CARRIES, Skip, Topology, topology


def closing_layers(graph: ModelGraph) -> frozenset[int]:
    """Ids of the weighted layers that end a residual branch: nothing but reshapes and scales before the addition.

    A zero start here makes the block the identity and still trains (Fixup, SkipInit, zero-γ), because the layer's own
    gradient does not vanish with it. Behind an activation it would not, so such layers are not among them; nor are
    the projections of shortcuts.
    """
    paths = topology(graph)
    found: set[int] = set()
    for skip in paths.skips:
        if skip.kind != "cat":
            found |= _closing(paths, skip)
    return frozenset(found)


def _closing(paths: Topology, skip: Skip) -> set[int]:
    found: set[int] = set()
    stack, seen = list(paths.nodes[skip.merge].inputs), set()
    while stack:
        i = stack.pop()
        if i in seen or i not in skip.branch:
            continue
        seen.add(i)
        node = paths.nodes[i]
        if node.kind in WEIGHTED:
            if not skip.projection or len(paths.weighted_between(skip.source, i)) > 1:
                found.add(i)
        elif node.kind in CARRIES:
            stack += node.inputs
    return found


def unnormalized_branches(graph: ModelGraph, layers: frozenset[int]) -> bool:
    """Whether some of these layers stand in a residual branch without a normalisation inside it or behind the sum."""
    paths = topology(graph)
    around = {s for i in layers if (s := paths.innermost.get(i)) is not None and s.kind == "add"}
    return any(
        not s.branch & paths.norms and not any(c in paths.norms for c in graph.consumers[s.merge]) for s in around
    )
