"""The model's inputs: the `--input` grammar, and tensors made after a spec."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "float": torch.float32,
    "float16": torch.float16,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "double": torch.float64,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int": torch.int32,
    "int64": torch.int64,
    "long": torch.int64,
    "bool": torch.bool,
    "complex64": torch.complex64,
}
_ITEM = re.compile(
    r"^(?:(?P<name>[A-Za-z_]\w*)=)?(?:(?P<dtype>[a-z]+\d*):)?(?P<shape>scalar|\d+(?:[x×]\d+)*)(?:<(?P<high>\d+))?$"
)


class InputSpecError(ValueError):
    """An input spec that cannot be read; the message is one line that quotes the part."""


@dataclass(frozen=True)
class InputSpec:
    """One tensor that the model is called with.

    `shape` with the batch first, `name` set for a keyword argument, `high` the number of ids, `law` "normal",
    "uniform01", "ids", "ones" (masks), "zeros", "lengths", or "value": no tensor but the plain `value`. `batch_axis`
    is None where no axis holds samples. `copies` asks for a tuple of that many such tensors (an LSTM's state).
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str | None = None
    high: int | None = None
    law: str = "normal"
    batch_axis: int | None = 0
    copies: int = 0
    value: Any = None

    def __str__(self) -> str:
        if self.law == "value":
            return f"{self.name}={self.value!r}" if self.name else repr(self.value)
        sizes = "x".join(map(str, self.shape)) or "scalar"
        dtype = "" if self.dtype == "float32" else f"{self.dtype}:"
        high = f"<{self.high}" if self.high is not None else ""
        return (f"{self.name}=" if self.name else "") + dtype + sizes + high

    def sized(self, batch: int) -> InputSpec:
        """The same with that many samples."""
        if self.batch_axis is None or self.batch_axis >= len(self.shape):
            return self
        shape = list(self.shape)
        shape[self.batch_axis] = batch
        return replace(self, shape=tuple(shape))

    def argument(self, device: str | torch.device, generator: torch.Generator | None = None) -> Any:
        """What the model is handed: a tensor, a tuple of them, or a plain value."""
        if self.law == "value":
            return self.value
        if self.copies:
            return tuple(self.tensor(device, generator) for _ in range(self.copies))
        return self.tensor(device, generator)

    def tensor(self, device: str | torch.device, generator: torch.Generator | None = None) -> Tensor:
        """A tensor of this shape, drawn by its law."""
        dtype = DTYPES[self.dtype]
        if torch.device(device).type == "meta":
            return torch.empty(self.shape, dtype=dtype, device="meta")
        if self.law == "lengths":
            made = torch.full(self.shape, self.high or 1, dtype=dtype)
        elif self.law == "zeros":
            made = torch.zeros(self.shape, dtype=dtype)
        elif dtype == torch.bool or self.law == "ones":
            made = torch.ones(self.shape, dtype=dtype)
        elif not dtype.is_floating_point and not dtype.is_complex:
            made = torch.randint(0, max(self.high or 2, 1), self.shape, generator=generator).to(dtype)
        elif self.law == "uniform01":
            made = torch.rand(self.shape, generator=generator).to(dtype)
        else:
            made = torch.randn(self.shape, generator=generator).to(dtype)
        return made.to(device)


@dataclass(frozen=True)
class ModelInput:
    """Everything a model is called with, in order; `nested` puts all of it into one dict argument.

    `as_list` puts the positional tensors into one list argument.
    """

    items: tuple[InputSpec, ...]
    nested: bool = False
    as_list: bool = False

    def __str__(self) -> str:
        return ", ".join(map(str, self.items)) or "no input"

    @property
    def batch_size(self) -> int | None:
        """The number of samples in the shapes."""
        return next(
            (i.shape[i.batch_axis] for i in self.items if i.batch_axis is not None and i.batch_axis < len(i.shape)),
            None,
        )

    def sized(self, batch: int) -> ModelInput:
        """The same with that many samples."""
        return replace(self, items=tuple(i.sized(batch) for i in self.items))

    def drawn_as(self, law: str | None, sample: Sequence[int] | None = None) -> ModelInput:
        """The same with images, and what has the size of one sample of the data set, drawn by that law."""
        if law is None:
            return self
        size = prod(sample) if sample else None

        def drawn(item: InputSpec) -> InputSpec:
            pixels = len(item.shape) == 4 and item.shape[1] in (1, 3, 4)
            fits = pixels or (size is not None and prod(item.shape[1:]) == size)
            return replace(item, law=law) if fits and item.law == "normal" else item

        return replace(self, items=tuple(drawn(i) for i in self.items))

    def arguments(self, device: str | torch.device = "meta", seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keyword arguments for the model; the global random state is left alone."""
        generator = torch.Generator().manual_seed(seed)
        made = [(i.name, i.argument(device, generator)) for i in self.items]
        if self.nested:
            return (dict(made),), {}
        args = tuple(t for name, t in made if name is None)
        kwargs = {name: t for name, t in made if name is not None}
        return (([*args],) if self.as_list else args), kwargs


def parse_spec(text: str) -> ModelInput:
    """Read "1x3x224x224, int64:1x128<30522, mask=bool:1x128".

    Raises InputSpecError.
    """
    items = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = _ITEM.match(part.replace(" ", ""))
        if found is None:
            raise InputSpecError(f"cannot read input `{part}`: write sizes as 1x3x224x224, ids as int64:1x128<30522")
        dtype = found["dtype"] or ("int64" if found["high"] else "float32")
        if dtype not in DTYPES:
            raise InputSpecError(f"input `{part}`: no dtype is called `{dtype}`")
        full = str(DTYPES[dtype]).removeprefix("torch.")
        shape = () if found["shape"] == "scalar" else tuple(int(s) for s in re.split("[x×]", found["shape"]))
        high = int(found["high"]) if found["high"] else None
        floating = DTYPES[dtype].is_floating_point
        law = "normal" if floating else "ones" if "mask" in (found["name"] or "") else "ids"
        items.append(InputSpec(shape, full, found["name"], high, law, 0 if shape else None))
    if not items:
        raise InputSpecError("empty input: write sizes as 1x3x224x224")
    return ModelInput(tuple(items))


def describe(args: Sequence[Any], kwargs: dict[str, Any]) -> ModelInput | None:
    """The spec of given arguments, or None where they are more than tensors."""
    items = []
    for name, value in [*((None, a) for a in args), *kwargs.items()]:
        if not isinstance(value, Tensor):
            return None
        dtype = str(value.dtype).removeprefix("torch.")
        law = "normal" if value.is_floating_point() else "ids"
        high = None
        if law == "ids" and value.dtype != torch.bool and value.device.type != "meta" and value.numel():
            high = int(value.max()) + 1
        items.append(InputSpec(tuple(value.shape), dtype, name, high, law, 0 if value.dim() else None))
    return ModelInput(tuple(items))
