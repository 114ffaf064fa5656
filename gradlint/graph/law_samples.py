"""Small real samples that stand for parameters without data, while arithmetic is done on these."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlint.graph.model import InitLaw

SAMPLE = 1024
"""Elements in the real sample that stands for a parameter while arithmetic is done on it."""

_NOISE = 1e-3
"""Share of a standard deviation that the mean of a sample in quantiles may be off by."""


def drawn_sample(law: InitLaw, random: torch.Generator) -> Tensor:
    """Numbers that follow a law: its quantiles in random order, so that their mean is the law's and not chance's.

    Raises ValueError where the spread is not known."""
    if law.std is None or law.mean is None:
        raise ValueError("this law has no known spread")
    if law.distribution == "constant":
        return torch.full((SAMPLE,), law.mean, dtype=torch.float64, device="cpu")
    order = torch.randperm(SAMPLE, generator=random, device="cpu")
    even = (2.0 * order.to(torch.float64) + 1.0) / SAMPLE - 1.0
    shape = even if law.distribution == "uniform" else torch.erfinv(even)
    return law.mean + law.std * shape / shape.square().mean().sqrt()


def transformed(law: InitLaw, before: Tensor | None, after: Tensor) -> InitLaw:
    """The law after arithmetic: exact where only scale and place changed, else measured on the sample."""
    measured = law_of_sample(after)
    if before is None or law.std is None or law.mean is None or len(before) != len(after) or not law.std:
        return measured
    centred = before - before.mean()
    factor = float((centred * (after - after.mean())).sum() / (centred**2).sum())
    offset = float(after.mean() - factor * before.mean())
    if float((after - factor * before - offset).abs().max()) > 1e-6 * (abs(factor) + abs(offset)):
        return measured
    return InitLaw(law.distribution, factor * law.mean + offset, abs(factor) * law.std)


def law_of_sample(sample: Tensor, noise: float = _NOISE) -> InitLaw:
    """Mean and std of numbers; a mean below `noise` standard deviations is zero."""
    values = sample.detach().double().flatten()
    if not values.numel():
        return InitLaw("constant", 0.0, 0.0)
    mean, std = float(values.mean()), float(values.std(unbiased=False)) if values.numel() > 1 else 0.0
    if not math.isfinite(mean) or not math.isfinite(std):
        return InitLaw("unknown")
    mean = 0.0 if abs(mean) <= noise * std else mean
    return InitLaw("constant" if std <= 1e-12 * (1 + abs(mean)) else "other", mean, std)


def measured_law(tensor: Tensor) -> InitLaw:
    """Mean and std of a real tensor's elements; unknown for one on meta."""
    if tensor.is_meta:
        return InitLaw("unknown")
    values = subsample(tensor, limit=1 << 20)
    return law_of_sample(values, 3.0 / math.sqrt(max(len(values), 1)))


def subsample(tensor: Tensor, random: torch.Generator | None = None, limit: int = SAMPLE) -> Tensor:
    """At most `limit` elements in double precision: evenly spaced, or drawn."""
    with torch.no_grad():
        flat = tensor.detach().reshape(-1).to("cpu", torch.float64)
        if random is not None:
            return flat[torch.randint(len(flat), (limit,), generator=random)]
        return flat[:: max(1, len(flat) // limit)][:limit]
