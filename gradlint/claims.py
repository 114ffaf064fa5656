"""What the rules about a gradient path have in common: when to be silent, how severe, where, with what evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradlint.finding import Evidence, Related, Severity
from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.profile import Profile
from gradlint.graph.topology import topology
from gradlint.graph.topology_paths import feeds
from gradlint.location import Location
from gradlint.notation import from_log10
from gradlint.probe.experiment import Experiment
from gradlint.rule import Context
from gradlint.severity import PathHealth, consequence, layer_flags, power
from gradlint.verdicts import NOTICEABLE, GainClaim, PathSubject


def from_checkpoint(graph: ModelGraph, layers: Iterable[Node]) -> bool:
    """Whether any of the layers holds loaded values: then init laws say nothing of it."""
    if graph.pretrained:
        return True
    laws = (graph.weight_law(layer) for layer in layers)
    return any(law is not None and "pretrained" in (law.origin, law.distribution) for law in laws)


def hidden(graph: ModelGraph, layers: Sequence[Node]) -> tuple[Node, ...]:
    """The layers that have another weighted layer behind them."""
    later = topology(graph).before_weights
    return tuple(layer for layer in layers if later[layer.id])


def claimed(health: PathHealth, graph: ModelGraph, profile: Profile) -> Severity:
    """The severity of a structural fact, raised by the prediction where it is sure of the effect.

    A profile or a graph of low confidence claims nothing beyond the fact.
    """
    if "low" in (profile.confidence, graph.confidence) or health.severity is None:
        return Severity.INFO
    return health.severity


def confidence(graph: ModelGraph, profile: Profile) -> str:
    """The lower of the graph's and the profile's confidence."""
    order = ("high", "medium", "low")
    return max(graph.confidence, profile.confidence, key=lambda c: order.index(c) if c in order else 0)


def effect(health: PathHealth, layers: Sequence[Node]) -> float | None:
    """log10 of the predicted factor on the gradient per layer, or None where it is not known or next to nothing."""
    if health.ratio is None or len(layers) < 2:
        return None
    factor = health.ratio / (len(layers) - 1)
    return factor if abs(factor) >= NOTICEABLE else None


def predicted(health: PathHealth, severity: Severity, layers: Sequence[Node]) -> str:
    """The predicted effect in words, to be put behind the fact: ": the gradient at `net.0` …" or ""."""
    if not layers:
        return ""
    first = layers[0].name
    if severity is not Severity.INFO and health.ratio_severity is severity:
        verb = "grows to" if health.explodes else "falls to"
        last = layers[-1].name
        outcome = consequence(severity, explodes=health.explodes)
        where = f"from layer `{last}` back to layer `{first}`"
        return f": the gradient {verb} a predicted {from_log10(health.ratio)} {where}; {outcome}"
    if severity is not Severity.INFO and health.reasons:
        return f": {health.reasons[0]} (predicted); {consequence(severity, explodes=health.grows)}"
    factor = effect(health, layers)
    return "" if factor is None else f": each layer multiplies the gradient by a predicted {from_log10(factor)}"


def evidence(graph: ModelGraph, profile: Profile, health: PathHealth, layers: Sequence[Node]) -> Evidence:
    """The predicted numbers of a path."""
    ids = {node.id for node in _span(graph, layers)}
    share = tuple((graph.nodes[i].name, round(x, 3)) for i, x in profile.attribution if i in ids)[:8]
    numbers: dict[str, float | str | None] = {}
    if health.smallest is not None:
        numbers["predicted_weight_gradient"] = power(health.smallest[1])
    return Evidence(predicted_gradient_ratio=power(health.ratio), attribution=share, numbers=numbers)


def _span(graph: ModelGraph, layers: Sequence[Node]) -> list[Node]:
    if not layers:
        return []
    first, last = layers[0].id, layers[-1].id
    paths = topology(graph)
    return [n for n in graph.nodes[first : last + 1] if paths.reaches(first, n.id)]


def subject(
    graph: ModelGraph,
    profile: Profile,
    context: Context,
    health: PathHealth,
    layers: Sequence[Node],
    nodes: Sequence[Node],
    severity: Severity,
    remedies: Sequence[Experiment],
    gain: GainClaim | None = None,
) -> PathSubject:
    """The plain data that a path finding is judged by."""
    scale_free, zero_gated = layer_flags(profile, layers)
    return PathSubject(
        layers=tuple(n.name for n in layers),
        nodes=tuple(n.name for n in nodes),
        algorithm=context.algorithm,
        claimed=severity,
        predicted=health.ratio,
        effect=effect(health, layers),
        scale_free=scale_free,
        zero_gated=zero_gated,
        remedies=tuple(remedies),
        share=_share(profile, health, nodes),
        gain=gain,
    )


def _share(profile: Profile, health: PathHealth, nodes: Sequence[Node]) -> float:
    """Decades of the path's change, in its direction, that these nodes account for."""
    if health.ratio is None:
        return 0.0
    ids = {node.id for node in nodes}
    total = sum(x for i, x in profile.attribution if i in ids)
    return max(0.0, total if health.ratio > 0 else -total)


