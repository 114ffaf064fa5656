"""Where signal starts: inputs, parameters used as tensors, constants."""

from __future__ import annotations

import math

from gradlint.graph.inputs import NEIGHBOURS
from gradlint.graph.model import WEIGHTED, ModelGraph, Node
from gradlint.graph.signal.fan import dimensions, sizes
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    log,
)
from gradlint.graph.signal.transfer import (
    GROWN_SCALE,
    NOMINAL_SIDE,
    NOMINAL_TOKENS,
    NOMINAL_WIDTH,
    UNCLAIMED,
    Site,
    Transfer,
    Unclaimed,
    extent,
    inner_sizes,
    is_sized,
)

KEEPS_RANK = frozenset({"pad", "permute", "transpose", "contiguous"})
"""Reshapes behind which a layer still says of what rank the input is."""
NARROWEST = 2.0
"""Side of the smallest map in a net whose image size is not known: people choose images that leave one."""
_GROWN_ADDEND = 0.02
"""Std of a position embedding or class token that starts at zero, as grown (Devlin et al. 2019)."""


def source(site: Site) -> Signal:
    """A batch of N(0, 1) inputs; uniform ones are common to a part: mean ½, E[x²] = ⅓.

    The rows of an adjacency hold 1/k in k places of n: mean 1/n, E[x²] = 1/(kn).
    """
    law = site.attribute("law", "normal")
    flat = Signal(0.0, batch=float(site.batch_size), positions=1.0, features=NOMINAL_WIDTH)
    n, p, features = extent(site, flat) if is_sized(site.node) else (flat.batch, *_nominal(site))
    if law == "ids" or str(site.attribute("dtype", "float")).startswith(("int", "long", "uint", "bool")):
        return Signal(0.0, batch=n, positions=p * features if site.node.shape else p, features=1.0)
    if law == "uniform01":
        return Signal(math.log(1.0 / 3.0), math.sqrt(0.75), 0.25, 0.25, batch=n, positions=p, features=features)
    if law == "adjacency":
        degree = NEIGHBOURS + 1.0
        share = degree / max(features, degree)
        return Signal(
            -math.log(degree * features),
            math.sqrt(share),
            1.0 - share,
            1.0 - share,
            batch=n,
            positions=p,
            features=features,
        )
    return Signal(0.0, batch=n, positions=p, features=features)


def _nominal(site: Site) -> tuple[float, float]:
    """(P, n) of an input whose sizes are not all known, by what its rank or its first reader says it is."""
    shape, axis = site.node.shape, site.node.feature_axis
    ids = site.attribute("law") == "ids"
    width = shape[axis] if shape and axis is not None and -len(shape) <= axis < len(shape) and not ids else None
    rank = len(inner_sizes(site.node) or ())
    if shape is None:
        readers = _readers(site.graph, site.node.id)
        convolved = next((n for n in readers if n.kind in ("conv", "conv_transpose")), None)
        rank = 1 + dimensions(convolved) if convolved else 2 if any(n.kind == "recurrent" for n in readers) else 1
    sizes = [size for size in inner_sizes(site.node) or () if size is not None and size != width]
    free = max(rank - (0 if ids else 1) - len(sizes), 0)
    side = max(NOMINAL_SIDE, NARROWEST * _narrowing(site.graph)) if rank >= 3 else NOMINAL_TOKENS
    return float(math.prod(sizes)) * side**free, float(width or (1.0 if ids else NOMINAL_WIDTH))


def _readers(graph: ModelGraph, source: int) -> list[Node]:
    """The layers that read an input, past paddings, scalings and other steps that leave its rank alone."""
    reached = {source}
    found = []
    for node in graph.nodes[source + 1 :]:
        if reached.isdisjoint(node.inputs):
            continue
        if node.kind in WEIGHTED:
            found.append(node)
        elif node.kind != "reshape" or node.op in KEEPS_RANK:
            reached.add(node.id)
    return found


