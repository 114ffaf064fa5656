"""The kind of a layer that is called as a function: linear, convolution, normalisation, pooling, attention …"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from gradlint.graph.kind_arguments import attributes, bind, number, shape_of
from gradlint.graph.trace_leaves import Kind, plain

_CONV = ("weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_TRANSPOSE = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


def _linear(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    bound = bind(("weight", "bias"), args, kwargs)
    shape = shape_of(bound.get("weight"))
    sizes = {"in_features": shape[-1], "out_features": shape[0]} if len(shape) == 2 else {}
    return Kind("linear", "linear", {**sizes, "bias": bound.get("bias") is not None})


def _conv(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    transposed = "transpose" in op
    bound = bind(_CONV_TRANSPOSE if transposed else _CONV, args, kwargs)
    shape = shape_of(bound.pop("weight", None))
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
    return Kind("softmax", op, attributes(("dim",), args, kwargs))


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
    return Kind("pool", op[:-2], attributes(names, args, kwargs))


def _embedding(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
    if op == "embedding_bag" and len(shape_of(weight)) != 2:
        weight = args[0]
    shape = shape_of(weight)
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
    shape = shape_of(args[0] if args else kwargs.get("query"))
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
    return Kind("upsample", op, {"mode": "nearest"} | attributes(("size", "scale_factor", "mode"), args, kwargs))


LAYERS: dict[str, Callable[[str, Sequence[Any], Mapping[str, Any]], Kind]] = {
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
LAYERS |= dict.fromkeys(["cat", "stack", "hstack", "vstack", "dstack", "column_stack", "row_stack"], _cat)
LAYERS |= {f"conv{n}d": _conv for n in (1, 2, 3)} | {f"conv_transpose{n}d": _conv for n in (1, 2, 3)}
LAYERS |= dict.fromkeys(
    ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"],
    _dropout,
)
LAYERS |= {
    f"{name}{n}d": _pool
    for name in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
    for n in (1, 2, 3)
}
"""Layers called as functions, of torch.nn.functional and torch, by name."""
