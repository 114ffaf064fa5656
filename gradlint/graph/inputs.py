"""What a model is called with: tensors, alone or in lists, tuples and dicts, by shape, type and law."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

DTYPES = {
    "float": "float32",
    "float16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "float32": "float32",
    "float64": "float64",
    "double": "float64",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "int32": "int32",
    "int": "int32",
    "int64": "int64",
    "long": "int64",
    "bool": "bool",
    "complex64": "complex64",
}
"""Names of types that a spec may hold, and what torch calls them."""

LAW_DTYPES = {"boxes": "float32", "keypoints": "float32", "adjacency": "float32", "lengths": "int64"}
"""Laws that a tensor's type says nothing of, and the dtype that they have: written in its place."""


NEIGHBOURS = 4
"""Edges of a node of an invented graph."""


@dataclass(frozen=True)
class InputSpec:
    """One tensor that the model is called with.

    `shape` with the batch first, `name` set for a keyword argument, `high` the number of ids, `law` "normal",
    "uniform01", "ids", "ones" (masks), "zeros", "lengths" (all `high`), "adjacency" (rows that take the mean of a node
    and of `NEIGHBOURS` others), "boxes" (rows x0, y0, x1, y1 in an image of `high` pixels a side), "keypoints" (rows x,
    y, visible), or "value": no tensor but the plain `value`. `batch_axis` is None where no axis holds samples.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str | None = None
    high: int | None = None
    law: str = "normal"
    batch_axis: int | None = 0
    value: Any = None

    def __str__(self) -> str:
        prefix = f"{self.name}=" if self.name else ""
        if self.law == "value":
            bare = self.value is None or isinstance(self.value, (bool, str))
            return prefix + (repr(self.value) if bare else f"value:{self.value!r}")
        sizes = "x".join(str(int(s)) for s in self.shape) or "scalar"
        dtype = f"{self.law if self.law in LAW_DTYPES else self.dtype}:".replace("float32:", "")
        return prefix + dtype + sizes + (f"<{self.high}" if self.high is not None else "")

    def sized(self, batch: int) -> InputSpec:
        """The same with that many samples."""
        if self.batch_axis is None or self.batch_axis >= len(self.shape):
            return self
        shape = list(self.shape)
        shape[self.batch_axis] = batch
        return replace(self, shape=tuple(shape))

    @property
    def batch_size(self) -> int | None:
        """The number of samples in the shape."""
        inside = self.batch_axis is not None and self.batch_axis < len(self.shape)
        return self.shape[self.batch_axis] if inside and self.batch_axis is not None else None

    @property
    def is_image(self) -> bool:
        """Whether the size is that of pixels, with a batch or without."""
        rank = 4 if self.batch_axis is not None else 3
        return len(self.shape) == rank and self.shape[rank - 3] in (1, 3, 4)

    def mapped(self, change: Callable[[InputSpec], InputSpec]) -> InputSpec:
        """The same changed."""
        return change(self)

    def tensors(self) -> Iterator[InputSpec]:
        """Itself, unless it is a plain value."""
        if self.law != "value":
            yield self


@dataclass(frozen=True)
class InputGroup:
    """Several things in one argument.

    `kind` is "list", "tuple", "dict" (every item has a name), or "samples": a list of `count` entries, one a sample,
    each made after the one item.
    """

    items: tuple[Argument, ...]
    kind: str = "list"
    name: str | None = None
    count: int = 0

    def __str__(self) -> str:
        inside = f"{self.count}*{self.items[0]}" if self.kind == "samples" else ", ".join(map(str, self.items))
        brackets = {"dict": ("{", "}"), "tuple": ("(", ")")}.get(self.kind, ("[", "]"))
        return (f"{self.name}=" if self.name else "") + brackets[0] + inside + brackets[1]

    def sized(self, batch: int) -> InputGroup:
        """The same with that many samples."""
        if self.kind == "samples":
            return replace(self, count=batch)
        return replace(self, items=tuple(i.sized(batch) for i in self.items))

    @property
    def batch_size(self) -> int | None:
        """The number of samples."""
        return self.count if self.kind == "samples" else _batch_size(self.items)

    def mapped(self, change: Callable[[InputSpec], InputSpec]) -> InputGroup:
        """The same with every tensor inside changed."""
        return replace(self, items=tuple(i.mapped(change) for i in self.items))

    def tensors(self) -> Iterator[InputSpec]:
        """The tensors in the order in which the model is handed them."""
        for _ in range(self.count if self.kind == "samples" else 1):
            for item in self.items:
                yield from item.tensors()


Argument: TypeAlias = InputSpec | InputGroup


@dataclass(frozen=True)
class ModelInput:
    """Everything a model is called with, in order; arguments with a name are handed over by keyword."""

    items: tuple[Argument, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.items)) or "no input"

    @property
    def batch_size(self) -> int | None:
        """The number of samples in the shapes."""
        return _batch_size(self.items)

    def sized(self, batch: int) -> ModelInput:
        """The same with that many samples."""
        return replace(self, items=tuple(i.sized(batch) for i in self.items))

    def specs(self) -> tuple[InputSpec, ...]:
        """The tensors and values in the arguments, those of every sample once."""
        found: list[InputSpec] = []

        def noted(spec: InputSpec) -> InputSpec:
            found.append(spec)
            return spec

        self.mapped(noted)
        return tuple(found)

    def tensors(self) -> tuple[InputSpec, ...]:
        """The tensors in the order in which the model is handed them."""
        return tuple(t for item in self.items for t in item.tensors())

    def mapped(self, change: Callable[[InputSpec], InputSpec]) -> ModelInput:
        """The same with every tensor and value changed."""
        return replace(self, items=tuple(i.mapped(change) for i in self.items))

    def with_spec(self, position: int, spec: InputSpec) -> ModelInput:
        """The same with another tensor at a position of `specs`."""
        count = iter(range(1 << 30))
        return self.mapped(lambda old: spec if next(count) == position else old)

    def drawn_as(self, law: str | None, sample: Sequence[int] | None = None) -> ModelInput:
        """The same with images, and what has the size of one sample of the data set, drawn by that law."""
        if law is None:
            return self
        size = prod(sample) if sample else None

        def drawn(item: InputSpec) -> InputSpec:
            fits = item.is_image or (size is not None and prod(item.shape[1:]) == size)
            return replace(item, law=law) if fits and item.law == "normal" else item

        return self.mapped(drawn)


def _batch_size(items: Sequence[Argument]) -> int | None:
    return next((size for item in items if (size := item.batch_size) is not None), None)
