"""How far the first step of an optimizer would move each parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from gradlint.probe.norms import flat, quick, stored
from gradlint.probe.replay import Recipe
from gradlint.probe.statistics import coprime_stride

ELEMENTWISE = frozenset(
    ["SGD", "ASGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop"]
)
"""Optimizers of torch that move every element by its own gradient alone: a sample of elements shows the step."""


TOGETHER = 1 << 20
"""Elements that are stepped at a time: an optimizer for each parameter would take longer than its step."""


def update_norms(pairs: Sequence[tuple[Tensor, Tensor]], recipe: Recipe, budget: int | None = None) -> list[Tensor]:
    """‖Δw‖ of the first optimizer step, as scalars on the device, for pairs of a parameter and its gradient.

    Of parameters with more than `budget` elements about as many are stepped where the optimizer is elementwise. Raises
    UnknownOptimizerError.
    """
    most = budget if recipe.algorithm in ELEMENTWISE else None
    steps: list[Tensor] = []
    group: list[tuple[Tensor, Tensor, float]] = []
    held = 0
    for parameter, gradient in pairs:
        group.append(_part(stored(parameter), stored(gradient.to_dense() if gradient.is_sparse else gradient), most))
        held += group[-1][0].numel()
        if held > TOGETHER:
            steps += _stepped(group, recipe)
            group, held = [], 0
    return steps + _stepped(group, recipe)


def _part(weights: Tensor, slopes: Tensor, most: int | None) -> tuple[Tensor, Tensor, float]:
    """The elements of a parameter to step, their gradients, and what the norm over them is multiplied by."""
    whole = weights.numel()
    if most is None or whole <= most:
        return weights, slopes, 1.0
    stride = coprime_stride(whole, most)
    alike = weights.stride() == slopes.stride()
    weights, slopes = ((flat(t) if alike else t.reshape(-1))[::stride] for t in (weights, slopes))
    return weights, slopes, math.sqrt(whole / weights.numel())


def _stepped(group: Sequence[tuple[Tensor, Tensor, float]], recipe: Recipe) -> list[Tensor]:
    """The norms of the step of each of a group's parameters, which are stepped on a copy."""
    copies = []
    for weights, slopes, _ in group:
        copy = weights.clone().requires_grad_()
        copy.grad = slopes.to(copy.dtype) if slopes.dtype != copy.dtype else slopes
        copies.append(copy)
    if copies:
        recipe.build(copies).step()
    return [quick(copy.detach() - weights) * scale for copy, (weights, _, scale) in zip(copies, group, strict=True)]
