"""How sure a prediction is: the half-width, in decades, of each gradient's band."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradlint.graph.model import WEIGHTED
from gradlint.graph.signal.channelwise import uneven_of
from gradlint.graph.signal.transfer import is_sized

if TYPE_CHECKING:
    from gradlint.graph.signal.walk import Walk

_DECADE = math.log(10.0)
_SIGMAS = 2.0
_BASE = 0.1
"""Approximations of a single rule and of the loss, in decades."""
_PER_LAYER = 0.05
"""Error that independent approximations add per weighted layer, in decades; they add as a random walk."""
_UNKNOWN_WIDTH = 0.3
_COPIES = 0.3
"""Layers that start as copies of each other add up in phase; the rules take them for independent (measured: up to
0.4 decades on 6 copied encoder layers)."""
FAR_OFF = 0.5
"""An approximation that may be wrong by this many decades makes a profile one of low confidence."""


def half_widths(walk: Walk) -> list[float]:
    """Two standard deviations of log10 ‖∂L/∂h‖: finite width (Hanin 2018: sd = √v/(2 ln 10) with v the relative
    variance of the squared norm), plus the rules' own approximations."""
    layers = _layers_to_loss(walk)
    doubts = _doubts(walk)
    copies = _COPIES if _copied(walk) else 0.0
    widths = []
    for i, depth in enumerate(layers):
        site, gradient = walk.sites[i], walk.gradients[i]
        v = (gradient.v if gradient else 0.0) + (site.output.v if site else 0.0)
        # log-normal: v is the relative variance of the square, ln(1 + v) that of its logarithm
        spread = decades(math.sqrt(math.log1p(min(v, 1e6))))
        loose = 0.0 if site is None or is_sized(site.node) else _UNKNOWN_WIDTH
        channels = decades(uneven_of(site).output_spread) if site else 0.0
        widths.append(math.hypot(spread, channels, _PER_LAYER * math.sqrt(depth), doubts[i]) + _BASE + loose + copies)
    return widths


def decades(spread: float) -> float:
    """Two standard deviations of log10 of a norm, from one of ln of its square."""
    return _SIGMAS * spread / (2.0 * _DECADE)


def typical(v: float) -> float:
    """ln of the typical square over its mean, −½ ln(1 + v): products of many random factors are log-normal (Hanin &
    Nica 2020), so that most draws lie below the mean."""
    return -0.5 * math.log1p(min(v, 1e6))


def _copied(walk: Walk) -> bool:
    """Whether different weights hold the same draw (deepcopy), which is noted."""
    owners: dict[str, str] = {}
    for node in walk.graph.nodes:
        for role, name in node.parameters.items():
            owner = walk.graph.parameter.get(name)
            law = owner.law if owner else None
            if node.kind not in WEIGHTED or owner is None or law is None or not law.draw or "bias" in role:
                continue
            if owners.setdefault(law.draw, owner.name) != owner.name:
                walk.notes.append(f"{owner.name} starts as a copy of {owners[law.draw]}")
                return True
    return False


def _doubts(walk: Walk) -> list[float]:
    """Decades of doubt on the way from the input and on the way to the loss, as independent errors."""
    own = [site.doubt**2 if site else 0.0 for site in walk.sites]
    if not any(own):
        return [0.0] * len(own)
    above, below = list(own), [0.0] * len(own)
    for node in walk.graph.nodes:
        above[node.id] += max((above[i] for i in node.inputs if i < node.id), default=0.0)
    for node in reversed(walk.graph.nodes):
        for i in node.inputs:
            below[i] = max(below[i], below[node.id] + own[node.id])
    return [math.sqrt(x + y) for x, y in zip(above, below, strict=True)]


def _layers_to_loss(walk: Walk) -> list[int]:
    """Weighted layers on the longest path from each node to the loss."""
    nodes = walk.graph.nodes
    depth = [0] * len(nodes)
    for node in reversed(nodes):
        own = depth[node.id] + (1 if node.kind in WEIGHTED else 0)
        for i in node.inputs:
            depth[i] = max(depth[i], own)
    return depth
