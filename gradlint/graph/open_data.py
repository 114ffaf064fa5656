"""Tensors that a script makes of data that are not there: they have as many axes as the script asks for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gradlint.graph.stubs import Unknown, unpacked


class OpenData(Tensor):
    """Zeros in place of data; an axis that they have not has an invented size: `X.shape[1]` is a number of features."""

    @property
    def shape(self) -> Any:
        """The sizes that are there, and behind them invented ones."""
        return OpenShape(super().shape)

    def size(self, dim: int | None = None) -> Any:
        """See `Tensor.size`."""
        return self.shape if dim is None else self.shape[dim]


class OpenShape(tuple[int, ...]):
    """The sizes of data, of which more may be asked than there are."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int) and key >= len(self):
            return Unknown("features")
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Any]:
        wanted = unpacked(sys._getframe(1)) or 0
        yield from super().__iter__()
        yield from [Unknown("features")] * (wanted - len(self))


def open_data(value: Unknown) -> Tensor:
    """Data of which only a name is known, as many as its invented length."""
    return torch.zeros(int(value)).as_subclass(OpenData)
