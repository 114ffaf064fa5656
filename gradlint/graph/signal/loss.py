"""The loss: where the backward walk starts, and the absolute scale of every gradient.

Targets are random: labels uniform over the classes, regression targets N(0, 1).
"""

from __future__ import annotations

import math

from gradlint.graph.model import Loss
from gradlint.graph.signal.elementwise import sigmoid
from gradlint.graph.signal.moments import Gradient, Signal, log
from gradlint.graph.signal.quadrature import even_grid, softmax_moments


def resolve(loss: Loss, output: Signal) -> tuple[str, str | None]:
    """(kind, note): an unknown loss counts as cross-entropy where there are two outputs or more."""
    if loss.kind in ("cross_entropy", "nll", "bce_with_logits", "bce", "mse", "l1", "smooth_l1"):
        return loss.kind, None
    if output.features >= 2.0:
        return "cross_entropy", f"loss {loss.kind}: cross-entropy on random labels assumed"
    return "mse", f"loss {loss.kind}: mean squared error assumed"


def start(kind: str, reduction: str, output: Signal) -> tuple[Gradient, float]:
    """(∂L/∂output, expected first loss) under the mean reduction, or the sum.

    Cross-entropy: G = (E p² + 1/K − 2/K²)/rows² with p the softmax of Gaussian logits; the part that two
    samples share, E p p′ − 1/K², enters Gc. MSE against N(0, 1): G = 4(q + 1)/M². Binary cross-entropy:
    G = E σ(z)²/M² plus what a biased logit adds.
    """
    q = math.exp(min(output.log_q, 700.0))
    rows = output.batch * output.positions
    if kind in ("cross_entropy", "nll"):
        k = output.features
        spread = math.exp(0.5 * min(output.log_q + log(max(1.0 - output.m**2 - output.f, 1e-12)), 40.0))
        peak, first = softmax_moments(round(k), round(spread, 3))
        square = peak / (k * k)
        energy = square + 1.0 / k - 2.0 / (k * k)
        common = max(square - 1.0 / (k * k), 0.0)
        weight = log(energy) - (0.0 if reduction == "sum" else 2.0 * math.log(rows))
        return Gradient(weight, common * output.s / energy, common * output.c / energy), first
    elements = output.size
    scale = 0.0 if reduction == "sum" else 2.0 * math.log(elements)
    if kind in ("bce_with_logits", "bce"):
        std = math.exp(0.5 * min(output.log_q, 40.0))
        square = math.fsum(w * sigmoid(std * u) ** 2 for u, w in even_grid(0.1))
        first = math.fsum(w * math.log1p(math.exp(-abs(std * u))) + w * max(std * u, 0.0) for u, w in even_grid(0.1))
        common = max(square - 0.25, 0.0)
        return Gradient(math.log(square) - scale, common * output.s / square, common * output.c / square), first
    if kind == "mse":
        share = q / (q + 1.0)
        return Gradient(math.log(4.0 * (q + 1.0)) - scale, share * output.s, share * output.c), q + 1.0
    first = math.sqrt(2.0 * (q + 1.0) / math.pi)
    share = q / (q + 1.0)
    return Gradient(-scale, share * output.s, share * output.c), first
