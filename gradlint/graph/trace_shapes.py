"""The results of plain layers on meta, made without the Python kernels that torch runs to find their shapes.

On meta a batch norm is a dozen Python kernels and a linear layer five: they were most of the time of tracing a network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradlint.graph.walk import OperationCall

_SAME_SHAPE = frozenset(
    ["relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign", "tanh"]
)
_SAME_SHAPE |= frozenset(["sigmoid", "logsigmoid", "hardtanh", "hardsigmoid", "hardswish", "hardshrink", "softshrink"])
_DIMENSIONS = {"BatchNorm1d": (2, 3), "BatchNorm2d": (4,), "BatchNorm3d": (5,)}


def known_result(call: OperationCall) -> Tensor | None:
    """The result of a call whose shape is known beforehand, or None: then the call has to be made.

    Calls that would fail are made, and those of modules that somebody hooked.
    """
    x = call.args[0] if call.args else None
    if not isinstance(x, Tensor) or type(x) is not Tensor or x.device.type != "meta" or not x.is_floating_point():
        return None
    module = call.module
    if module is not None and (module._forward_hooks or module._forward_pre_hooks):
        return None
    match call.kind:
        case "activation" if call.op in _SAME_SHAPE and len(call.tensors) == 1:
            return x if call.inplace else torch.empty_like(x)
        case "dropout" if module is not None and call.attributes.get("p"):
            return x if call.inplace else torch.empty_like(x)
        case "normalization" if module is not None and _is_normalised(call.op, module, x):
            channels_last = (
                call.op == "batch_norm" and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
            )
            return torch.empty_like(x) if channels_last else x.new_empty(x.shape)
        case "linear" if isinstance(module, nn.Linear) and x.dim():
            if x.shape[-1] == module.in_features and x.dtype == module.weight.dtype:
                return x.new_empty((*x.shape[:-1], module.out_features))
    return None


def _is_normalised(op: str, module: nn.Module, x: Tensor) -> bool:
    """Whether a normalisation takes an operand of this shape."""
    match op:
        case "batch_norm":
            dimensions = _DIMENSIONS.get(type(module).__name__, ())
            return x.dim() in dimensions and x.shape[1] == module.num_features and x.numel() > x.shape[1]
        case "layer_norm" | "rms_norm":
            shape = tuple(getattr(module, "normalized_shape", ()))
            return bool(shape) and tuple(x.shape[-len(shape) :]) == shape
    return False
