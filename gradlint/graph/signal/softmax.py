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
    """Softmax rows over T keys: `peak` E Σp², `pair` E Σ p p′ of two rows, `visible` mean of 1/visible keys."""

    keys: float
    peak: float
    pair: float


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
    if axis_of(site, "dim", site.graph.nodes[site.node.inputs[0]]) == "batch":
        raise Unclaimed("softmax over the batch")
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


def softmax_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """g_z = p(g − p·g): G = E p²·G′(1 − f)(1 − Σp²); over the keys it sums to zero."""
    if site.node.op == "log_softmax":
        return [gradient]
    rows: Rows = site.memory["rows"]
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
