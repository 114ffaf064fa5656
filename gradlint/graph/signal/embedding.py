"""Embeddings, dropout and inputs: where signal starts, and where it is thinned."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.linear import coherence, dimensions
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log, mapped
from gradlint.graph.signal.transfer import (
    NOMINAL_SIDE,
    NOMINAL_TOKENS,
    NOMINAL_WIDTH,
    Site,
    Transfer,
    extent,
    inner_sizes,
    is_sized,
    weight_moments,
)


def source(site: Site) -> Signal:
    """A batch of N(0, 1) inputs; uniform ones are common to a part: mean ½, E[x²] = ⅓."""
    law = site.attribute("law", "normal")
    flat = Signal(0.0, batch=float(site.batch_size), positions=1.0, features=NOMINAL_WIDTH)
    n, p, features = extent(site, flat) if is_sized(site.node) else (flat.batch, *_nominal(site))
    if law == "ids" or str(site.attribute("dtype", "float")).startswith(("int", "long", "uint", "bool")):
        return Signal(0.0, batch=n, positions=p * features if site.node.shape else p, features=1.0)
    if law == "uniform01":
        return Signal(math.log(1.0 / 3.0), math.sqrt(0.75), 0.25, 0.25, batch=n, positions=p, features=features)
    return Signal(0.0, batch=n, positions=p, features=features)


def _nominal(site: Site) -> tuple[float, float]:
    """(P, n) of an input whose sizes are not all known, by what its rank or its first reader says it is."""
    shape, axis = site.node.shape, site.node.feature_axis
    ids = site.attribute("law") == "ids"
    width = shape[axis] if shape and axis is not None and -len(shape) <= axis < len(shape) and not ids else None
    rank = len(inner_sizes(site.node) or ())
    if shape is None:
        readers = [site.graph.nodes[i] for i in site.graph.consumers[site.node.id]]
        convolved = next((n for n in readers if n.kind in ("conv", "conv_transpose")), None)
        rank = 1 + dimensions(convolved) if convolved else 2 if any(n.kind == "recurrent" for n in readers) else 1
    sizes = [size for size in inner_sizes(site.node) or () if size is not None and size != width]
    free = max(rank - (0 if ids else 1) - len(sizes), 0)
    side = NOMINAL_SIDE if rank >= 3 else NOMINAL_TOKENS
    return float(math.prod(sizes)) * side**free, float(width or (1.0 if ids else NOMINAL_WIDTH))


def embedding(site: Site) -> Signal:
    """Rows of variance σ_w²; two positions or samples share a row in one case out of `num_embeddings`."""
    counted = bool(site.producers) and site.producers[0] is not None and site.producers[0].guessed
    ids = site.inputs[0] if site.inputs and not (counted and not is_sized(site.node)) else _all_positions(site)
    rows = float(site.attribute("num_embeddings", 1000))
    width = float(site.attribute("embedding_dim", NOMINAL_WIDTH))
    variance, mean = weight_moments(site, "weight", rows)
    q = variance + mean * mean
    share = (variance / rows + mean * mean) / q if q else 1.0
    tokens = ids.positions * ids.features
    if ids.batch == 1.0:  # positions, counted in the code: the same rows for every sample
        apart = 1.0 - mean * mean / q if q else 0.0
        m = math.copysign(math.sqrt(mean * mean / q), mean) if q else 0.0
        return Signal(log(q), m, apart, apart * (1.0 - 1.0 / tokens), 0.0, batch=1.0, positions=tokens, features=width)
    return Signal(log(q), math.copysign(math.sqrt(mean * mean / q), mean) if q else 0.0, 1.0 - share, 1.0 - share,
                  batch=ids.batch, positions=tokens, features=width)  # fmt: skip


def _all_positions(site: Site) -> Signal:
    """Ids that the graph does not show."""
    sizes = [size for size in (inner_sizes(site.node) or [])[:-1] if size is not None]
    return Signal(0.0, positions=float(math.prod(sizes)) if sizes else NOMINAL_TOKENS)


def embedding_weight(site: Site, gradient: Gradient) -> float:
    """‖∂W‖² = N·P·n·G: each token adds its gradient to its row, with the others that hit the same row."""
    y = site.output
    rows = float(site.attribute("num_embeddings", 1000))
    repeated = Signal(0.0, ds=1.0 - 1.0 / rows, dc=1.0 - 1.0 / rows, batch=y.batch, positions=y.positions)
    return math.log(y.size) + gradient.log_g + math.log(coherence(repeated, gradient, y.positions))


def dropout(site: Site) -> Signal:
    """q/(1−p), and s, c times (1−p), m times √(1−p): masks differ between elements (between samples only,
    for masks per sample or channel)."""
    x = site.inputs[0]
    keep = _kept(site)
    unit = site.attribute("unit", "element")

    def thin(d: float) -> float:
        return 1.0 - keep * (1.0 - d)

    out = mapped(x, thin, log_q=x.log_q - math.log(keep), m=x.m * math.sqrt(keep))
    parts = tuple(mapped(p, thin, log_q=p.log_q - math.log(keep), m=p.m * math.sqrt(keep)) for p in x.parts)
    return replace(out, ds=out.ds if unit == "element" else x.ds, parts=parts)


def dropout_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """G/(1−p), Gs·(1−p), Gc·(1−p)."""
    keep = _kept(site)
    unit = site.attribute("unit", "element")
    parts = tuple(replace(p, log_g=p.log_g - math.log(keep), s=p.s * keep, c=p.c * keep) for p in gradient.parts)
    s = gradient.s * (keep if unit == "element" else 1.0)
    return [
        replace(gradient, log_g=gradient.log_g - math.log(keep), s=s, c=gradient.c * keep, parts=parts),
        *[Gradient(NEVER)] * (len(site.inputs) - 1),
    ]


def _kept(site: Site) -> float:
    p = site.attribute("p", 0.0)
    return max(1.0 - float(p), 1e-6) if isinstance(p, (int, float)) else 1.0


def nothing(site: Site, gradient: Gradient) -> list[Gradient]:
    """No operand receives a gradient."""
    return [Gradient(NEVER)] * len(site.inputs)


def same(site: Site) -> Signal:
    """The first operand."""
    return site.inputs[0]


def same_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """The gradient goes to the first operand."""
    return [gradient, *[Gradient(NEVER)] * (len(site.inputs) - 1)]


INPUT, DROPOUT = Transfer(source, nothing), Transfer(dropout, dropout_back)
EMBEDDING = Transfer(embedding, nothing, embedding_weight)
OUTPUT = Transfer(same, same_back)
