"""Dropout: signal that is thinned, and handed on scaled up."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Signal,
    mapped,
)
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
)

ALPHA = -1.7580993408473766
"""−λα of SELU, what alpha dropout puts in an element's place (Klambauer et al. 2017, §"New Dropout Technique")."""


def dropout(site: Site) -> Signal:
    """q/(1−p), and s, c times (1−p), m times √(1−p): masks differ between elements (between samples only,
    for masks per sample or channel)."""
    x = site.inputs[0]
    keep = _kept(site)
    unit = site.attribute("unit", "element")
    if site.node.op == "alpha_dropout":
        return _alpha(x, keep, unit)

    def thin(d: float) -> float:
        return 1.0 - keep * (1.0 - d)

    out = mapped(x, thin, log_q=x.log_q - math.log(keep), m=x.m * math.sqrt(keep))
    parts = tuple(mapped(p, thin, log_q=p.log_q - math.log(keep), m=p.m * math.sqrt(keep)) for p in x.parts)
    return replace(out, ds=out.ds if unit == "element" else x.ds, parts=parts)


def _alpha(x: Signal, keep: float, unit: object) -> Signal:
    """a(x·k + α′(1 − k)) + b with k ~ Bernoulli(1−p), a² = 1/((1−p)(1 + pα′²)) and b = −aα′p.

    E x′² = a²(1−p)(q + pα′² − 2α′pμ), and a product of two elements that are masked apart is a²(1−p)² of what it was.
    """
    p = 1.0 - keep
    # As a multiple of q, so that neither a large nor a small signal leaves the range of floats.
    rms = math.exp(max(min(0.5 * x.log_q, 300.0), -300.0))
    ratio = 1.0 + p * ALPHA**2 / rms**2 - 2.0 * ALPHA * p * x.m / rms
    shared = keep / ratio

    def thin(d: float) -> float:
        return 1.0 - shared * (1.0 - d)

    log_q = x.log_q + math.log(ratio) - math.log1p(p * ALPHA**2)
    out = mapped(x, thin, log_q=log_q, m=x.m * math.sqrt(shared), f=x.f * shared)
    return replace(out, ds=out.ds if unit == "element" else 1.0 - (1.0 - out.ds) / keep, parts=())


def dropout_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """G/(1−p), Gs·(1−p), Gc·(1−p); of alpha dropout G/(1 + pα′²) instead."""
    keep = _kept(site)
    if site.node.op == "alpha_dropout":
        gradient = replace(gradient, log_g=gradient.log_g + math.log(keep) - math.log1p((1.0 - keep) * ALPHA**2))
    unit = site.attribute("unit", "element")
    parts = tuple(replace(p, log_g=p.log_g - math.log(keep), s=p.s * keep, c=p.c * keep) for p in gradient.parts)
    s = gradient.s * (keep if unit == "element" else 1.0)
    e = None if gradient.e is None else gradient.e * keep
    thinned = replace(gradient, log_g=gradient.log_g - math.log(keep), s=s, c=gradient.c * keep, e=e, parts=parts)
    return [thinned, *[Gradient(NEVER)] * (len(site.inputs) - 1)]


def _kept(site: Site) -> float:
    p = site.attribute("p", 0.0)
    return max(1.0 - float(p), 1e-6) if isinstance(p, (int, float)) else 1.0


def same(site: Site) -> Signal:
    """The first operand."""
    return site.inputs[0]


def same_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """The gradient goes to the first operand."""
    return [gradient, *[Gradient(NEVER)] * (len(site.inputs) - 1)]


DROPOUT, OUTPUT = Transfer(dropout, dropout_back), Transfer(same, same_back)
