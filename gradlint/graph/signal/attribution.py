"""Which operations change the gradient most on its way from the loss to the first layer."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from gradlint.graph.model import WEIGHTED

if TYPE_CHECKING:
    from gradlint.graph.signal.walk import Walk


def attribute(walk: Walk, gradient_at: list[float | None]) -> tuple[tuple[int, float], ...]:
    """(node id, log10 of what the operation does to the gradient's norm), largest first, along the path that
    carries most of the gradient from the loss back to the first weighted layer.

    The changes add up to the whole: what a skip brings back is counted where it rejoins the path.
    """
    path = _main_path(walk, gradient_at)
    changes = []
    for node_id, into in pairwise(path):
        own, next_one = gradient_at[node_id], gradient_at[into]
        if own is None or next_one is None or not (math.isfinite(own) and math.isfinite(next_one)):
            continue
        if own != next_one:
            changes.append((node_id, next_one - own))
    return tuple(sorted(changes, key=lambda c: (-round(abs(c[1]), 6), c[0])))


def _main_path(walk: Walk, gradient_at: list[float | None]) -> list[int]:
    layers = [n.id for n in walk.graph.nodes if n.kind in WEIGHTED and gradient_at[n.id] is not None]
    if walk.root is None or not layers:
        return []
    first = layers[0]
    below = _reaches(walk, first)
    path = [walk.root]
    while path[-1] != first:
        node = walk.graph.nodes[path[-1]]
        steps = [i for i in node.inputs if i < node.id and below[i] and (node.id, i) in walk.edges]
        root = walk.sites[node.id].memory.get("root") if walk.sites[node.id] else None  # type: ignore[union-attr]
        if isinstance(root, int) and below[root]:
            steps = [root]
        if not steps:
            break
        path.append(max(steps, key=lambda i: (_energy(walk, path[-1], i), -i)))
    return path


def _energy(walk: Walk, user: int, i: int) -> float:
    site = walk.sites[i]
    edge = walk.edges[(user, i)]
    return edge.log_g + math.log(site.output.size) if site else -math.inf


def _reaches(walk: Walk, first: int) -> list[bool]:
    """Nodes that depend on the first layer."""
    found: list[bool] = []
    for node in walk.graph.nodes:
        found.append(node.id == first or any(i < node.id and found[i] for i in node.inputs))
    return found
