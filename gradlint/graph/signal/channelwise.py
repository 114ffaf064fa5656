"""The few weights of one channel in front of a batch norm, which divides their scale out again.

A channel y = Σ_i w_i x_i of F weights has the variance V, and leaves the norm as (y − ȳ)/√(V + ε). Scaling w by λ
changes that by (y − ȳ)·ε/(V + ε)^{3/2} alone, so that the gradient has next to no component along w (Salimans & Kingma
2016, eq. 3; van Laarhoven 2017, §2, where ε = 0): of the F equal parts Σ(g·x_i)²/(V + ε) of ‖∂L/∂w‖² one is multiplied
by (ε/(V + ε))². Where F = 1 (a depthwise 1 × 1 convolution: a scale for each channel) nothing else is left:

    ∂L/∂w = σ·ε/(w²σ² + ε)^{3/2}·Σ g·x̂,    σ² the variance and x̂ the normalised values of the channel that w scales.

V differs from channel to channel, the more the fewer weights there are, and both that and the gradient of y,
g/√(V + ε), are largest where it is small. A sum over channels is then ruled by the few smallest |w| and differs between
draws of the same net by decades; what is predicted is the mean of its logarithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from gradlint.graph.model import InitLaw
from gradlint.graph.signal.fan import Fan
from gradlint.graph.signal.moments import NEVER, Signal
from gradlint.graph.signal.transfer import Site
from gradlint.graph.topology_scales import norm_behind

_FEW = 32.0
"""Weights of a channel beyond which its variance is like that of all others."""
_EULER = 0.5772156649015329
_STEP = 0.5
_TAIL = 16.0
_UNEVEN = 3.0
"""A mean of weights this many times their std leaves no weight near zero."""


@dataclass(frozen=True)
class Uneven:
    """What unequal channels do to a sum over them: ln of the factor on the sum, and the std of its logarithm, for the
    gradient of the layer's output and for that of its weights; `alone` where each channel has one weight."""

    output: float = 0.0
    output_spread: float = 0.0
    weight: float = 0.0
    weight_spread: float = 0.0
    alone: bool = False


EVEN = Uneven()


def uneven_of(site: Site) -> Uneven:
    """What was found of a layer's channels on the way back."""
    found: Uneven = site.memory.get("uneven", EVEN)
    return found


def uneven(site: Site, fan: Fan) -> Uneven:
    """The channels of a convolution under a batch norm; `EVEN` where no such norm follows or the weights are many."""
    norm, law = norm_behind(site.graph, site.node), site.law()
    if norm is None or law is None or fan.fan_in > _FEW or site.output.log_q == NEVER:
        return EVEN
    x: Signal = site.memory["x"]
    kept = site.output.kept
    if kept <= 0.0 or x.kept <= 0.0:
        return EVEN
    epsilon = norm.attributes.get("eps") or 1e-5
    floor = math.log(float(epsilon)) - site.output.log_q - math.log(kept)
    # V = Σ wᵢwⱼCᵢⱼ is as uneven as a χ² of F/(1 + (F − 1)r²) degrees of freedom, r the correlation of two taps.
    alike = 1.0 - x.ds / x.kept if x.positions > 1.0 else 0.0
    freedom = fan.fan_in / (1.0 + (fan.taps - 1.0) * min(alike * alike, 1.0))
    return _uneven(_shape(law), round(freedom, 1), round(floor, 1), round(fan.channels), round(fan.fan_in))


def _shape(law: InitLaw) -> str:
    if not law.std or abs(law.mean or 0.0) > _UNEVEN * law.std:
        return "constant"
    return "uniform" if law.distribution == "uniform" else "normal"


@lru_cache(maxsize=512)
def _uneven(shape: str, freedom: float, log_floor: float, channels: int, count: int) -> Uneven:
    if shape == "constant" and count > 1:
        return Uneven(weight=math.log(1.0 - 1.0 / count))
    if count > 1 and freedom > 4.0:
        mean = math.log(freedom / (freedom - 2.0))
        return Uneven(output=mean, weight=mean + math.log(1.0 - 1.0 / count))
    floor = math.exp(log_floor)
    nodes = _variances(shape if count == 1 else "normal", freedom, log_floor)
    scale = 1.0 + floor  # of equal channels, 1/(E V + ε); a lone weight's is told without ε
    output = [(scale / (v + floor), w) for v, w in nodes]
    scale = 1.0 if count == 1 else scale
    left = [(scale / (v + floor) * (count - 1.0 + (floor / (v + floor)) ** 2) / count, w) for v, w in nodes]
    return Uneven(*_log_of_mean(output, channels, False), *_log_of_mean(left, channels, count == 1), count == 1)


def _variances(shape: str, freedom: float, log_floor: float) -> list[tuple[float, float]]:
    """(V/E V, weight) of channels whose weights follow a law; the nodes are even in ln V, down to far below ε."""
    if shape == "constant":
        return [(1.0, 1.0)]
    start = min(log_floor, 0.0) - _TAIL
    grid = [start + _STEP * i for i in range(math.ceil((4.0 - start) / _STEP))]
    if shape == "uniform":  # |w| is uniform up to √3 of its std: P(V < v) = √(v/3)
        edges = [min(math.exp(0.5 * (x + 0.5 * _STEP)) / math.sqrt(3.0), 1.0) for x in (start - _STEP, *grid)]
        weights = [b - a for a, b in pairwise(edges)]
    else:  # χ² over its degrees of freedom
        half = 0.5 * freedom
        weights = [math.exp(half * (x + math.log(half)) - half * math.exp(x) - math.lgamma(half)) for x in grid]
    total = math.fsum(weights)
    return [(math.exp(x), w / total) for x, w in zip(grid, weights, strict=True) if w > 0.0]


def _log_of_mean(terms: list[tuple[float, float]], channels: int, squared: bool) -> tuple[float, float]:
    """E and std of ln S, S the mean over channels of independent terms h (value, weight), times a χ²₁ where `squared`.

    E exp(−tS) is the chance that an exponential variable exceeds tS: as a function of ln t it is the survival function
    of ln(exponential) − ln S, whose mean is −γ − E ln S and whose variance is π²/6 + Var ln S.
    """
    mean = math.fsum(h * w for h, w in terms)
    start = -math.log(mean) - _TAIL
    first = second = 0.0
    for i in range(400):
        t = math.exp(start + _STEP * i) / channels
        one = math.fsum(w * ((1.0 + 2.0 * t * h) ** -0.5 if squared else math.exp(-t * h)) for h, w in terms)
        survival = one**channels
        if survival < 1e-12:
            break
        weight = _STEP * survival * (0.5 if i == 0 else 1.0)
        first += weight
        second += 2.0 * weight * _STEP * i
    # The trapezoid rule misses h²/6 of ∫ 2u·S(u) du, whose integrand starts with a slope of 2.
    variance = second + _STEP**2 / 6.0 - first * first - math.pi**2 / 6.0
    return -_EULER - start - first, math.sqrt(max(variance, 0.0))
