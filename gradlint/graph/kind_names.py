"""What a torch function is called, in-place, reflected and renamed forms under one name."""

from __future__ import annotations

from typing import Any

_ALIASES = {
    "true_divide": "div",
    "divide": "div",
    "truediv": "div",
    "multiply": "mul",
    "subtract": "sub",
    "rsub": "rsub",
    "concat": "cat",
    "concatenate": "cat",
    "absolute": "abs",
    "negative": "neg",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "clip": "clamp",
    "view_as": "view",
    "reshape_as": "reshape",
    "expand_as": "expand",
    "broadcast_to": "expand",
    "special_expit": "sigmoid",
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
    "multi_head_attention_forward": "multi_head_attention",
    "adaptive_max_pool1d_with_indices": "adaptive_max_pool1d",
    "adaptive_max_pool2d_with_indices": "adaptive_max_pool2d",
    "adaptive_max_pool3d_with_indices": "adaptive_max_pool3d",
    "max_pool1d_with_indices": "max_pool1d",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "special_logsumexp": "logsumexp",
}
_REFLECTED = {"radd": "add", "rmul": "mul", "iadd": "add", "imul": "mul", "isub": "sub", "itruediv": "div"}
_REFLECTED |= {"rtruediv": "rdiv", "rdiv": "rdiv", "rpow": "rpow", "rmatmul": "rmatmul", "idiv": "div", "ipow": "pow"}


def operation_name(func: Any) -> str:
    """What a torch function is called, in-place and reflected forms under the plain name ("add" for `__iadd__`)."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        owner = getattr(func, "__self__", None)
        return f"get_{getattr(owner, '__name__', 'attribute')}" if name == "__get__" else "set"
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        name = _REFLECTED.get(name, name)
    name = name.lstrip("_")
    if name.endswith("_") and len(name) > 1:
        name = name.rstrip("_")
    return _ALIASES.get(name, name)
