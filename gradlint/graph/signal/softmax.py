"""Softmax: rows of shares, summarised by the effective number of keys 1/Σp²."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gradlint.graph.signal.moments import (
    Gradient,
    Signal,
    log,
)
from gradlint.graph.signal.quadrature import softmax_moments
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
    axis_of,
)


@dataclass(frozen=True)
class Rows:
    """Softmax rows over T keys: `peak` E Σp², `pair` E Σ p p′ of two rows; whether the keys are `positions`."""

    keys: float
    peak: float
    pair: float
    positions: bool = False


def softmax_rows(
    keys: float, variance: float, row_correlation: float, causal: bool, mask: tuple[float, float] | None = None
) -> Rows:
    """κ = T·EΣp² for scores of this variance; A = min(κ·mean(1/visible), 1), two rows share κ′·Σ p p′.

    `mask`: Σp² and Σ p p′ of even weights over the keys that a mask leaves visible, 1/T both without one."""
    t = max(keys, 1.0)
    visible, shared = 1.0 / t, 1.0 / t
    if mask is not None:
        visible, shared = mask
    elif causal:
        visible, shared = (math.log(t) + 0.5772 + 0.5 / t) / t, 2.0 / (t + 1.0)
    kappa = softmax_moments(_count(visible), round(math.sqrt(variance), 3))[0]
    # Two rows agree in the part of the scores that they share.
    pair = softmax_moments(_count(shared), round(math.sqrt(variance * max(row_correlation, 0.0)), 3))[0]
    return Rows(t, min(kappa * visible, 1.0), min(pair * shared, 1.0))


def _count(even: float) -> int:
    """Keys that an average of even weights with this Σp² runs over."""
    return max(round(1.0 / even), 1) if even > 0.0 else 1


def masked(site: Site) -> tuple[float, float] | None:
    """What the mask in front of a softmax, or of an attention itself, leaves visible."""
    found: Site | None = site
    for _ in range(6):
        if found is None or (found is not site and found.node.kind not in ("reshape", "scale", "add")):
            return None
        visible, shared = found.attribute("visible"), found.attribute("shared")
        if isinstance(visible, float) and isinstance(shared, float):
            return visible, shared
        found = found.producers[0] if found.producers and found.node.kind != "attention" else None
    return None


def softmax(site: Site) -> Signal:
    """p = softmax(z) over T features: E p² = EΣp²/T, mean 1/T."""
    x = replace(site.inputs[0], parts=())
    if site.node.op == "log_softmax":
        # log p ≈ z − ln Σ e^z: the logits less a constant of the row.
        variance = math.exp(min(x.log_q + log(max(1.0 - x.m**2 - x.f, 0.0)), 600.0))
        level = math.log(x.features) + min(0.5 * variance, math.sqrt(2.0 * variance * math.log(max(x.features, 2.0))))
        q = variance + level * level
        return replace(x, log_q=log(q), m=-level / math.sqrt(q), ds=x.ds * variance / q, dc=x.dc * variance / q)
    axis = axis_of(site, "dim", site.graph.nodes[site.node.inputs[0]])
    if axis == "batch":
        raise Unclaimed("softmax over the batch")
    if axis == "position":
        return _over_positions(site, x)
    shared = min(max(x.m * x.m + x.f, 0.0), 1.0)
    variance = math.exp(min(x.log_q + log(1.0 - shared), 20.0))
    tokens = max(x.features, 1.0)
    s_rows = max(0.0, min(1.0 - x.ds, 1.0))
    hidden = masked(site)
    causal = bool(site.attribute("causal", False))
    rows = site.memory["rows"] = softmax_rows(tokens, variance, s_rows, causal, hidden)
    q = rows.peak / tokens
    m = 1.0 / (tokens * math.sqrt(q))
    across = softmax_rows(tokens, variance, max(0.0, x.c), False, hidden)
    pairs = (1.0 - rows.peak) / max((tokens - 1.0) * rows.peak, 1e-30) if tokens > 1 else m * m
    return replace(
        x,
        log_q=math.log(q),
        m=min(m, 1.0),
        ds=1.0 - min(rows.pair / rows.peak, 1.0),
        dc=1.0 - min(across.pair / rows.peak, 1.0),
        de=None,
        f=min(pairs, 1.0) - m * m,
    )


def _over_positions(site: Site, x: Signal) -> Signal:
    """p = softmax(z) over T of the P positions, one row a feature: E p² = EΣp²/T, mean 1/T.

    What all positions share cancels, so the scores vary by E z²·(1 − s). Two keys of a row are alike as Σp = 1 has it,
    E p_i p_j = (1 − EΣp²)/(T(T−1)); all pairs of two samples average to 1/T², those of one position to E Σ p p′/T.
    """
    shape, dim = site.graph.nodes[site.node.inputs[0]].shape, site.attribute("dim")
    size = shape[dim] if shape and isinstance(dim, int) else None
    keys = float(size) if size is not None else x.positions
    variance = math.exp(min(x.log_q + log(max(x.ds, 0.0)), 20.0))
    same, other = x.pairs
    alike = min(max((same - other) / x.ds, 0.0), 1.0) if x.ds > 0.0 else 1.0
    found = softmax_rows(keys, variance, alike, False, masked(site))
    rows = site.memory["rows"] = replace(found, positions=True)
    even = 1.0 / (keys * rows.peak)
    in_row = (1.0 - rows.peak) / max((keys - 1.0) * rows.peak, 1e-30) if keys > 1.0 else even
    rest = max(x.positions - keys, 0.0)
    s = ((keys - 1.0) * in_row + rest * even) / max(x.positions - 1.0, 1.0)
    return replace(
        x,
        log_q=math.log(rows.peak / keys),
        m=min(math.sqrt(even), 1.0),
        ds=1.0 - min(s, 1.0),
        dc=1.0 - min(even, 1.0),
        de=1.0 - min(rows.pair / rows.peak, 1.0),
        f=0.0,
    )


def softmax_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """g_z = p(g − p·g): G = E p²·G′(1 − f)(1 − Σp²); over the keys it sums to zero."""
    if site.node.op == "log_softmax":
        return [gradient]
    rows: Rows = site.memory["rows"]
    if rows.positions:
        # What is common to the positions of a row cancels, and what is left sums to zero over them.
        kept = max((1.0 - max(gradient.s, 0.0)) * (1.0 - rows.peak), 0.0)
        scale = log(rows.peak / rows.keys * kept)
        return [
            Gradient(gradient.log_g + scale, -1.0 / max(rows.keys - 1.0, 1.0), gradient.c * site.output.c, gradient.v)
        ]
    kept = max((1.0 - max(gradient.f, 0.0)) * (1.0 - rows.peak), 0.0)
    return [
        Gradient(
            gradient.log_g + log(rows.peak / rows.keys * kept),
            gradient.s * site.output.s,
            gradient.c * site.output.c,
            gradient.v,
            f=-1.0 / max(rows.keys - 1.0, 1.0),
            lead=gradient.lead,
        )
    ]


SOFTMAX = Transfer(softmax, softmax_back)