def _narrowing(graph: ModelGraph) -> float:
    """By how much the sides of an image shrink up to the narrowest place of the net."""
    at = [1.0] * len(graph.nodes)
    for node in graph.nodes:
        at[node.id] = max((at[i] for i in node.inputs), default=1.0)
        step, kernel = node.attributes.get("stride"), node.attributes.get("kernel_size")
        match node.kind:
            case "conv":
                at[node.id] *= sizes(step, 1)[0]
            case "pool":
                at[node.id] *= sizes(step or kernel, 1)[0]
            case "conv_transpose":
                at[node.id] /= sizes(step, 1)[0]
            case "upsample":
                at[node.id] /= sizes(node.attributes.get("scale_factor", 2.0), 1)[0]
    return max(at, default=1.0)


def parameter(site: Site) -> Signal:
    """A parameter used as a tensor (position embedding, class token, LayerScale): the same for all samples.

    As grown, a gate below the scale of LayerScale is 1, and an addend of zeros has the usual 0.02.
    """
    law = site.law("weight")
    if law is None or law.std is None or law.distribution in UNCLAIMED:
        known = next((site.law(r) for r in site.node.parameters if site.law(r)), None)
        if known is None or known.std is None or known.distribution in UNCLAIMED:
            if site.node.op == "buffer":
                return _guess(site)
            raise Unclaimed(f"values of {site.node.name} unknown")
        law = known
    mean, std = law.mean or 0.0, law.std or 0.0
    if site.grown and std == 0.0 and abs(mean) < GROWN_SCALE:
        mean, std = (1.0, 0.0) if mean or scales(site.graph, site.node) else (0.0, _GROWN_ADDEND)
    return _fixed(site, mean, std)


def scales(graph: ModelGraph, node: Node) -> bool:
    """Whether a parameter multiplies a signal (ReZero, LayerScale, a gated branch), maybe past a function of it."""
    users = [graph.nodes[i] for i in graph.consumers[node.id]]
    past = [
        graph.nodes[i] for u in users if u.kind in ("activation", "reshape", "scale") for i in graph.consumers[u.id]
    ]
    return any(u.kind == "mul" for u in (*users, *past))


def _fixed(site: Site, mean: float, std: float) -> Signal:
    """A tensor of this mean and std that all samples share, unlike at different positions."""
    q = mean * mean + std * std
    _, positions, features = extent(site, Signal(0.0, batch=1.0))
    share = mean * mean / q if q else 1.0
    m = math.copysign(math.sqrt(share), mean) if q else 0.0
    return Signal(
        log(q), m, 1.0 - share, (1.0 - share) * (1.0 - 1.0 / positions), 0.0, 0.0, 0.0, 1.0, positions, features
    )


def _guess(site: Site) -> Signal:
    site.guessed = True
    return _fixed(site, 0.0, 1.0)


def constant(site: Site) -> Signal:
    """A number; noise of a known law; a fixed tensor of unknown values, for which a scale of 1 stands."""
    value, std = site.attribute("value"), site.attribute("std")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Signal(2.0 * log(abs(value)), math.copysign(1.0, value) if value else 0.0, 0.0, 0.0)
    if isinstance(std, (int, float)):
        mean = float(site.attribute("mean", 0.0))
        like = Signal(0.0, batch=float(site.batch_size) if site.node.batch_axis is not None else 1.0)
        n, p, features = extent(site, like)
        q = mean * mean + std * std
        share = mean * mean / q if q else 1.0
        m = math.copysign(math.sqrt(share), mean) if q else 0.0
        return Signal(log(q), m, 1.0 - share, 1.0 - share, batch=n, positions=p, features=features)
    return _guess(site)


def nothing(site: Site, gradient: Gradient) -> list[Gradient]:
    """No operand."""
    return [Gradient(NEVER)] * len(site.inputs)


INPUT = Transfer(source, nothing)
PARAMETER, CONSTANT = Transfer(parameter, nothing), Transfer(constant, nothing)
