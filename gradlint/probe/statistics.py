"""Statistics of activations and gradients that stay on the device until one synchronisation reads them all.

A tensor is seen as a matrix: samples along its batch axis × everything else. Either all of it is reduced at once,
or a sample of the columns is copied and reduced later together with others of its shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gradlint.probe.norms import CHUNK, SAFE_NORMS, precise, quick, read

BUDGET = 1 << 14
"""Elements up to which a tensor is looked at as a whole where speed matters; of larger ones, about as many."""

HELD = 1 << 20
"""Sampled elements that are kept before they are reduced."""

SATURATED_TANH = 0.97
"""|tanh x| above this is its flat part: the slope is below 0.06."""

SATURATED_SIGMOID = 0.03
"""A sigmoid within this of 0 or 1 is in its flat part: the slope is below 0.03."""

_FLAT_PARTS = {
    "tanh": (-SATURATED_TANH, SATURATED_TANH),
    "softsign": (-SATURATED_TANH, SATURATED_TANH),
    "sigmoid": (SATURATED_SIGMOID, 1 - SATURATED_SIGMOID),
    "hardsigmoid": (SATURATED_SIGMOID, 1 - SATURATED_SIGMOID),
}


def flat_part(op: str, minimum: float = -1.0, maximum: float = 1.0) -> tuple[float, float] | None:
    """(low, high): outputs outside are in the flat part of the activation; None where it has none to count.

    `minimum` and `maximum` are those of hardtanh.
    """
    if op == "hardtanh":
        margin = (1 - SATURATED_TANH) * (maximum - minimum) / 2
        return minimum + margin, maximum - margin
    return _FLAT_PARTS.get(op)


class Moments(NamedTuple):
    """Sums over a tensor seen as samples × columns, scaled up from the sample to the whole.

    `total` Σx, `square` Σx², `column_square` Σ_columns (Σ_samples x)², `outside` the count of elements outside
    (low, high), `elements` the number of elements, `samples` how many samples were looked at.
    """

    total: float
    square: float
    column_square: float
    outside: float
    elements: int
    samples: int

    @property
    def mean(self) -> float:
        """Mean over all elements."""
        return self.total / self.elements

    @property
    def std(self) -> float:
        """Standard deviation over all elements."""
        mean = self.mean
        variance = self.square / self.elements - mean * mean
        return math.sqrt(variance) if variance > 0 else (0.0 if variance <= 0 else math.nan)

    @property
    def norm(self) -> float:
        """Euclidean norm of the whole tensor."""
        return math.sqrt(self.square)

    def with_norm(self, norm: float) -> Moments:
        """The same with the norm known better; the sums over a sample are scaled to it."""
        factor = norm * norm / self.square if self.square else 0.0
        return self._replace(square=norm * norm, column_square=self.column_square * factor)

    def scaled(self, factor: float) -> Moments:
        """Those of the tensor times a number; what lay outside a range is not known to do so any more."""
        square = factor * factor
        return self._replace(
            total=self.total * factor, square=self.square * square, column_square=self.column_square * square
        )

    @property
    def distinct(self) -> float | None:
        """1 − c over pairs of different samples at the same position; None for a single sample or all zeros."""
        if self.samples < 2 or not self.square > 0 or math.isinf(self.square):
            return None
        n = self.samples
        return max(0.0, (n * self.square - self.column_square) / ((n - 1) * self.square))


@dataclass
class _Held:
    key: str
    matrix: Tensor
    flat: tuple[float, float] | None
    count: int
    scale: float


class Ledger:
    """Collects statistics by key; `read` brings them to the host in one synchronisation.

    `budget` is how many elements of a tensor are looked at, None for all.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self._held: list[_Held] = []
        self._held_elements = 0
        self._sums: list[Tensor] = []
        self._of: list[tuple[str, int, int, float]] = []
        self._silent: list[tuple[str, Tensor]] = []
        self._norms: list[tuple[str, Tensor]] = []

    def gradient(self, key: str, tensor: Tensor, batch_axis: int | None = 0) -> None:
        """Note the moments of a gradient under `key`, its norm from all elements: a few may carry most of it."""
        self.moments(key, tensor, batch_axis)
        if self.budget is not None and tensor.numel() > self.budget:
            self._norms.append((key, quick(tensor.detach())))

    def moments(
        self, key: str, tensor: Tensor, batch_axis: int | None = 0, flat: tuple[float, float] | None = None
    ) -> None:
        """Note the moments of a floating-point tensor under `key`; `flat` is the range that counts as unsaturated."""
        tensor = tensor.detach()
        count = tensor.numel()
        if not count:
            return
        if self.budget is None:
            matrix = _matrix(tensor, batch_axis)
            self._sums.append(_reduce_all(matrix, flat))
            self._of.append((key, count, matrix.shape[0], 1.0))
            return
        matrix = sample(tensor, batch_axis, self.budget)
        self._held.append(_Held(key, matrix, flat, count, count / matrix.numel()))
        self._held_elements += matrix.numel()
        if self._held_elements > HELD:
            self._flush()

    def dead(self, key: str, tensor: Tensor, feature_axis: int) -> None:
        """Note the share of units that are 0 for every sample and position, of a tensor that is nowhere negative.

        Always looks at all elements: a unit is dead only if none of them is positive.
        """
        tensor = tensor.detach()
        if not tensor.numel():
            return
        axis = feature_axis % tensor.dim() if tensor.dim() else 0
        others = [d for d in range(tensor.dim()) if d != axis]
        highest = tensor.amax(dim=others) if others else tensor
        self._silent.append((key, highest == 0))

    def _flush(self) -> None:
        groups: dict[tuple[torch.Size, torch.device, torch.dtype], list[_Held]] = {}
        for held in self._held:
            groups.setdefault((held.matrix.shape, held.matrix.device, held.matrix.dtype), []).append(held)
        for group in groups.values():
            self._sums.extend(_reduce_group(group))
            self._of.extend((h.key, h.count, h.matrix.shape[0], h.scale) for h in group)
        self._held.clear()
        self._held_elements = 0

    def read(self) -> Readings:
        """All moments and which units are dead, by key."""
        self._flush()
        moments: dict[str, Moments] = {}
        for (key, count, samples, scale), row in zip(self._of, _to_host(self._sums), strict=True):
            total, square, columns, outside = (value * scale for value in row)
            moments[key] = Moments(total, square, columns, outside, count, samples)
        for (key, _), norm in zip(self._norms, read([norm for _, norm in self._norms]), strict=True):
            # Infinite, but small in the sample: an element is infinite, or so large that it might as well be.
            broken = math.isnan(norm) or (math.isinf(norm) and moments[key].norm < SAFE_NORMS[1])
            if broken or SAFE_NORMS[0] < norm < SAFE_NORMS[1]:
                moments[key] = moments[key].with_norm(norm)
        return Readings(moments, dict(self._silent))


