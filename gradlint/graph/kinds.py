"""Kind, operation and attributes of a function or method call on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.graph.trace_leaves import Kind, base_kind, leaf_class, module_kind, plain, role

__all__ = ["Kind", "base_kind", "function_kind", "leaf_class", "module_kind", "operation_name", "plain", "role"]

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


# ---- attributes ------------------------------------------------------------------------------------------------

_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "relu": (),
    "relu6": (),
    "leaky_relu": ("negative_slope",),
    "prelu": ("weight",),
    "rrelu": ("lower", "upper"),
    "elu": ("alpha",),
    "selu": (),
    "celu": ("alpha",),
    "gelu": ("approximate",),
    "silu": (),
    "mish": (),
    "softplus": ("beta", "threshold"),
    "softsign": (),
    "tanh": (),
    "sigmoid": (),
    "logsigmoid": (),
    "hardtanh": ("min", "max"),
    "hardsigmoid": (),
    "hardswish": (),
    "hardshrink": ("lambd",),
    "softshrink": ("lambd",),
    "tanhshrink": (),
    "threshold": ("threshold", "value"),
    "glu": ("dim",),
    "exp": (),
    "expm1": (),
    "log": (),
    "log1p": (),
    "log2": (),
    "sqrt": (),
    "rsqrt": (),
    "square": (),
    "abs": (),
    "neg": (),
    "sin": (),
    "cos": (),
    "erf": (),
    "round": (),
    "floor": (),
    "reciprocal": (),
    "sign": (),
    "atan": (),
    "arctan": (),
    "clamp": ("min", "max"),
    "clamp_min": ("min",),
    "clamp_max": ("max",),
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "gelu": {"approximate": "none"},
    "softplus": {"beta": 1.0, "threshold": 20.0},
    "hardtanh": {"min": -1.0, "max": 1.0},
    "hardshrink": {"lambd": 0.5},
    "softshrink": {"lambd": 0.5},
    "rrelu": {"lower": 1.0 / 8, "upper": 1.0 / 3},
    "glu": {"dim": -1},
}
_RESHAPES: dict[str, tuple[str, ...]] = {
    "view": (),
    "reshape": (),
    "flatten": ("start_dim", "end_dim"),
    "unflatten": ("dim", "sizes"),
    "permute": (),
    "transpose": ("dim0", "dim1"),
    "t": (),
    "movedim": ("source", "destination"),
    "squeeze": ("dim",),
    "unsqueeze": ("dim",),
    "expand": (),
    "repeat": (),
    "tile": (),
    "repeat_interleave": ("repeats", "dim"),
    "chunk": ("chunks", "dim"),
    "split": ("split_size", "dim"),
    "split_with_sizes": ("split_size", "dim"),
    "tensor_split": ("indices_or_sections", "dim"),
    "unbind": ("dim",),
    "narrow": ("dim", "start", "length"),
    "select": ("dim", "index"),
    "slice": ("dim", "start", "length"),
    "getitem": ("index",),
    "index_select": ("dim",),
    "gather": ("dim",),
    "take_along_dim": (),
    "masked_select": (),
    "roll": ("shifts", "dims"),
    "flip": ("dims",),
    "rot90": (),
    "pad": ("pad", "mode", "value"),
    "unfold": ("kernel_size", "dilation", "padding", "stride"),
    "fold": ("output_size", "kernel_size", "dilation", "padding", "stride"),
    "pixel_shuffle": ("upscale_factor",),
    "pixel_unshuffle": ("downscale_factor",),
    "channel_shuffle": ("groups",),
    "contiguous": (),
    "clone": (),
    "detach": (),
    "to": (),
    "type": (),
    "type_as": (),
    "float": (),
    "double": (),
    "half": (),
    "bfloat16": (),
    "cuda": (),
    "cpu": (),
    "requires_grad": (),
    "alias": (),
    "as_strided": (),
    "meshgrid": (),
    "atleast_1d": (),
    "atleast_2d": (),
    "triu": ("diagonal",),
    "tril": ("diagonal",),
    "diagonal": ("offset", "dim1", "dim2"),
    "masked_fill": (),
    "where": (),
    "get_T": (),
    "get_mT": (),
    "get_H": (),
    "get_data": (),
    "get_real": (),
    "pack_padded_sequence": (),
    "pad_packed_sequence": (),
    "nan_to_num": (),
    "sort": ("dim",),
    "grid_sample": ("mode",),
    "roi_align": ("output_size",),
    "copy": (),
    "as_tensor": (),
    "data": (),
}
IDENTITIES = frozenset(["to", "type", "type_as", "float", "double", "half", "bfloat16", "cuda", "cpu", "requires_grad"])
IDENTITIES |= frozenset(["contiguous", "clone", "copy", "alias", "identity", "as_tensor", "nan_to_num"])
"""Operations whose output is their input, as far as signal goes."""

_REDUCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mean": ("mean", ("dim", "keepdim")),
    "sum": ("sum", ("dim", "keepdim")),
    "nansum": ("sum", ("dim", "keepdim")),
    "amax": ("amax", ("dim", "keepdim")),
    "amin": ("amin", ("dim", "keepdim")),
    "max": ("amax", ("dim", "keepdim")),
    "min": ("amin", ("dim", "keepdim")),
    "var": ("var", ("dim", "unbiased", "keepdim")),
    "std": ("std", ("dim", "unbiased", "keepdim")),
    "norm": ("norm", ("p", "dim", "keepdim")),
    "vector_norm": ("norm", ("ord", "dim", "keepdim")),
    "linalg_norm": ("norm", ("ord", "dim", "keepdim")),
    "linalg_vector_norm": ("norm", ("ord", "dim", "keepdim")),
    "logsumexp": ("logsumexp", ("dim", "keepdim")),
    "cumsum": ("cumsum", ("dim",)),
    "prod": ("prod", ("dim", "keepdim")),
    "median": ("median", ("dim", "keepdim")),
    "topk": ("topk", ("k", "dim")),
}
_CONV = ("weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_TRANSPOSE = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_MATMULS = frozenset(["matmul", "rmatmul", "bmm", "mm", "mv", "dot", "einsum", "outer", "ger", "tensordot"])
_MATMULS |= frozenset(["baddbmm", "addbmm", "inner", "chain_matmul", "multi_dot", "linalg_multi_dot", "cdist", "vdot"])
CONSTANTS = frozenset(["zeros", "ones", "full", "empty", "arange", "linspace", "eye", "tensor", "rand", "randn"])
CONSTANTS |= frozenset(["randint", "randperm", "normal", "bernoulli", "rand_like", "randn_like", "randint_like"])
CONSTANTS |= frozenset(["zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full"])
CONSTANTS |= frozenset(["new_empty", "new_tensor", "full_like", "scalar_tensor", "multinomial", "empty_strided"])
CONSTANTS |= frozenset(["uniform", "zero", "fill", "exponential", "complex", "polar", "fftfreq", "rfftfreq"])
_CONSTANT_VALUES = {"zero": 0.0} | {
    "zeros": 0.0,
    "ones": 1.0,
    "zeros_like": 0.0,
    "ones_like": 1.0,
    "new_zeros": 0.0,
    "new_ones": 1.0,
}
_MOMENTS = {"normal": (0.0, 1.0), "uniform01": (0.5, 1.0 / math.sqrt(12.0))}
_LAWS = {"randn": "normal", "randn_like": "normal", "rand": "uniform01", "rand_like": "uniform01"}
_COMPARISONS = frozenset(["eq", "ne", "gt", "ge", "lt", "le", "logical_and", "logical_or", "logical_not", "isnan"])
_COMPARISONS |= frozenset(
    [
        "and",
        "or",
        "invert",
        "isinf",
        "long",
        "int",
        "short",
        "byte",
        "bool",
        "char",
        "one_hot",
        "xor",
        "bincount",
        "argmax",
        "argmin",
        "argsort",
        "any",
        "all",
        "nonzero",
    ]
)


def bind(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments after the first by name."""
    found = dict(zip(names, args[1:], strict=False))
    found.update({k: v for k, v in kwargs.items() if k in names})
    return found


