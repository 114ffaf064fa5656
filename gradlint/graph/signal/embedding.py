"""Embeddings: rows that are looked up."""

from __future__ import annotations

import math

from gradlint.graph.signal.linear import coherence
from gradlint.graph.signal.moments import (
    Gradient,
    Signal,
    log,
)
from gradlint.graph.signal.sources import nothing
from gradlint.graph.signal.transfer import (
    NOMINAL_TOKENS,
    NOMINAL_WIDTH,
    Site,
    Transfer,
    inner_sizes,
    is_sized,
    weight_moments,
)


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


EMBEDDING = Transfer(embedding, nothing, embedding_weight)
