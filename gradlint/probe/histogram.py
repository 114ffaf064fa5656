"""Histograms of absolute values with one bin a decade, of many tensors in one synchronisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradlint.probe.experiment import HISTOGRAM_DECADES
from gradlint.probe.norms import flat, stored
from gradlint.probe.statistics import coprime_stride

SAMPLE = 2048
"""Elements of a tensor that a histogram is made of: a share is then known to about 0.01."""


def shares_by_decade(tensors: Mapping[int, Tensor]) -> dict[int, tuple[float, ...]]:
    """The share of each tensor's elements in every bin (see `LayerMeasurement`), by the key it is given under.

    Tensors that are sparse, empty or not of real floating point are left out; of distributed ones the shard counts
    that this process holds.
    """
    samples: dict[tuple[torch.device, int], list[tuple[int, Tensor]]] = {}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.layout is torch.strided:
            values = flat(stored(tensor))
            values = values[:: coprime_stride(values.numel(), SAMPLE)] if values.numel() > SAMPLE else values
            if values.numel():
                samples.setdefault((values.device, values.numel()), []).append((key, values))
    found: dict[int, tuple[float, ...]] = {}
    for group in samples.values():
        rows = _shares([values for _, values in group])
        found |= {key: tuple(row) for (key, _), row in zip(group, rows, strict=True)}
    return found


def _shares(samples: Sequence[Tensor]) -> list[list[float]]:
    """The share of the elements of each sample in every bin; NaN counts as the largest. All are of one size."""
    low, high = HISTOGRAM_DECADES
    values = torch.stack([s.float() for s in samples]).abs_()
    edges = torch.tensor([10.0**e for e in range(low, high + 1)], device=values.device)
    # NaN sorts behind the last edge. Comparing bin by bin is deterministic on every device, scattering is not.
    bins = torch.bucketize(values, edges, right=True)
    shares = torch.stack([(bins == i).sum(1) for i in range(high - low + 2)], dim=1) / values.shape[1]
    rows: list[list[float]] = shares.tolist()
    return rows