def _attributes(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    bound = bind(names, args, kwargs)
    found = {k: plain(v) for k, v in bound.items() if not isinstance(v, Tensor)}
    return {k: v for k, v in found.items() if v is not None}


def number(value: Any) -> float | None:
    """A plain number, be it in a real tensor of one element; None for anything else.

    Parameters and tensors on meta are not plain numbers.
    """
    match value:
        case bool():
            return None
        case int() | float():
            return float(value)
        case nn.Parameter():
            return None
        case Tensor() if (
            value.numel() == 1 and value.device.type == "cpu" and not value.requires_grad and type(value) is Tensor
        ):
            if value.is_complex() or hasattr(value, "_gradlint_node"):
                return None
            with torch._C.DisableTorchFunction():
                return float(value)
        case _:
            return None


def function_kind(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    """The kind of a call; "unknown" under the operation's own name where none fits."""
    if op in _ACTIVATIONS:
        names = _ACTIVATIONS[op]
        attributes = _DEFAULTS.get(op, {}) | _attributes(names, args, kwargs)
        for theirs, ours in (("min_val", "min"), ("max_val", "max")):
            if theirs in kwargs:
                attributes[ours] = plain(kwargs[theirs])
        return Kind("activation", "clamp" if op.startswith("clamp") else op, attributes)
    if op in _ARITHMETIC:
        return _ARITHMETIC[op](args, kwargs)
    if op in _SPECIAL:
        return _SPECIAL[op](op, args, kwargs)
    if op in _RESHAPES:
        return Kind("reshape", op.removeprefix("get_"), _reshape_attributes(op, args, kwargs))
    if op in _REDUCTIONS:
        return _reduction(op, args, kwargs)
    if op in _MATMULS:
        equation = args[0] if op == "einsum" and args and isinstance(args[0], str) else None
        return Kind("matmul", "matmul" if op == "rmatmul" else op, {"equation": equation} if equation else {})
    if op in CONSTANTS:
        return Kind("constant", "constant", _constant(op, args, kwargs))
    if op in _COMPARISONS:
        return Kind("constant", op)
    return Kind("unknown", op, {"reduction": r} if isinstance(r := kwargs.get("reduction"), str) else {})


def _reshape_attributes(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    rest = args[1:]
    match op:
        case "view" | "reshape" | "expand" | "repeat" | "tile" | "permute":
            sizes = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
            named = next((kwargs[k] for k in ("shape", "size", "dims", "repeats") if k in kwargs), sizes)
            numbers = [int(s) for s in named if isinstance(s, int)] if isinstance(named, (tuple, list)) else []
            return {"dims" if op == "permute" else "sizes": numbers}
        case "getitem":
            return {"index": _index(rest[0] if rest else None)}
        case "unfold" if len(rest) == 3 and all(isinstance(r, int) for r in rest) and "kernel_size" not in kwargs:
            return {"dim": rest[0], "size": rest[1], "step": rest[2]}
        case _:
            return _attributes(_RESHAPES[op], args, kwargs)


def _index(index: Any) -> str:
    """An index as its source would be written; tensors as "…tensor"."""
    match index:
        case tuple() | list():
            return ", ".join(_index(i) for i in index)
        case slice():
            ends = [str(e) if isinstance(e, int) else "" for e in (index.start, index.stop)]
            return ":".join(ends) + (f":{index.step}" if isinstance(index.step, int) else "")
        case None:
            return "None"
        case int():
            return str(index)
        case _ if index is Ellipsis:
            return "..."
        case _:
            return "tensor"


def _reduction(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    ours, names = _REDUCTIONS[op]
    if op in ("max", "min") and isinstance(kwargs.get("other", args[1] if len(args) > 1 else None), Tensor):
        return Kind("unknown", "maximum" if op == "max" else "minimum")
    if op in ("std", "var") and len(args) == 2 and isinstance(args[1], bool):
        return Kind("reduce", ours, {"unbiased": args[1]})
    if "axis" in kwargs:
        kwargs = {**kwargs, "dim": kwargs["axis"]}
    return Kind("reduce", ours, _attributes(names, args, kwargs))


def _constant(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if op in _CONSTANT_VALUES:
        return {"value": _CONSTANT_VALUES[op]}
    if op in ("full", "full_like", "new_full", "fill"):
        value = kwargs.get("fill_value", args[1] if op != "new_full" and len(args) > 1 else args[-1] if args else None)
        return {"value": number(value)}
    law = _LAWS.get(op)
    if op in ("normal", "uniform") and args and isinstance(args[0], Tensor):
        # In place on an empty tensor, as distributions draw their noise.
        bound = bind(("mean", "std") if op == "normal" else ("from", "to"), args, kwargs)
        start, end = (
            number(v) for v in ({"a": 0.0, "b": 1.0} | dict(zip("ab", bound.values(), strict=False))).values()
        )
        if start is None or end is None:
            return {"value": None}
        mean, std = (start, end) if op == "normal" else ((start + end) / 2, (end - start) / math.sqrt(12.0))
        return {"value": None, "mean": mean, "std": std, "law": "normal" if (mean, std) == (0.0, 1.0) else None}
    if law is None:
        return {"value": None}
    return {"value": None, "law": law} | dict(zip(("mean", "std"), _MOMENTS[law], strict=True))


# ---- arithmetic ------------------------------------------------------------------------------------------------


def _two(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    first = args[0] if args else kwargs.get("input", kwargs.get("self"))
    second = args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("exponent", kwargs.get("value")))
    return first, second


def _add(sign: int, reflected: bool = False) -> Callable[[Sequence[Any], Mapping[str, Any]], Kind]:
    def kind(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
        first, second = _two(args, kwargs)
        alpha = number(kwargs.get("alpha", 1)) or 1.0
        offset = number(second) if isinstance(first, Tensor) else None
        if offset is not None:
            if reflected:
                return Kind("scale", "shift", {"factor": -1.0, "offset": offset})
            return Kind("scale", "shift", {"factor": 1.0, "offset": sign * alpha * offset})
        start = number(first)
        if start is not None:
            return Kind("scale", "shift", {"factor": sign * alpha, "offset": start})
        return Kind("add", "sub" if sign < 0 or reflected else "add", {"alpha": alpha} if alpha != 1.0 else {})

    return kind


def _mul(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    first, second = _two(args, kwargs)
    for factor in (number(second), number(first)):
        if factor is not None:
            return Kind("scale", "scale", {"factor": factor, "offset": 0.0})
    return Kind("mul", "mul")


def _div(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    first, second = _two(args, kwargs)
    divisor, dividend = number(second), number(first)
    if kwargs.get("rounding_mode") is not None:
        return Kind("unknown", "floor_divide")
    if divisor is not None:
        factor = 1.0 / divisor if divisor else math.copysign(math.inf, divisor)
        return Kind("scale", "scale", {"factor": factor, "offset": 0.0})
    if dividend is not None:
        return Kind("activation", "reciprocal", {"factor": dividend})
    return Kind("mul", "div")


def _pow(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    exponent = number(_two(args, kwargs)[1])
    if exponent is None:
        return Kind("unknown", "pow")
    return Kind("activation", "square", {}) if exponent == 2 else Kind("activation", "pow", {"exponent": exponent})


_ARITHMETIC: dict[str, Callable[[Sequence[Any], Mapping[str, Any]], Kind]] = {
    "add": _add(1),
    "sub": _add(-1),
    "rsub": _add(-1, reflected=True),
    "mul": _mul,
    "div": _div,
    "rdiv": lambda args, kwargs: _div((args[1], args[0]) if len(args) > 1 else args, kwargs),
    "pow": _pow,
    "rpow": lambda args, kwargs: Kind("unknown", "rpow"),
    "float_power": _pow,
}


# ---- the rest --------------------------------------------------------------------------------------------------


def _shape(value: Any) -> list[int]:
    return [int(s) for s in value.shape] if isinstance(value, Tensor) else []


def _linear(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    bound = bind(("weight", "bias"), args, kwargs)
    shape = _shape(bound.get("weight"))
    sizes = {"in_features": shape[-1], "out_features": shape[0]} if len(shape) == 2 else {}
    return Kind("linear", "linear", {**sizes, "bias": bound.get("bias") is not None})


def _conv(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    transposed = "transpose" in op
    bound = bind(_CONV_TRANSPOSE if transposed else _CONV, args, kwargs)
    shape = _shape(bound.pop("weight", None))
    bias = bound.pop("bias", None) is not None
    groups = bound.get("groups", 1)
    found = {"stride": 1, "padding": 0, "dilation": 1, "groups": groups}
    found |= {k: plain(v) for k, v in bound.items()}
    if shape:
        inner, outer = (shape[0], shape[1] * groups) if transposed else (shape[1] * groups, shape[0])
        found |= {"in_channels": inner, "out_channels": outer, "kernel_size": shape[2:]}
    return Kind("conv_transpose" if transposed else "conv", op, {**found, "bias": bias})


def _normalization(names: tuple[str, ...]) -> Callable[[str, Sequence[Any], Mapping[str, Any]], Kind]:
    def kind(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
        bound = bind(names, args, kwargs)
        affine = bound.get("weight") is not None
        found = {k: plain(v) for k, v in bound.items() if not isinstance(v, Tensor) and v is not None}
        if op == "batch_norm":
            found["training"] = bool(bound.get("training", False))
        if op in ("batch_norm", "instance_norm") and args and isinstance(args[0], Tensor) and args[0].dim() > 1:
            found["num_features"] = args[0].shape[1]
        found.setdefault("eps", 1e-12 if op == "normalize" else 1e-5)
        return Kind("normalization", op, found if op == "normalize" else {**found, "affine": affine})

    return kind


def _softmax(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    return Kind("softmax", op, _attributes(("dim",), args, kwargs))


def _dropout(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    bound = bind(("p", "training"), args, kwargs)
    p = float(number(bound.get("p", 0.5)) or 0.0) if bound.get("training", True) else 0.0
    return Kind(
        "dropout",
        "alpha_dropout" if "alpha" in op else "dropout",
        {"p": p, "unit": "channel" if op[-2:] in ("1d", "2d", "3d") else "element"},
    )


def _pool(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    names: tuple[str, ...] = ("output_size",) if "adaptive" in op else ("kernel_size", "stride", "padding", "ceil_mode")
    if op.startswith("max_pool"):
        names = _POOL
    if op.startswith("lp_pool"):
        names = ("norm_type", "kernel_size", "stride", "ceil_mode")
    return Kind("pool", op[:-2], _attributes(names, args, kwargs))


def _embedding(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
    if op == "embedding_bag" and len(_shape(weight)) != 2:
        weight = args[0]
    shape = _shape(weight)
    sizes = {"num_embeddings": shape[0], "embedding_dim": shape[1]} if len(shape) == 2 else {}
    return Kind("embedding", op, sizes)


def _cat(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    fixed = {"hstack": 1, "vstack": 0, "dstack": 2, "column_stack": 1, "row_stack": 0}
    if op in fixed:
        return Kind("cat", "cat", {"dim": fixed[op]})
    dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    return Kind("cat", op, {"dim": plain(dim)})


def _sdpa(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    bound = bind(("key", "value", "attn_mask", "dropout_p", "is_causal", "scale"), args, kwargs)
    shape = _shape(args[0] if args else kwargs.get("query"))
    found: dict[str, Any] = {
        "dropout": plain(bound.get("dropout_p", 0.0)),
        "causal": bool(bound.get("is_causal", False)),
        "scale": plain(bound.get("scale")),
        "masked": bound.get("attn_mask") is not None,
    }
    if len(shape) >= 3:
        heads = shape[-3] if len(shape) > 3 else 1
        found |= {"head_dim": shape[-1], "num_heads": heads, "embed_dim": shape[-1] * heads}
    return Kind("attention", op, found)


def _mha(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    names = ("embed_dim_to_check", "num_heads")
    found = {**dict(zip(names, args[3:5], strict=False)), **{k: kwargs[k] for k in names if k in kwargs}}
    embed, heads = found.get("embed_dim_to_check"), found.get("num_heads")
    sizes = {"embed_dim": plain(embed), "num_heads": plain(heads), "batch_first": False}
    if isinstance(embed, int) and isinstance(heads, int) and heads:
        sizes["head_dim"] = embed // heads
    return Kind("attention", "multi_head_attention", {k: v for k, v in sizes.items() if v is not None})


def _upsample(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    return Kind("upsample", op, {"mode": "nearest"} | _attributes(("size", "scale_factor", "mode"), args, kwargs))


_SPECIAL: dict[str, Callable[[str, Sequence[Any], Mapping[str, Any]], Kind]] = {
    "linear": _linear,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "softmin": _softmax,
    "embedding": _embedding,
    "embedding_bag": _embedding,
    "scaled_dot_product_attention": _sdpa,
    "multi_head_attention": _mha,
    "interpolate": _upsample,
    "upsample": _upsample,
    "batch_norm": _normalization(
        ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    ),
    "instance_norm": _normalization(
        ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    ),
    "layer_norm": _normalization(("normalized_shape", "weight", "bias", "eps")),
    "rms_norm": _normalization(("normalized_shape", "weight", "eps")),
    "group_norm": _normalization(("num_groups", "weight", "bias", "eps")),
    "local_response_norm": _normalization(("size", "alpha", "beta", "k")),
    "normalize": _normalization(("p", "dim", "eps")),
}
_SPECIAL |= dict.fromkeys(["cat", "stack", "hstack", "vstack", "dstack", "column_stack", "row_stack"], _cat)
_SPECIAL |= {f"conv{n}d": _conv for n in (1, 2, 3)} | {f"conv_transpose{n}d": _conv for n in (1, 2, 3)}
_SPECIAL |= dict.fromkeys(
    ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"],
    _dropout,
)
_SPECIAL |= {
    f"{name}{n}d": _pool
    for name in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
    for n in (1, 2, 3)
}

_PARAMETER_ROLES: dict[str, tuple[str, ...]] = {
    "linear": ("weight", "bias"),
    **{f"conv{n}d": ("weight", "bias") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": ("weight", "bias") for n in (1, 2, 3)},
    "embedding": ("weight",),
    "embedding_bag": ("weight",),
    "prelu": ("weight",),
    "batch_norm": ("running_mean", "running_var", "weight", "bias"),
    "instance_norm": ("running_mean", "running_var", "weight", "bias"),
    "layer_norm": ("normalized_shape", "weight", "bias"),
    "rms_norm": ("normalized_shape", "weight"),
    "group_norm": ("num_groups", "weight", "bias"),
    "multi_head_attention": (
        "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v",
        "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training", "key_padding_mask",
        "need_weights", "attn_mask", "use_separate_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight",
    ),
}  # fmt: skip
_WEIGHTS = {
    "weight": "weight",
    "bias": "bias",
    "in_proj_weight": "in_proj",
    "in_proj_bias": "in_proj_bias",
    "q_proj_weight": "q_proj",
    "k_proj_weight": "k_proj",
    "v_proj_weight": "v_proj",
    "out_proj_weight": "out_proj",
    "out_proj_bias": "out_proj_bias",
}


def parameter_arguments(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a functional call takes as weights and biases, by role."""
    names = _PARAMETER_ROLES.get(op)
    if names is None:
        return {}
    bound = bind(names, args, kwargs)
    return {_WEIGHTS[k]: v for k, v in bound.items() if isinstance(v, Tensor) and k in _WEIGHTS}
