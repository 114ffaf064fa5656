"""Euclidean norms of many tensors in one synchronisation, without a copy of any of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SAFE_NORMS = (1e-14, 1e15)
"""Norms that float32 gives to full accuracy: no square that matters vanishes below or overflows above."""

CHUNK = 1 << 20
"""Elements that are summed, or turned into float64, at a time: no second copy of a tensor, no long float32 sum."""

NARROW = frozenset({torch.float16, torch.bfloat16})


def precise(device: torch.device) -> torch.dtype:
    """float64, in which squares of float32's smallest and largest numbers neither vanish nor overflow."""
    return torch.float32 if device.type == "mps" else torch.float64


def norms(tensors: Sequence[Tensor]) -> list[float]:
    """‖t‖ of what this process holds of each tensor, read in one transfer for each device.

    Those that float32 cannot square are read again in float64, in a second one.
    """
    parts = [stored(t) for t in tensors]
    found = read([quick(p) for p in parts])
    again = [i for i, norm in enumerate(found) if not SAFE_NORMS[0] < norm < SAFE_NORMS[1] and parts[i].numel()]
    for i, norm in zip(again, read([careful(parts[i]) for i in again]), strict=True):
        found[i] = norm
    return found


def stored(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its shard of a distributed one, the values of a sparse one."""
    local = getattr(tensor, "to_local", None)
    if local is not None:
        tensor = local()
    tensor = tensor.detach()
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def quick(tensor: Tensor) -> Tensor:
    """The norm as a scalar on the device, in the tensor's own type (float32 for narrower ones).

    One long sum in float32 would be off by a thousandth, so it is made chunk by chunk.
    """
    return _by_chunk(tensor, torch.float32 if tensor.dtype in NARROW else None)


def careful(tensor: Tensor) -> Tensor:
    """The norm as a scalar on the device, squared in float64."""
    return _by_chunk(tensor, None if tensor.is_complex() else precise(tensor.device))


def _by_chunk(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if tensor.numel() <= CHUNK:
        return torch.linalg.vector_norm(tensor, dtype=dtype)
    chunks = flat(tensor).split(CHUNK)
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(c, dtype=dtype) for c in chunks]))


def flat(tensor: Tensor) -> Tensor:
    """All elements in one dimension, in the order of memory (channels-last too) where that has no gaps: no copy."""
    if tensor.is_contiguous() or tensor.layout is not torch.strided:
        return tensor.reshape(-1)
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return tensor.reshape(-1)
        expected *= size
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def read(scalars: Sequence[Tensor]) -> list[float]:
    """Real scalars as floats; one transfer for each device."""
    answer = [math.nan] * len(scalars)
    devices: dict[torch.device, list[int]] = {}
    for i, scalar in enumerate(scalars):
        devices.setdefault(scalar.device, []).append(i)
    for device, indices in devices.items():
        together = torch.stack([scalars[i].to(precise(device)) for i in indices])
        for i, value in zip(indices, together.tolist(), strict=True):
            answer[i] = value
    return answer
