"""The values of what a forward computes from constants alone: position codes, rotary angles, masks.

On meta nothing has values. But what no input and no parameter enters can be computed beside the run, on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.graph.walk import OperationCall

MAX_ELEMENTS = 1 << 20
"""Larger constants are not computed: a causal mask over 1,024 tokens is that large."""

_VALUES = "_gradlint_values"
_FILLED = {"zeros_like": 0, "ones_like": 1, "new_zeros": 0, "new_ones": 1}
_SHAPED_AS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "expand_as": lambda values, result: values.expand(result.shape),
    "view_as": lambda values, result: values.reshape(result.shape),
    "reshape_as": lambda values, result: values.reshape(result.shape),
    "type_as": lambda values, result: values.to(result.dtype),
}
_BROKEN = {"isnan": False, "isinf": False, "isposinf": False, "isneginf": False, "isfinite": True}
"""Questions for values that are not finite: a network is read as it runs while its values are."""

_MADE = frozenset(
    ["arange", "linspace", "logspace", "zeros", "ones", "full", "eye", "tensor", "as_tensor", "tril_indices"]
)
_MADE |= frozenset(["triu_indices", "scalar_tensor", "asarray", "from_numpy", "range"])


_RANDOM = frozenset(["normal", "uniform", "bernoulli", "exponential", "geometric", "log_normal", "cauchy", "random"])
_RANDOM |= frozenset(["rand_like", "randn_like", "randint_like", "multinomial", "poisson", "rrelu"])


def keep_values(without_data: Tensor, values: Tensor) -> None:
    """Remember on a tensor that was moved to meta what it held, if it is small."""
    if values.numel() <= MAX_ELEMENTS and not values.is_meta:
        setattr(without_data, _VALUES, values.detach().clone())


def values_of(tensor: Tensor) -> Tensor | None:
    """What a tensor holds, if that depends on no input and no parameter; to be changed only as the tensor is."""
    found = tensor.__dict__.get(_VALUES)
    return found if isinstance(found, Tensor) else None


def forget_values(tensor: Tensor) -> None:
    """Take a tensor for one that depends on inputs or parameters from now on."""
    tensor.__dict__.pop(_VALUES, None)


def check_rows(call: OperationCall) -> None:
    """Look up indices in a table as a tensor with data would: on meta any index is in range, and may be a float.

    Raises IndexError for known ones (positions, mostly) beyond the last row, RuntimeError for floats.
    """
    match call.module, call.kind, call.op, call.args:
        case nn.Embedding() as table, _, _, (Tensor() as index, *_):
            rows = table.num_embeddings
        case None, "embedding", _, (Tensor() as index, Tensor() as table, *_):
            rows = table.shape[0]
        case None, _, "getitem", (Tensor() as table, Tensor() as index) if table.dim():
            rows = table.shape[0]
        case _:
            return
    if index.is_floating_point():
        raise RuntimeError(f"indices of a table have to be integers, not {index.dtype}")
    known = values_of(index)
    if known is None or not known.numel() or known.dtype is torch.bool:
        return
    furthest = int(known.max())
    if furthest >= rows:
        raise IndexError(f"index {furthest} is beyond the {rows} rows of a table")


class ConstantValues:
    """Computes along with a run whatever depends on constants alone."""

    def __init__(self, is_made: Callable[[Tensor], bool]) -> None:
        self._is_made = is_made

    def follow(self, call: OperationCall, results: list[Tensor]) -> None:
        """Do on the values what a call did on the tensors; `results` are the call's. Never raises."""
        try:
            found = self._computed(call, results)
        except Exception:
            found = []
        for tensor, values in zip(results, found or [None] * len(results), strict=False):
            if values is not None and values.shape == tensor.shape:
                setattr(tensor, _VALUES, values)
            else:
                forget_values(tensor)

    def _computed(self, call: OperationCall, results: list[Tensor]) -> list[Tensor]:
        if call.module is not None or call.kind == "dropout" or not results or results[0].numel() > MAX_ELEMENTS:
            return []
        func = getattr(call.func, "__name__", "")
        if func.rstrip("_") in _RANDOM:
            return []
        if func in _FILLED:
            return [torch.full(results[0].shape, _FILLED[func], dtype=results[0].dtype, device="cpu")]
        if func in _BROKEN:
            return [torch.full(results[0].shape, _BROKEN[func], device="cpu")]
        if not call.tensors and func not in _MADE:
            return []
        if func in _SHAPED_AS:
            # Of the other tensor only its shape or its type enters, which the result has.
            change = _SHAPED_AS[func]
            return [change(self._known(call.args[0]), results[0])]
        args, kwargs = self._with_values(call.args), self._with_values(call.kwargs)
        if not call.tensors or "device" in kwargs:
            kwargs["device"] = "cpu"
        with torch.no_grad():
            made = call.func(*args, **kwargs)
        if call.op == "setitem":
            made = args[0]
        return [made] if isinstance(made, Tensor) else [m for m in made if isinstance(m, Tensor)]

    def _with_values(self, value: Any) -> Any:
        match value:
            case nn.Parameter():
                raise ValueError("a parameter has no value yet")
            case Tensor():
                return self._known(value)
            case dict():
                return {k: self._with_values(v) for k, v in value.items()}
            case list() | tuple() if type(value) in (list, tuple):
                return type(value)(self._with_values(v) for v in value)
            case slice():
                return slice(*(self._with_values(v) for v in (value.start, value.stop, value.step)))
            case torch.device():
                return torch.device("cpu")
            case _:
                return value

    def _known(self, tensor: Tensor) -> Tensor:
        found = values_of(tensor)
        if found is not None:
            return found
        if tensor.device.type != "cpu" or tensor.requires_grad or self._is_made(tensor):
            raise ValueError("it depends on an input")
        keep_values(tensor, tensor)
        return tensor.__dict__[_VALUES]