@dataclass(frozen=True)
class Readings:
    """What a ledger holds: moments by key, and for each unit of a rectifier whether it was 0 throughout."""

    moments: dict[str, Moments]
    silent: dict[str, Tensor]

    def dead(self) -> dict[str, float]:
        """The share of silent units by key; one transfer for each device."""
        shares = read([flags.to(torch.float32).mean() for flags in self.silent.values()])
        return dict(zip(self.silent, shares, strict=True))


def _to_host(rows: list[Tensor]) -> list[list[float]]:
    """Rows of equal length as lists; one transfer for each device."""
    if not rows:
        return []
    devices: dict[torch.device, list[int]] = {}
    for i, row in enumerate(rows):
        devices.setdefault(row.device, []).append(i)
    answer: list[list[float]] = [[] for _ in rows]
    for indices in devices.values():
        for i, values in zip(indices, torch.stack([rows[i] for i in indices]).tolist(), strict=True):
            answer[i] = values
    return answer


def _matrix(tensor: Tensor, batch_axis: int | None) -> Tensor:
    """The tensor as samples × everything else; a view where its memory allows."""
    if tensor.dim() == 0:
        return tensor.reshape(1, 1)
    if batch_axis is None or not -tensor.dim() <= batch_axis < tensor.dim():
        return tensor.reshape(1, -1)
    if batch_axis % tensor.dim():
        tensor = tensor.movedim(batch_axis, 0)
    elif tensor.is_contiguous():
        return tensor.view(tensor.shape[0], -1)
    dense = _dense_columns(tensor)
    if dense is not None:
        return dense
    return tensor.reshape(tensor.shape[0], -1)


