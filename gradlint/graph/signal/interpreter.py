"""The walk over a graph: signals forward in order, gradients back from the loss, then the profile."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from gradlint.graph.model import SATURATING, WEIGHTED, ModelGraph
from gradlint.graph.profile import LayerProfile, Profile, RecurrenceProfile
from gradlint.graph.signal import attribution, band, loss
from gradlint.graph.signal.activation import saturated
from gradlint.graph.signal.elementwise import elementwise
from gradlint.graph.signal.merge import scales
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
    grown = describe(evaluate(graph, batch_size, grown=True))
    pairs = zip(literal.layers, grown.layers, strict=True)
    gated = tuple(replace(a, zero_gated=_never(literal, a.node) and b.gradient is not None) for a, b in pairs)
    return replace(literal, layers=gated, grown=grown)


def _never(found: Profile, node: int) -> bool:
    return found.gradient_at[node] == NEVER


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
        if any(o is None for o in operands[:needs]) or (needs and node.inputs and not known):
            walk.sites.append(None)
            continue
        site.inputs = [o.output if o is not None else Signal(NEVER) for o in operands]
        try:
            site.output = rule.forward(site)
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
    roots = _roots(graph)
    if not roots:
        walk.notes.append("no output found")
        return
    for nth, root in enumerate(roots):
        start = _start(walk, root, nth)
        if start is not None:
            arriving[start[0]].append(start[1])
    walk.root = walk.root if walk.root is not None else roots[0]
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


def _start(walk: Walk, root: int, nth: int) -> tuple[int, Gradient] | None:
    """Where the loss on one output enters, and its gradient; outputs after the first get a squared error."""
    site = walk.sites[root]
    if site is None:
        return None
    kind, note = loss.resolve(walk.graph.loss, site.output) if nth == 0 else ("mse", None)
    if note:
        walk.notes.append(note)
    start, kind = _loss_input(walk, root, kind)
    entry = walk.sites[start]
    if entry is None:
        return None
    try:
        gradient, first = loss.start(kind, walk.graph.loss.reduction, entry.output)
    except _NUMERIC as error:
        walk.notes.append(f"loss: {type(error).__name__}")
        return None
    if nth == 0:
        walk.root, walk.first_loss = start, first
    else:
        walk.notes.append(f"several outputs: squared error assumed on `{walk.graph.nodes[root].name}`")
    return start, gradient


def _roots(graph: ModelGraph) -> list[int]:
    """The outputs that carry a loss: the first one, and those of the others that reach layers of their own.

    The states and attention weights that a layer returns beside its output carry none.
    """
    outputs = [n for n in graph.nodes if n.kind == "output" and n.inputs]
    if not outputs:
        return [graph.nodes[-1].id] if graph.nodes else []
    roots: list[int] = []
    below = [False] * len(graph.nodes)
    for i in dict.fromkeys(outputs[-1].inputs):
        own = _depends(graph, i)
        fresh = any(graph.nodes[j].kind in WEIGHTED and own[j] and not below[j] for j in range(len(own)))
        if roots and (not fresh or _is_side_output(graph, i)):
            continue
        roots.append(i)
        below = [x or y for x, y in zip(below, own, strict=True)]
    return roots


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
            small = abs(law.mean) < GROWN_SCALE
            if small and (node.kind != "parameter" or law.mean or scales(graph, node)):
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
    doubt = max((site.doubt for site in walk.sites if site is not None), default=0.0)
    if coverage < LOW_COVERAGE or doubt >= band.FAR_OFF:
        confidence = "low"
    elif walk.missing or doubt:
        confidence = min(confidence, "medium", key=("low", "medium", "high").index)
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
    hidden = [n.id for n in nodes if n.kind in WEIGHTED and _flows(gradient_at[n.id]) and n.id != walk.root]
    direct = _carried_by_values(walk)
    hidden = [i for i in hidden if direct[i]] or hidden
    reference = gradient_at[hidden[-1]] if hidden else None
    rows = []
    for node in nodes:
        own = gradient_at[node.id]
        site = None if void[node.id] else walk.sites[node.id]
        relative = own - reference if own is not None and own != NEVER and reference is not None else None
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
            )
        )
    return tuple(rows)


def _carried_by_values(walk: Walk) -> list[bool]:
    """Nodes whose output reaches the loss as values, not only as the scores of an attention."""
    found = [False] * len(walk.graph.nodes)
    if walk.root is not None:
        found[walk.root] = True
    for node in reversed(walk.graph.nodes):
        if not found[node.id] or (node.kind == "softmax" and node.id != walk.root):
            continue
        for i in node.inputs[2:3] if node.kind == "attention" and len(node.inputs) > 2 else node.inputs:
            found[i] = True
    return found


def _flows(norm: float | None) -> bool:
    return norm is not None and norm != NEVER


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
