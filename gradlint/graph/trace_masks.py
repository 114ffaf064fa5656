"""What a mask of known values leaves visible: how many keys an average of an attention runs over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradlint.graph.trace_constants import values_of
from gradlint.graph.walk import OperationCall

_HIDES = -50.0
"""What is added to a score to hide its key: the softmax then gives it less than 1e-20."""


def shares(visible: Tensor) -> dict[str, float]:
    """`visible`: the mean over rows of 1/visible keys, which is Σp² of even weights. `shared`: Σ p p′ of two rows."""
    if visible.dim() < 2 or visible.shape[-1] < 2:
        return {}
    with torch._C.DisableTorchFunction(), torch.no_grad():
        rows = visible.detach().double().flatten(0, -3) if visible.dim() > 2 else visible.detach().double()[None]
        rows = rows / rows.sum(-1, keepdim=True).clamp(min=1.0)
        square, count = rows.square().sum(-1), rows.shape[-2]
        if count == 1:
            return {"visible": float(square.mean()), "shared": float(square.mean())}
        pairs = rows.sum(-2).square().sum(-1) - square.sum(-1)
        return {"visible": float(square.mean()), "shared": float(pairs.mean()) / (count * (count - 1))}


def added_mask(values: Tensor) -> dict[str, Any]:
    """What a tensor says that is added to scores and hides some keys; nothing where it is no mask."""
    hidden = values <= _HIDES
    if not bool(hidden.any()) or not bool(((values == 0) | hidden).all()):
        return {}
    return {"value": None, "mask": True, **shares(~hidden)}


def mask_of(call: OperationCall) -> dict[str, float]:
    """What a fill or an attention is told to hide, where that depends on no data."""
    match call.op:
        case "masked_fill":
            mask = _argument(call, 1, "mask")
            values = values_of(mask) if isinstance(mask, Tensor) else None
            return shares(~values) if values is not None and values.dtype == torch.bool else {}
        case "scaled_dot_product_attention":
            mask = _argument(call, 3, "attn_mask")
            values = values_of(mask) if isinstance(mask, Tensor) else None
            if values is None:
                return {}
            return shares(values if values.dtype == torch.bool else values > _HIDES)
    return {}


def _argument(call: OperationCall, position: int, name: str) -> Any:
    return call.kwargs.get(name, call.args[position] if len(call.args) > position else None)
