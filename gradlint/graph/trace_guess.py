"""What a tensor without data is taken to hold, where a model asks for its values and may not be run for real."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradlint.graph.walk import OperationCall

_VALUE_ERRORS = ("meta tensor", "Meta", "data-dependent", "meta device", "'meta'", "no data", "aten::nonzero")


def needs_values(error: Exception) -> bool:
    """Whether an operation failed for want of data."""
    text = str(error)
    return any(part in text for part in _VALUE_ERRORS) or isinstance(error, NotImplementedError)


def guess_value(name: str, tensor: Tensor) -> Any:
    """What a tensor without data answers where its value is asked for: False, 1, ones."""
    match name:
        case "__bool__":
            return False
        case "tolist":
            return _nested(tuple(tensor.shape))
        case "numpy":
            return torch.ones(tensor.shape).numpy()
        case "__float__":
            return 1.0
        case "item" if tensor.is_floating_point():
            return 1.0
        case "__complex__":
            return 1 + 0j
        case _:
            return 1


def _nested(shape: tuple[int, ...]) -> Any:
    return 1 if not shape else [_nested(shape[1:]) for _ in range(shape[0])]


def guess_output(call: OperationCall) -> Any:
    """A result of the largest shape that a data-dependent operation can have, or None if there is no guess."""
    tensors = call.tensors
    if not tensors:
        return None
    first = tensors[0]
    match call.op:
        case "nonzero" | "argwhere":
            count, width = first.numel(), max(first.dim(), 1)
            if call.kwargs.get("as_tuple"):
                return tuple(first.new_empty(count, dtype=torch.int64) for _ in range(width))
            return first.new_empty((count, width), dtype=torch.int64)
        case "where" if len(tensors) == 1:
            return tuple(first.new_empty(first.numel(), dtype=torch.int64) for _ in range(max(first.dim(), 1)))
        case "masked_select":
            return first.new_empty(first.numel())
        case "getitem":
            mask = tensors[-1]
            if mask.dtype == torch.bool and mask.dim() <= first.dim():
                return first.new_empty((mask.numel(), *first.shape[mask.dim() :]))
            return None
        case "nms" | "batched_nms":
            return torch.arange(first.shape[0], device=first.device)
        case "unique" | "unique_consecutive":
            return first.new_empty(first.numel())
        case "bincount":
            return first.new_empty(int(call.kwargs.get("minlength", 1)) or 1, dtype=torch.int64)
        case "repeat_interleave":
            return first.new_empty(first.shape)
        case _:
            return None
