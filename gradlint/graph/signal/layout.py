"""Positions and features trade places.

Layers that mix tokens (MLP-Mixer, Tolstikhin et al. 2021) or attend over channels (XCA, El-Nouby et al. 2021; DaViT,
Ding et al. 2022) read along an axis that did not hold the features before.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.model import Node
from gradlint.graph.signal.moments import Gradient, Signal, mapped
from gradlint.graph.signal.transfer import Site


def traded(x: Signal, positions: float, features: float) -> Signal:
    """Pairs of positions become pairs of features, and the other way round; two samples at two positions share what
    their means do."""
    shared = x.m * x.m
    same = 1.0 - x.same_position
    c = shared + (same - shared) / max(positions, 1.0)
    return replace(
        x, ds=1.0 - min(shared + x.f, 1.0), f=x.s - shared if x.positions > 1.0 else 0.0, dc=1.0 - c,
        de=x.same_position, parts=(), positions=positions, features=features, lead=None,
        groups=1.0,
    )  # fmt: skip


def traded_back(g: Gradient, x: Signal) -> Gradient:
    """The gradient of `x`, given that of `x` with positions and features traded."""
    p = x.positions
    same = g.c if g.e is None else g.e
    c = same * (1.0 + (p - 1.0) * max(g.f, 0.0)) / p
    return replace(g, s=g.f if p > 1.0 else 0.0, f=g.s, c=c, e=same if p > 1.0 else None, parts=(), lead=None)


def thinned(x: Signal, inside: float) -> Signal:
    """A signal of which only this share of the positions is not zero; the other way round for a share above one."""
    out = mapped(x, lambda d: 1.0 - inside * (1.0 - d), log_q=x.log_q + math.log(inside))
    return replace(out, m=max(-1.0, min(x.m * math.sqrt(inside), 1.0)), parts=())


def last_axis(site: Site) -> tuple[float, float] | None:
    """(P, n) of an operand that is read along its last axis, where another one holds its features; else None."""
    x, source = site.inputs[0], site.graph.nodes[site.node.inputs[0]]
    axis, width = feature_axis(source), source.shape[-1] if source.shape else None
    if axis is None or source.shape is None or axis == len(source.shape) - 1 or not width:
        return None
    if x.features != source.shape[axis] or x.features == 1.0:
        return None
    return x.positions * x.features / width, float(width)


def lies_across(site: Site, nth: int) -> bool:
    """Whether an operand's features lie along another axis than those of the output of the same shape."""
    x, source = site.inputs[nth], site.graph.nodes[site.node.inputs[nth]]
    own, wanted = feature_axis(source), feature_axis(site.node)
    if own is None or wanted is None or own == wanted or source.shape is None or source.shape != site.node.shape:
        return False
    return x.features == source.shape[own] and x.features > 1.0 and bool(source.shape[wanted])


def feature_axis(node: Node) -> int | None:
    """The axis of the features, counted from the front."""
    if node.feature_axis is None or not node.shape:
        return None
    return node.feature_axis % len(node.shape)
