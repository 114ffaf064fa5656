"""The walk over a graph: signals forward in order, gradients back from the loss, then the profile."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from gradlint.graph.model import SATURATING, WEIGHTED, ModelGraph
from gradlint.graph.profile import LayerProfile, Profile, RecurrenceProfile
from gradlint.graph.signal import attribution, band, loss
from gradlint.graph.signal.activation import saturated
from gradlint.graph.signal.elementwise import elementwise
from gradlint.graph.signal.moments import NEVER, ZERO, Gradient, Signal, total
from gradlint.graph.signal.recurrent import recurrence
from gradlint.graph.signal.rules import RULES
from gradlint.graph.signal.transfer import GROWN_SCALE, Site, Unclaimed

LOW_COVERAGE = 0.9
"""Below this share of operations with a rule a profile is marked low confidence."""
_DECADE = math.log(10.0)
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
    sites: list[Site | None] = field(default_factory=list)
    gradients: list[Gradient | None] = field(default_factory=list)
    weights: dict[int, float] = field(default_factory=dict)
    edges: dict[tuple[int, int], Gradient] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    root: int | None = None
    first_loss: float | None = None


def profile(graph: ModelGraph, *, batch_size: int = 32) -> Profile:
    """Predict signal and gradient of every node; zero-initialised branches also as grown."""
    literal = describe(evaluate(graph, batch_size, grown=False))
    if not _has_zero_gates(graph):
        return literal
    return replace(literal, grown=describe(evaluate(graph, batch_size, grown=True)))


def evaluate(graph: ModelGraph, batch_size: int, *, grown: bool) -> Walk:
    """Walk once forward and once backward."""
    walk = Walk(graph, batch_size, grown)
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
        if any(o is None for o in operands[:needs]) or (needs and not known):
            walk.sites.append(None)
            continue
        site.inputs = [o.output if o is not None else Signal(NEVER) for o in operands]
        try:
            site.output = rule.forward(site)
            if math.isnan(site.output.log_q) or site.output.log_q == math.inf:
                raise Unclaimed(f"{node.op}: the signal leaves every range")
            walk.sites.append(site)
        except Unclaimed as reason:
            walk.missing[node.id] = str(reason)
            walk.sites.append(None)
        except _NUMERIC as error:
            walk.missing[node.id] = f"{node.op}: {type(error).__name__}"
            walk.sites.append(None)


def _needed(kind: str) -> int:
    """How many operands carry the signal; further ones (masks, hidden states, sizes) do not."""
    return {"add": 99, "mul": 99, "cat": 99, "matmul": 2, "attention": 3}.get(kind, 1)


def _backward(walk: Walk) -> None:
    graph, count = walk.graph, len(walk.graph.nodes)
    arriving: list[list[Gradient]] = [[] for _ in range(count)]
    unknown = [False] * count
    walk.gradients = [None] * count
    root = walk.root = _root(graph)
    if root is None:
        walk.notes.append("no output found")
        return
    site = walk.sites[root]
    if site is None:
        return
    kind, note = loss.resolve(graph.loss, site.output)
    if note:
        walk.notes.append(note)
    start, kind = _loss_input(walk, root, kind)
    entry = walk.sites[start]
    if entry is None:
        return
    try:
        gradient, walk.first_loss = loss.start(kind, graph.loss.reduction, entry.output)
    except _NUMERIC as error:
        walk.notes.append(f"loss: {type(error).__name__}")
        return
    arriving[start].append(gradient)
    walk.root = start
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
            arriving[i].append(part)
            walk.edges[(node.id, i)] = part
        joint = site.memory.pop("joint_gradient", None)
        if joint is not None:
            arriving[site.memory["root"]].append(joint)
            walk.edges[(node.id, site.memory["root"])] = joint


def _root(graph: ModelGraph) -> int | None:
    outputs = [n for n in graph.nodes if n.kind == "output" and n.inputs]
    if outputs:
        return outputs[-1].inputs[0]
    return graph.nodes[-1].id if graph.nodes else None


def _loss_input(walk: Walk, root: int, kind: str) -> tuple[int, str]:
    """Log-softmax before NLL and sigmoid before BCE belong to the loss: start in front of them."""
    node = walk.graph.nodes[root]
    while node.kind == "reshape" and node.op in ("view", "squeeze", "flatten", "contiguous") and node.inputs:
        inner = walk.graph.nodes[node.inputs[0]]
        if inner.kind not in ("activation", "softmax"):
            break
        node = inner
    fused = {("nll", "log_softmax"): "cross_entropy", ("cross_entropy", "log_softmax"): "cross_entropy"}
    if (kind, node.op) in fused and node.inputs:
        return node.inputs[0], fused[(kind, node.op)]
    if kind == "bce" and node.op == "sigmoid" and node.inputs:
        return node.inputs[0], "bce_with_logits"
    return root, kind


def _traced_batch(graph: ModelGraph) -> int | None:
    if graph.batch_size:
        return graph.batch_size
    for node in graph.of_kind("input"):
        axis = node.batch_axis
        if node.shape and axis is not None and isinstance(node.shape[axis], int):
            return node.shape[axis]
    return None


def _has_zero_gates(graph: ModelGraph) -> bool:
    for node in graph.nodes:
        if node.kind not in WEIGHTED and node.kind not in ("normalization", "parameter"):
            continue
        for role, name in node.parameters.items():
            owner = graph.parameter.get(name)
            law = owner.law if owner else None
            if law is None or "bias" in role or law.std is None or law.std or law.mean is None:
                continue
            if (abs(law.mean) < GROWN_SCALE) if node.kind != "parameter" else (0 < abs(law.mean) < GROWN_SCALE):
                return True
    return False


def describe(walk: Walk) -> Profile:
    """The profile of one evaluation."""
    graph = walk.graph
    void = _void(walk)
    gradient_at = [None if void[i] else _norm(walk, i) for i in range(len(graph.nodes))]
    std_at = [_std(walk.sites[i]) for i in range(len(graph.nodes))]
    uncertainty = band.half_widths(walk)
    layers = _layers(walk, gradient_at, std_at, uncertainty, void)
    carrying = [n for n in graph.nodes if n.kind not in ("input", "parameter", "constant", "output")]
    coverage = 1.0 - len(walk.missing) / max(len(carrying), 1)
    confidence = graph.confidence
    if coverage < LOW_COVERAGE or any(walk.missing):
        confidence = (
            "low" if coverage < LOW_COVERAGE else min(confidence, "medium", key=("low", "medium", "high").index)
        )
    notes = list(dict.fromkeys(walk.notes))
    notes += [f"no rule: {graph.nodes[i].name} ({why})" for i, why in sorted(walk.missing.items())]
    return Profile(
        layers=layers,
        gradient_at=tuple(gradient_at),
        std_at=tuple(std_at),
        uncertainty_at=tuple(uncertainty),
        void=tuple(void),
        coverage=max(coverage, 0.0),
        unknown_ops=tuple(sorted({graph.nodes[i].op for i in walk.missing})),
        confidence=confidence,
        notes=tuple(notes),
        attribution=attribution.attribute(walk, gradient_at),
        first_loss=walk.first_loss,
        recurrence=_recurrence(walk),
    )


def _norm(walk: Walk, i: int) -> float | None:
    site, gradient = walk.sites[i], walk.gradients[i]
    if site is None or gradient is None:
        return None
    if gradient.zero:
        return NEVER
    return 0.5 * (gradient.log_g + math.log(site.output.size)) / _DECADE


def _std(site: Site | None) -> float | None:
    if site is None or site.node.kind in ("constant", "output"):
        return None
    return 0.5 * site.output.log_variance / _DECADE


def _void(walk: Walk) -> list[bool]:
    """Nodes with an operation without a rule between them and the loss, or between them and the input."""
    nodes = walk.graph.nodes
    void = [site is None for site in walk.sites]
    reached = list(void)
    for node in reversed(nodes):
        if reached[node.id] or node.id in walk.missing:
            for i in node.inputs:
                reached[i] = True
    live = _alive(walk)
    return [(v or (r and live[i])) for i, (v, r) in enumerate(zip(void, reached, strict=True))]


def _alive(walk: Walk) -> list[bool]:
    """Nodes on a path to the loss."""
    alive = [False] * len(walk.graph.nodes)
    if walk.root is not None:
        alive[walk.root] = True
    for node in reversed(walk.graph.nodes):
        if alive[node.id]:
            for i in node.inputs:
                alive[i] = True
    return alive


def _layers(
    walk: Walk,
    gradient_at: list[float | None],
    std_at: list[float | None],
    uncertainty: list[float],
    void: list[bool],
) -> tuple[LayerProfile, ...]:
    nodes = [n for n in walk.graph.nodes if n.parameters and (n.kind in WEIGHTED or n.kind == "embedding")]
    hidden = [n.id for n in nodes if n.kind in WEIGHTED and gradient_at[n.id] is not None and n.id != walk.root]
    reference = gradient_at[hidden[-1]] if hidden else None
    rows = []
    for node in nodes:
        own = gradient_at[node.id]
        site = None if void[node.id] else walk.sites[node.id]
        relative = own - reference if own is not None and reference not in (None, NEVER) else None
        absolute = walk.weights.get(node.id) if not void[node.id] else None
        weight = None if absolute is None else 0.5 * absolute / _DECADE
        width = uncertainty[node.id]
        rows.append(
            LayerProfile(
                node=node.id,
                name=node.name,
                kind=node.kind,
                activation_std=std_at[node.id],
                gradient=relative,
                weight_gradient=weight,
                band=None if relative is None else (relative - width, relative + width),
                weight_band=None if weight is None else (weight - width, weight + width),
                saturated=_saturated(walk, node.id) if site else None,
                distinct=site.output.dc if site else None,
                scale_free=_scale_free(walk, node.id),
                zero_gated=own == NEVER and not walk.grown,
            )
        )
    return tuple(rows)


def _saturated(walk: Walk, i: int) -> float | None:
    site = walk.sites[i]
    for user in walk.graph.consumers[i]:
        node = walk.graph.nodes[user]
        if node.kind == "activation" and node.op in SATURATING and site is not None:
            f = elementwise(node.op, node.attributes)
            return saturated(site.output, f) if f else None
    return None


def _scale_free(walk: Walk, i: int) -> bool:
    """The weight feeds a normalisation, so that its scale, and its absolute gradient, mean nothing."""
    users = walk.graph.consumers[i]
    for _ in range(4):
        if len(users) != 1:
            return False
        node = walk.graph.nodes[users[0]]
        if node.kind == "normalization":
            return node.op != "local_response_norm" and node.attributes.get("training") is not False
        if node.kind not in ("reshape", "dropout"):
            return False
        users = walk.graph.consumers[node.id]
    return False


def _recurrence(walk: Walk) -> dict[int, RecurrenceProfile]:
    sites = [site for site in walk.sites if site is not None and site.node.kind == "recurrent"]
    found = {site.node.id: recurrence(site) for site in sites}
    return {i: profile for i, profile in found.items() if profile is not None}
