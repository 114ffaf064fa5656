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
