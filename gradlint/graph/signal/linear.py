"""Linear and convolution layers: sums of independent weights.

Source: He et al. 2015 (eq. 7 and 13) for the scales; Schoenholz et al. 2017 for correlations; Xiao et al.
2018 (§2.2) for convolutions, where a scalar per tensor stands for the map over positions.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.channel_draws import diluted, shifted
from gradlint.graph.signal.channelwise import uneven
from gradlint.graph.signal.fan import Fan, fan_of
from gradlint.graph.signal.layout import last_axis, traded, traded_back
from gradlint.graph.signal.moments import NEVER, Gradient, Signal, log, log_sum, mapped
from gradlint.graph.signal.transfer import Site, Transfer, bias_moments, weight_moments

_BORDERED = 0.9
"""Below this share of common taps one position in two samples is told apart from two positions."""


def forward(site: Site) -> Signal:
    """q′ = n_in·taps·σ_w²·q + σ_b² (+ μ_w² terms); 1 − r′ = (n_in·taps·σ_w²·q/q′)(1 − k·r) for r in s and c,
    k the share of taps that two outputs have in common: 1 at one position in two samples."""
    x = site.memory["x"] = _read(site)
    fan = site.memory["fan"] = fan_of(site, x)
    variance, mean = weight_moments(site, "weight", fan.fan_in)
    bias_variance, bias_mean = bias_moments(site)
    meets = fan.n_in * fan.taps_out
    if site.memory.setdefault("centred", _centred(site, fan)):
        x = site.memory["x"] = _without_mean(x)
    spread = log(meets * variance) + x.log_q
    # Weights of mean μ add μ·Σx to every output alike (constant or positive inits).
    together = log(meets * mean * mean * max(1.0 + (meets - 1.0) * (x.m * x.m + x.f), 0.0)) + x.log_q
    bias = log(bias_variance + bias_mean**2)
    log_q = log_sum(spread, together, bias)
    lead = x.lead if site.node.kind == "linear" else None
    out = replace(x, parts=(), f=0.0, features=fan.channels, positions=fan.p_out, lead=lead)
    if site.node.kind != "linear":  # the positions of an image are no heads
        out = replace(out, groups=1.0)
    if log_q == NEVER:
        return replace(out, log_q=NEVER, m=0.0, v=0.0)
    moving = math.exp(log_sum(spread, together) - log_q)
    common = log_sum(together, log(bias_mean**2))
    m = math.copysign(math.exp(0.5 * (common - log_q)), bias_mean + mean * (x.m or 1.0)) if common != NEVER else 0.0
    ds, dc, de = _apart(x, fan)
    return replace(
        out, log_q=log_q, m=m, ds=moving * ds, dc=moving * dc, de=None if de is None else moving * de, v=moving**2 * x.v
    )


def _centred(site: Site, fan: Fan) -> bool:
    law = site.law()
    return law is not None and law.centred and fan.fan_in > 1.0


def _without_mean(x: Signal) -> Signal:
    """Weights that sum to zero (Qiao et al. 2019; Brock et al. 2021) do not see what all channels have in common:
    q(1 − m²), with the correlations of what is left."""
    kept = max(1.0 - x.m * x.m, 1e-12)
    return mapped(x, lambda d: min(d / kept, 2.0), log_q=x.log_q + math.log(kept), m=0.0, f=0.0)


def _read(site: Site) -> Signal:
    """The operand as the layer reads it: a linear layer along the last axis, whatever lies there."""
    x = site.inputs[0]
    sizes = last_axis(site) if site.node.kind == "linear" else None
    site.memory["across"] = sizes is not None
    return x if sizes is None else traded(x, *sizes)


def _apart(x: Signal, fan: Fan) -> tuple[float, float, float | None]:
    """1 − r of the weighted sums: of two positions, of two samples, of two samples at one position."""
    share = fan.shared_out
    ds = 1.0 - share * x.s
    if x.de is None and share > _BORDERED:
        return ds, 1.0 - share * x.c, None
    same, other = x.pairs
    return ds, 1.0 - (same + (fan.p_out - 1.0) * share * other) / fan.p_out, x.same_position


def backward(site: Site, gradient: Gradient) -> list[Gradient]:
    """G = n_out·taps·σ_w²·G′ with the taps that read an input; two inputs share k of them, so Gs′ = k·Gs."""
    fan: Fan = site.memory["fan"]
    variance, mean = weight_moments(site, "weight", fan.fan_in)
    share = fan.shared_in
    same, other = gradient.pairs(fan.p_out)
    c = (same + (fan.p_in - 1.0) * share * other) / fan.p_in
    e = None if gradient.e is None and share > _BORDERED else same
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    log_g = gradient.log_g + log(fan.n_out * fan.taps_in * (variance + mean * mean))
    if site.memory["centred"]:
        log_g += math.log(1.0 - 1.0 / fan.fan_in)
    lead = gradient.lead if site.node.kind == "linear" else None
    weights = diluted(gradient, 1.0 / fan.fan_in) if fan.n_in == fan.n_out == 1.0 else None
    weights = shifted(weights, (share - 1.0) * gradient.s, c - gradient.c)
    onto = Gradient(log_g, share * gradient.s, c, gradient.v, last=gradient.last, e=e, lead=lead, weights=weights)
    return [traded_back(onto, site.inputs[0]) if site.memory["across"] else onto, *rest]


def weight(site: Site, gradient: Gradient) -> float:
    """ln E‖∂W‖² = ln(n_in·channels·N·G·q·[Σ n_t + Σ n_t(n_t − 1)·Gs·s + (N − 1)·(Σ n_t·Ge·e + Σ n_t(n_t − 1)·Gd·d)]):
    the gradient of a weight sums over samples and over the n_t positions that its tap joins, so it is a sum of
    correlated terms."""
    fan: Fan = site.memory["fan"]
    x: Signal = site.memory["x"]
    law = site.law()
    per_unit = 2.0 * log(law.per_unit) if law is not None else 0.0
    channels = site.memory["uneven"] = uneven(site, fan)
    behind: Gradient | None = site.memory.get("behind_norm")
    if behind is not None and channels.alone:
        return _lone_weight(site, fan, behind) + per_unit + channels.weight
    # In units of one tap: `steps` positions are joined by it.
    steps = fan.pairs / fan.links
    logs = math.log(fan.n_in * fan.channels * fan.links * x.batch)
    logs += math.log(coherence(x, gradient, steps, fan.fan_in))
    if x.lead and gradient.lead:
        (first, other), (given, rest), row = x.lead.kinds, gradient.lead.kinds, x.lead.row
        logs += log((first * given + (row - 1.0) * other * rest) / row)
    return logs + gradient.log_g + x.log_q + per_unit + channels.weight


def _lone_weight(site: Site, fan: Fan, behind: Gradient) -> float:
    """ln of Σ (Σ g·x̂)²/E w², g behind the norm and x̂ its output: one weight for each channel is the direction that the
    norm takes from the gradient, so that its part of that is told before it does (see `channelwise`)."""
    y, kept = site.output, site.output.kept
    normal = mapped(y, lambda d: min(d / kept, 2.0))
    variance, mean = weight_moments(site, "weight", 1.0)
    logs = math.log(fan.channels * y.batch * y.positions) + behind.log_g - math.log(variance + mean * mean)
    return logs + math.log(coherence(normal, behind, y.positions, 1.0))


def coherence(x: Signal, gradient: Gradient, positions: float, fan: float = math.inf) -> float:
    """1 + (P−1)·Gs·s + (N−1)·(Ge·e + (P−1)·Gd·d): what the sum over tokens is worth beyond independent terms, with e
    and d the correlations of two samples at one position and at two.

    Even unlike inputs add up along the one direction of `fan` that decides the activation: their component
    along the unit's own weight has mean E zφ′(z)/σ where the gradient passes (Stein), the `pull`.
    """
    s = gradient.s * x.s + gradient.pull_s * x.ds / fan
    (same, other), (given_same, given_other) = x.pairs, gradient.pairs(max(x.positions, positions))
    e = given_same * same + gradient.pull_c * x.same_position / fan
    d = given_other * other + gradient.pull_c * x.dc / fan
    bracket = 1.0 + (positions - 1.0) * s + (x.batch - 1.0) * (e + (positions - 1.0) * d)
    floor = max(1.0 - max(x.s if positions > 1 else x.c, x.c), 1e-6)
    return max(bracket, floor)


LINEAR = Transfer(forward, backward, weight)
