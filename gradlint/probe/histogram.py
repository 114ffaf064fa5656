"""Histograms of absolute values with one bin a decade, of many tensors in one synchronisation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from gradlint.probe.experiment import HISTOGRAM_DECADES
from gradlint.probe.statistics import coprime_stride

SAMPLE = 4096
"""Elements of a tensor that a histogram is made of: a share is then known to about 0.01."""


def shares_by_decade(tensors: Mapping[int, Tensor]) -> dict[int, tuple[float, ...]]:
    """The share of each tensor's elements in every bin (see `LayerMeasurement`), by the key it is given under.

    Tensors that are sparse, distributed, empty or not of real floating point are left out.
    """
    usable = {
        key: t.detach()
        for key, t in tensors.items()
        if t.numel() and t.is_floating_point() and t.layout is torch.strided and not hasattr(t, "full_tensor")
    }
    devices: dict[torch.device, list[int]] = {}
    for key, tensor in usable.items():
        devices.setdefault(tensor.device, []).append(key)
    found = {}
    low, high = HISTOGRAM_DECADES
    for device, keys in devices.items():
        edges = torch.tensor([10.0**e for e in range(low, high + 1)], device=device)
        rows = torch.stack([_below(usable[key], edges) for key in keys]).tolist()
        for key, (*counts, total) in zip(keys, rows, strict=True):
            bounds = [0.0, *counts, total]
            found[key] = tuple((b - a) / total for a, b in pairwise(bounds))
    return found


def _below(tensor: Tensor, edges: Tensor) -> Tensor:
    """How many elements of a sample lie below each edge, and how many there are; NaN counts as the largest."""
    flat = tensor.reshape(-1)
    stride = coprime_stride(flat.numel(), SAMPLE) if flat.numel() > SAMPLE else 1
    # Sorting is deterministic on every device, counting into bins is not.
    values = flat[::stride].float().abs().sort().values
    counts = torch.searchsorted(values, edges)
    return torch.cat([counts, counts.new_full((1,), values.numel())]).to(torch.float32)
