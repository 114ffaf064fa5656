"""Whole numbers in a NumPy array, such as the sizes of a network's layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex, overload


class WholeNumbers(list[int]):
    """A list whose arithmetic goes element by element and whose slices are of its kind."""

    @property
    def shape(self) -> tuple[int]:
        """As of an array of one axis."""
        return (len(self),)

    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> WholeNumbers: ...
    def __getitem__(self, index: SupportsIndex | slice) -> int | WholeNumbers:
        found = super().__getitem__(index)
        return WholeNumbers(found) if isinstance(found, list) else found


def whole_numbers(data: Any) -> WholeNumbers | None:
    """What `numpy.array(data)` holds where that is a flat sequence of integers."""
    if not isinstance(data, (list, tuple, range)) or not data:
        return None
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in data):
        return None
    return WholeNumbers(data)


def combined(function: Callable[[Any, Any], Any], left: Any, right: Any) -> list[Any] | None:
    """An operator on such an array and another one or a number; None for anything else."""
    size = len(left) if isinstance(left, WholeNumbers) else len(right)
    sides = []
    for side in (left, right):
        if isinstance(side, (int, float)):
            sides.append([side] * size)
        elif isinstance(side, list) and len(side) == size:
            sides.append(side)
        else:
            return None
    found = [function(a, b) for a, b in zip(*sides, strict=True)]
    return whole_numbers(found) or found