def _dense_columns(tensor: Tensor) -> Tensor | None:
    """Samples × columns in memory order (channels-last too) without a copy; None if the memory has gaps."""
    inner = [(stride, size) for stride, size in zip(tensor.stride()[1:], tensor.shape[1:], strict=True) if size > 1]
    expected = 1
    for stride, size in sorted(inner):
        if stride != expected:
            return None
        expected *= size
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        return None
    return tensor.as_strided((tensor.shape[0], expected), (tensor.stride(0), 1), tensor.storage_offset())


def coprime_stride(length: int, wanted: int) -> int:
    """The smallest stride that leaves at most `wanted` of `length` elements and shares no factor with it.

    A stride with a common factor would keep visiting the same rows or channels.
    """
    stride = max(1, -(-length // max(1, wanted)))
    while math.gcd(stride, length) != 1:
        stride += 1
    return stride


def sample(tensor: Tensor, batch_axis: int | None, budget: int) -> Tensor:
    """A copy of at most about `budget` elements as samples × columns, evenly over the tensor."""
    matrix = _matrix(tensor, batch_axis)
    rows, columns = matrix.shape
    column_stride = coprime_stride(columns, budget // rows) if columns * rows > budget else 1
    kept = -(-columns // column_stride)
    row_stride = coprime_stride(rows, budget // kept) if kept * rows > 2 * budget else 1
    return matrix[::row_stride, ::column_stride].clone(memory_format=torch.contiguous_format)


def _reduce_all(matrix: Tensor, flat: tuple[float, float] | None) -> Tensor:
    """[Σx, Σx², Σ_columns(Σ_samples x)², #outside] of a whole matrix, converted chunk by chunk."""
    width = max(1, CHUNK // matrix.shape[0])
    if matrix.shape[1] <= width:
        return _reduce(matrix.unsqueeze(0), flat)[0]
    parts: Iterable[Tensor] = (_reduce(part.unsqueeze(0), flat)[0] for part in matrix.split(width, dim=1))
    return torch.stack(list(parts)).sum(0)


def _reduce_group(group: list[_Held]) -> list[Tensor]:
    if len({h.flat for h in group}) == 1:
        return list(_reduce(torch.stack([h.matrix for h in group]), group[0].flat))
    rows = list(_reduce(torch.stack([h.matrix for h in group]), None))
    for i, held in enumerate(group):
        if held.flat is not None:
            rows[i] = _reduce(held.matrix.unsqueeze(0), held.flat)[0]
    return rows


def _reduce(stack: Tensor, flat: tuple[float, float] | None) -> Tensor:
    """As `_reduce_all` for a stack of matrices of one shape: (count, samples, columns) → (count, 4)."""
    wide = stack.to(precise(stack.device))
    columns = wide.sum(1)
    total = columns.sum(1)
    column_square = torch.linalg.vecdot(columns, columns)
    everything = wide.flatten(1)
    square = torch.linalg.vecdot(everything, everything)
    if flat is None:
        outside = torch.zeros_like(total)
    else:
        outside = ((stack < flat[0]) | (stack > flat[1])).flatten(1).sum(1).to(total.dtype)
    return torch.stack([total, square, column_square, outside], dim=1)