def place(graph: ModelGraph, *nodes: Node) -> Location | None:
    """Where to report: the first known constructor or call of the nodes, else the model's own line."""
    found = (_visible(node) for node in nodes)
    return next((location for location in found if location is not None), graph.location)


def _visible(node: Node) -> Location | None:
    """Where a person would change the layer, in a file of theirs: not the source of a library that was read."""
    places = (node.constructor, node.location)
    return next((at for at in places if at is not None and not at.path.startswith("<")), None)


def further(nodes: Iterable[Node], message: str, beside: Location | None = None) -> list[Related]:
    """Related locations, one a line, `beside` left out."""
    lines = dict.fromkeys(_visible(node) for node in nodes)
    return [Related(at, message) for at in lines if at is not None and at != beside]


def built(graph: ModelGraph, beside: Location) -> list[Related]:
    """Where the model is constructed, unless that is the line reported."""
    if graph.location is None or (graph.location.path, graph.location.line) == (beside.path, beside.line):
        return []
    return [Related(graph.location, f"`{graph.name}` is built here")]


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in backticks, cut after a few: "`a`, `b` and 5 more"."""
    shown = [f"`{n}`" for n in names]
    if len(shown) <= most:
        return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
    return f"{', '.join(shown[:most])} and {len(shown) - most} more"


def model_key(graph: ModelGraph) -> str:
    """The model as findings name it: `path:Name`."""
    name = graph.class_name or graph.name
    return f"{graph.location.path}:{name}" if graph.location else name


def activations_after(graph: ModelGraph, layers: Sequence[Node]) -> tuple[str, ...]:
    """Names of the activations that the layers feed, in order."""
    found = {a.id: a.name for layer in layers for a in feeds(graph, layer).activations}
    return tuple(name for _, name in sorted(found.items()))


def at(location: Location | None, message: str) -> list[Related]:
    """A related place, if it is known."""
    return [Related(location, message)] if location is not None else []


def post_norm_merges(graph: ModelGraph) -> list[Node]:
    """The residual additions that are normalised behind the addition and not in the branch, in order."""
    paths = topology(graph)
    return [
        graph.nodes[s.merge]
        for s in paths.skips
        if s.kind == "add"
        and any(graph.nodes[c].op in ("layer_norm", "rms_norm") for c in graph.consumers[s.merge])
        and not s.branch & paths.norms
    ]


def end_of(graph: ModelGraph, last: Node) -> Location | None:
    """The line of a forward that applies it; for a part of a Sequential, which has no forward, where it is made."""
    whole = graph.location
    at = last.location
    if at is not None and (whole is None or (at.path, at.line) != (whole.path, whole.line)):
        return at
    return last.constructor or at or whole


def one_loss(context: Context) -> bool:
    """Whether the script has one model and losses of one kind, so that the loss surely reads this output."""
    script = context.script
    if script is None:
        return True
    kinds = {name.rsplit(".", 1)[-1] for call in script.losses for name in call.callee[:1]}
    return len(kinds) <= 1 and len(script.models) <= 1


def output_of(graph: ModelGraph) -> Node | None:
    """The node that gives a model's only output, behind views, squeezes and the like; None where it has several."""
    outputs = list(graph.of_kind("output"))
    if len(outputs) != 1 or len(outputs[0].inputs) != 1:
        return None
    node = graph.nodes[outputs[0].inputs[0]]
    while node.kind == "reshape" and len(node.inputs) == 1 and node.op != "detach":
        node = graph.nodes[node.inputs[0]]
    return node


LONGEST = 60
"""Characters of an expression that a message quotes."""


def quoted(text: str) -> str:
    """An expression as a message quotes it, cut where it is long."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
