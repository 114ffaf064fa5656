"""Concatenations: tensors side by side, kept apart for a norm that acts on each channel."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Lead,
    Signal,
    log,
    log_sum,
    without_lead,
)
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    axis_of,
    extent,
)


def merged(parts: tuple[Signal, ...], like: Signal) -> Signal:
    """The moments of a concatenation: shares by width, parts kept."""
    width = sum(p.features for p in parts)
    weights = [p.features / width for p in parts]
    log_q = log_sum(*(p.log_q + log(w) for p, w in zip(parts, weights, strict=True)))
    if log_q == NEVER:
        return replace(like, log_q=NEVER, m=0.0, features=width, parts=parts)
    energy = [w * math.exp(p.log_q - log_q) for p, w in zip(parts, weights, strict=True)]
    mean = sum(w * p.m * math.exp(0.5 * (p.log_q - log_q)) for p, w in zip(parts, weights, strict=True))
    return replace(
        like,
        log_q=log_q,
        m=max(-1.0, min(1.0, mean)),
        ds=sum(e * p.ds for e, p in zip(energy, parts, strict=True)),
        dc=sum(e * p.dc for e, p in zip(energy, parts, strict=True)),
        de=sum(e * p.same_position for e, p in zip(energy, parts, strict=True)),
        v=sum(e * p.v for e, p in zip(energy, parts, strict=True)),
        features=width,
        parts=parts,
    )


def joined(parts: tuple[Gradient, ...], signal: Signal) -> Gradient:
    """The gradient of a concatenation whose parts passed different slopes: energies by width."""
    width = sum(p.features for p in signal.parts)
    logs = [g.log_g + math.log(p.features / width) for g, p in zip(parts, signal.parts, strict=True)]
    whole = log_sum(*logs)
    if whole == NEVER:
        return Gradient(NEVER)
    energy = [math.exp(x - whole) for x in logs]
    same = [g.c if g.e is None else g.e for g in parts]
    return Gradient(
        whole,
        sum(e * g.s for e, g in zip(energy, parts, strict=True)),
        sum(e * g.c for e, g in zip(energy, parts, strict=True)),
        sum(e * g.v for e, g in zip(energy, parts, strict=True)),
        parts,
        last=all(g.last for g in parts),
        e=None if all(g.e is None for g in parts) else sum(x * y for x, y in zip(energy, same, strict=True)),
    )


def cat(site: Site) -> Signal:
    """Along the features: shares by width, the parts kept; along positions: shares by length."""
    if len(site.inputs) == 1:
        return site.inputs[0]
    batch = max(x.batch for x in site.inputs)
    first = replace(site.inputs[0], batch=batch)
    if _along_features(site):
        parts = tuple(part for x in site.inputs for part in (x.parts or (x,)))
        site.memory["counts"] = [max(len(x.parts), 1) for x in site.inputs]
        return merged(parts, first)
    flat = [replace(x, features=x.positions, parts=()) for x in site.inputs]
    whole = merged(tuple(flat), first)
    positions = sum(x.positions for x in site.inputs)
    out = replace(whole, parts=(), positions=positions, features=first.features, lead=None)
    if first.positions != 1.0 or positions <= first.positions or whole.log_q == NEVER:
        return out
    # A class token has nothing in common with the others: they are (T − 1)(T − 2) of the T(T − 1) pairs.
    lead = Lead(first.log_q - whole.log_q, positions, across=0.0)
    behind = sum(x.positions * math.exp(x.log_q - whole.log_q) * x.s for x in site.inputs[1:]) / (positions - 1.0)
    return replace(out, ds=1.0 - behind * (positions - 2.0) / positions, lead=lead)


def cat_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """Each operand gets its own part."""
    counts = site.memory.get("counts")
    if not counts and gradient.lead and site.inputs[0].positions == 1.0:
        first, other = gradient.lead.kinds
        lone = replace(gradient, parts=(), lead=None, log_g=gradient.log_g + log(first))
        return [lone] + [without_lead(gradient, log(other))] * (len(site.inputs) - 1)
    if not counts or not gradient.parts or len(gradient.parts) != sum(counts):
        return [replace(gradient, parts=())] * len(site.inputs)
    out, start = [], 0
    for x, count in zip(site.inputs, counts, strict=True):
        own = gradient.parts[start : start + count]
        start += count
        if count == 1:
            out.append(own[0])
            continue
        width = sum(p.features for p in x.parts)
        logs = [g.log_g + math.log(p.features / width) for g, p in zip(own, x.parts, strict=True)]
        out.append(replace(gradient, log_g=log_sum(*logs), parts=own))
    return out


def _along_features(site: Site) -> bool:
    where = axis_of(site, "dim")
    if site.node.op == "stack":
        return False
    if where == "unknown":
        shape = extent(site, site.inputs[0])
        return shape[2] != site.inputs[0].features or site.node.shape is None
    return where == "feature"


CAT = Transfer(cat, cat_back)
