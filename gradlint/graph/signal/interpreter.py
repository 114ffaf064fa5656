"""From a graph to its profile: literally, and with zero-initialised branches as grown."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from gradlint.graph.model import SATURATING, WEIGHTED, ModelGraph, Node
from gradlint.graph.profile import LayerProfile, Profile, RecurrenceProfile
from gradlint.graph.signal import attribution, band
from gradlint.graph.signal.activation import saturated
from gradlint.graph.signal.channelwise import uneven_of
from gradlint.graph.signal.elementwise import elementwise
from gradlint.graph.signal.moments import NEVER, log_sum
from gradlint.graph.signal.recurrent import recurrence
from gradlint.graph.signal.sources import scales
from gradlint.graph.signal.transfer import (
    GROWN_SCALE,
    Site,
)
from gradlint.graph.signal.walk import Walk, evaluate
from gradlint.graph.topology_scales import only_rescales

LOW_COVERAGE = 0.9
"""Below this share of operations with a rule a profile is marked low confidence."""
_DECADE = math.log(10.0)


FOLD = 5.0
"""A net whose gradients answer a change of the input's energy this many times over stands at a fold. Without one the
answer is 1 to 2.5 (231 nets); GELU under He init in 20 layers or more has 11 (Roberts et al. 2022, §5.3.4)."""
_NUDGE = math.log(1.25)


def profile(graph: ModelGraph, *, batch_size: int = 32, folds: bool = True) -> Profile:
    """Predict signal and gradient of every node; zero-initialised branches also as grown.

    `folds`: whether to look for a net near an unstable fixed point, which doubles the cost.
    """
    walk = evaluate(graph, batch_size, grown=False)
    literal = describe(walk)
    if folds and literal.confidence != "low":
        literal = _near_a_fold(walk, literal)
    if not _has_zero_gates(graph):
        return literal
    grown = describe(evaluate(graph, batch_size, grown=True))
    pairs = zip(literal.layers, grown.layers, strict=True)
    gated = tuple(replace(a, zero_gated=_never(literal, a.node) and b.gradient is not None) for a, b in pairs)
    return replace(literal, layers=gated, grown=grown)


def _near_a_fold(walk: Walk, literal: Profile) -> Profile:
    """The profile, of low confidence where a little more energy in the input leads to quite other gradients.

    Energies of real nets differ from the mean by about 1/√width per layer; at an unstable fixed point of the energy
    that difference grows from layer to layer, and two draws of the same net differ by decades.
    """
    here = _shared(walk)
    there = _shared(evaluate(walk.graph, walk.batch_size, grown=False, shift=_NUDGE))
    pairs = ((here[key], there[key]) for key in here)
    answers = [abs(b - a) / _NUDGE for a, b in pairs if a is not None and b is not None and math.isfinite(b - a)]
    answer = max(answers, default=0.0)
    if answer < FOLD:
        return literal
    told = f"near a fold: gradients answer a change of the input's scale {answer:.0f} times over"
    return replace(literal, confidence="low", notes=(*literal.notes, told))


def _never(found: Profile, node: int) -> bool:
    return found.gradient_at[node] == NEVER


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
    scales = [layer.name for layer in layers if layer.redundant]
    if scales:
        told = scales[0] if len(scales) == 1 else f"{scales[0]} and {len(scales) - 1} more"
        notes.append(f"{told}: the batch norm behind divides the weight out and lets a gradient through by its ε alone")
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
    log_g = gradient.log_g + uneven_of(site).output
    return 0.5 * (log_g + band.typical(gradient.v) + math.log(site.output.size)) / _DECADE


def _typical(walk: Walk, i: int) -> float:
    """A weight's gradient goes with the square of the signal it reads and of the gradient behind it."""
    site, gradient = walk.sites[i], walk.gradients[i]
    read = site.inputs[0].v if site is not None and site.inputs else 0.0
    return band.typical(read) + band.typical(gradient.v if gradient is not None else 0.0)


def _std(site: Site | None) -> float | None:
    if site is None or site.node.kind in ("constant", "output"):
        return None
    return 0.5 * (site.output.log_variance + band.typical(site.output.v)) / _DECADE


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
    nodes = _weighted(walk.graph)
    hidden = [n.id for n in nodes if n.kind in WEIGHTED and _flows(gradient_at[n.id]) and n.id != walk.root]
    direct = _carried_by_values(walk)
    hidden = [i for i in hidden if direct[i]] or hidden
    reference = gradient_at[hidden[-1]] if hidden else None
    coherent = _coherence(walk)
    shared = _shared(walk, void)
    uses = Counter(map(_weights_of, nodes))
    rows = []
    for node in nodes:
        own = gradient_at[node.id]
        site = None if void[node.id] else walk.sites[node.id]
        relative = own - reference if own is not None and own != NEVER and reference is not None else None
        absolute = shared.get(_weights_of(node))
        weight = None if absolute is None else 0.5 * absolute / _DECADE
        width = uncertainty[node.id]
        # In phase, k uses of one weight add √k more than independent ones do.
        phase = 0.5 * math.log10(uses[_weights_of(node)])
        own_width = math.hypot(width, band.decades(uneven_of(site).weight_spread)) if site else width
        rows.append(
            LayerProfile(
                node=node.id,
                name=node.name,
                kind=node.kind,
                activation_std=std_at[node.id],
                gradient=relative,
                weight_gradient=weight,
                band=None if relative is None else (relative - width, relative + width),
                weight_band=None if weight is None else (weight - own_width, weight + own_width + coherent + phase),
                saturated=_saturated(walk, node.id) if site else None,
                distinct=site.output.dc if site else None,
                scale_free=_scale_free(walk, node.id),
                redundant=only_rescales(walk.graph, node),
            )
        )
    return tuple(rows)


def _coherence(walk: Walk) -> float:
    """Decades by which weight gradients may be larger because the targets of a dense output are alike.

    Random targets are independent of each other, so that the mean over N of them shrinks by √N; the pixels of the
    pictures that a dense output is compared with all pull the same way.
    """
    site = walk.sites[walk.root] if walk.root is not None else None
    if site is None or site.output.positions <= 1.0:
        return 0.0
    return 0.5 * math.log10(site.output.positions * site.output.batch)


def _weights_of(node: Node) -> tuple[str, ...]:
    """The parameters of a node, biases left out; a node that owns no other stands for itself."""
    return tuple(sorted(name for role, name in node.parameters.items() if "bias" not in role)) or (f"#{node.id}",)


def _weighted(graph: ModelGraph) -> list[Node]:
    """The layers that a profile describes."""
    return [n for n in graph.nodes if n.parameters and (n.kind in WEIGHTED or n.kind == "embedding")]


def _shared(walk: Walk, void: list[bool] | None = None) -> dict[tuple[str, ...], float | None]:
    """ln of the squared norm of each weight's gradient: one that serves at several places collects from all of them,
    taken as independent, Σ‖∂W‖²; not known where one of them is not."""
    void = _void(walk) if void is None else void
    found: dict[tuple[str, ...], float | None] = {}
    for node in _weighted(walk.graph):
        key = _weights_of(node)
        own = None if void[node.id] else walk.weights.get(node.id)
        own = None if own is None else own + _typical(walk, node.id)
        before = found.get(key, NEVER)
        found[key] = None if own is None or before is None else log_sum(before, own)
    return found


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
