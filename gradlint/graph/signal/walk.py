"""The walk over a graph: signals forward in order, gradients back from the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gradlint.graph.model import ModelGraph
from gradlint.graph.signal.cloud import handed_on
from gradlint.graph.signal.entry import entry, roots
from gradlint.graph.signal.moments import (
    NEVER,
    ZERO,
    Gradient,
    Signal,
    rescaled,
    total,
)
from gradlint.graph.signal.rules import RULES
from gradlint.graph.signal.transfer import (
    Site,
    Unclaimed,
)

_NUMERIC = (ArithmeticError, ValueError, IndexError, TypeError, KeyError)


@dataclass
class Walk:
    """What one evaluation of a graph leaves behind, by node id.

    A site is None where the forward signal is not known. `gradients` are those at each node's output
    (None: not known). `missing` are the nodes without a rule, by id, with the reason.
    """

    graph: ModelGraph
    batch_size: int
    grown: bool
    shift: float = 0.0
    sites: list[Site | None] = field(default_factory=list)
    gradients: list[Gradient | None] = field(default_factory=list)
    weights: dict[int, float] = field(default_factory=dict)
    edges: dict[tuple[int, int], Gradient] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    root: int | None = None
    first_loss: float | None = None


def evaluate(graph: ModelGraph, batch_size: int, *, grown: bool, shift: float = 0.0) -> Walk:
    """Walk once forward and once backward; `shift` is added to ln of the inputs' energy."""
    walk = Walk(graph, batch_size, grown, shift)
    _forward(walk)
    _backward(walk)
    return walk


def _forward(walk: Walk) -> None:
    traced = _traced_batch(walk.graph)
    for node in walk.graph.nodes:
        operands = [walk.sites[i] if i < len(walk.sites) else None for i in node.inputs]
        known = [o for o in operands if o is not None]
        rule = RULES.get(node.kind)
        site = Site(
            node, walk.graph, [o.output for o in known], walk.batch_size, traced, walk.grown, operands, notes=walk.notes
        )
        needs = min(_needed(node.kind), len(node.inputs))
        if rule is None:
            walk.missing[node.id] = node.op
            walk.sites.append(None)
            continue
        if any(o is None for o in operands[:needs]) or (needs and node.inputs and not known):
            walk.sites.append(None)
            continue
        site.inputs = [o.output if o is not None else Signal(NEVER) for o in operands]
        try:
            site.output = rule.forward(site)
            if walk.shift and node.kind == "input":
                site.output = rescaled(site.output, walk.shift)
            if math.isnan(site.output.log_q) or site.output.log_q == math.inf:
                raise Unclaimed(f"{node.op}: the signal leaves every range")
            site.guessed = site.guessed or _only_guesses(site)
            walk.sites.append(site)
        except Unclaimed as reason:
            walk.missing[node.id] = str(reason)
            walk.sites.append(None)
        except _NUMERIC as error:
            walk.missing[node.id] = f"{node.op}: {type(error).__name__}"
            walk.sites.append(None)


def _only_guesses(site: Site) -> bool:
    """Whether nothing but tensors of unknown values went in."""
    known = [p for p in site.producers if p is not None]
    return bool(known) and not site.node.parameters and all(p.guessed for p in known)


def _needed(kind: str) -> int:
    """How many operands carry the signal; further ones (masks, hidden states, sizes) do not."""
    return {"add": 99, "mul": 99, "cat": 99, "matmul": 2, "attention": 3, "embedding": 0}.get(kind, 1)


def _backward(walk: Walk) -> None:
    graph, count = walk.graph, len(walk.graph.nodes)
    arriving: list[list[Gradient]] = [[] for _ in range(count)]
    unknown = [False] * count
    walk.gradients = [None] * count
    ends = roots(graph)
    if not ends:
        walk.notes.append("no output found")
        return
    for nth, root in enumerate(ends):
        try:
            start = entry(graph, walk.sites, root, nth)
        except _NUMERIC as error:
            walk.notes.append(f"loss: {type(error).__name__}")
            continue
        if start is None:
            continue
        if start.note:
            walk.notes.append(start.note)
        arriving[start.node].append(start.gradient)
        if nth == 0:
            walk.root, walk.first_loss = start.node, start.first_loss
    walk.root = walk.root if walk.root is not None else ends[0]
    for node in reversed(graph.nodes):
        site, rule = walk.sites[node.id], RULES.get(node.kind)
        if unknown[node.id] or site is None or rule is None:
            if arriving[node.id] or unknown[node.id]:
                for i in node.inputs:
                    unknown[i] = True
            continue
        gradient = total(arriving[node.id]) if arriving[node.id] else ZERO
        walk.gradients[node.id] = gradient
        if gradient.zero and not arriving[node.id]:
            continue
        try:
            if rule.weight is not None:
                walk.weights[node.id] = rule.weight(site, gradient)
            parts = rule.backward(site, gradient)
        except Unclaimed as reason:
            walk.missing[node.id] = str(reason)
            for i in node.inputs:
                unknown[i] = True
            continue
        except _NUMERIC as error:
            walk.missing[node.id] = f"{node.op}: {type(error).__name__} going back"
            for i in node.inputs:
                unknown[i] = True
            continue
        for i, part in zip(node.inputs, parts, strict=False):
            part = handed_on(site, walk.sites[i], part)  # noqa: PLW2901
            arriving[i].append(part)
            walk.edges[(node.id, i)] = part
        joint = site.memory.pop("joint_gradient", None)
        if joint is not None:
            arriving[site.memory["root"]].append(joint)
            walk.edges[(node.id, site.memory["root"])] = joint


def _traced_batch(graph: ModelGraph) -> int | None:
    if graph.batch_size:
        return graph.batch_size
    for node in graph.of_kind("input"):
        axis = node.batch_axis
        if node.shape and axis is not None and isinstance(node.shape[axis], int):
            return node.shape[axis]
    return None
