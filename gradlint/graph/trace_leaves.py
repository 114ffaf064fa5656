"""Which torch.nn modules are one operation, with its kind and attributes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Kind:
    """Kind, precise operation and attributes, as `gradlint.graph.model` lists them."""

    kind: str
    op: str
    attributes: dict[str, Any] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """A value as JSON can hold it; None for what it cannot."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case tuple() | list():
            return [plain(v) for v in value]
        case _:
            return None


def _read(*names: str) -> Callable[[nn.Module], dict[str, Any]]:
    return lambda m: {name: plain(getattr(m, name)) for name in names if hasattr(m, name)}


def _bias(m: nn.Module) -> dict[str, Any]:
    return {"bias": getattr(m, "bias", None) is not None}


def _conv(m: nn.Module) -> dict[str, Any]:
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    if isinstance(m, nn.modules.conv._ConvTransposeNd):
        names.append("output_padding")
    return _read(*names)(m) | _bias(m)


def _recurrent(m: nn.Module) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "num_layers", "bidirectional", "nonlinearity", "batch_first", "dropout")
    found = _read(*names, "proj_size")(m) | {"bias": bool(getattr(m, "bias", True)), "cell": False}
    if isinstance(m, nn.RNNCellBase):
        found |= {"cell": True, "num_layers": 1, "bidirectional": False, "dropout": 0.0}
    return found


def _norm(m: nn.Module) -> dict[str, Any]:
    found = _read("eps", "num_groups", "num_features", "normalized_shape", "momentum")(m)
    affine = getattr(m, "affine", getattr(m, "elementwise_affine", None))
    found["affine"] = bool(affine) if affine is not None else getattr(m, "weight", None) is not None
    if isinstance(m, nn.modules.batchnorm._NormBase):
        found["training"] = m.training or not m.track_running_stats
    if "num_channels" in m.__dict__:
        found["num_features"] = m.__dict__["num_channels"]
    return found


def _attention(m: nn.Module) -> dict[str, Any]:
    return _read("embed_dim", "num_heads", "head_dim", "dropout", "batch_first")(m) | {
        "bias": getattr(m, "in_proj_bias", None) is not None
    }


def _dropout(unit: str) -> Callable[[nn.Module], dict[str, Any]]:
    return lambda m: {"p": plain(getattr(m, "p", None)) if m.training else 0.0, "unit": unit}


def _pool(m: nn.Module) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "output_size", "norm_type")
    return _read(*names, "count_include_pad")(m)


def _activation(m: nn.Module) -> dict[str, Any]:
    found = _read("negative_slope", "alpha", "approximate", "beta", "threshold", "value", "lambd", "dim", "inplace")(m)
    for theirs, ours in (("min_val", "min"), ("max_val", "max"), ("lower", "lower"), ("upper", "upper")):
        if hasattr(m, theirs):
            found[ours] = plain(getattr(m, theirs))
    return found


def _dim(m: nn.Module) -> dict[str, Any]:
    return _read("dim")(m)


_Reader = Callable[[nn.Module], dict[str, Any]]
_LEAVES: dict[str, tuple[str, str, _Reader]] = {
    "Linear": ("linear", "linear", lambda m: _read("in_features", "out_features")(m) | _bias(m)),
    "Bilinear": (
        "linear",
        "bilinear",
        lambda m: (
            _read("in1_features", "in2_features", "out_features")(m)
            | {"in_features": plain(getattr(m, "in1_features", None))}
            | _bias(m)
        ),
    ),
    "NonDynamicallyQuantizableLinear": (
        "linear",
        "linear",
        lambda m: _read("in_features", "out_features")(m) | _bias(m),
    ),
    "Embedding": ("embedding", "embedding", _read("num_embeddings", "embedding_dim", "padding_idx")),
    "EmbeddingBag": ("embedding", "embedding_bag", _read("num_embeddings", "embedding_dim", "padding_idx", "mode")),
    "RNN": ("recurrent", "rnn", _recurrent),
    "LSTM": ("recurrent", "lstm", _recurrent),
    "GRU": ("recurrent", "gru", _recurrent),
    "RNNCell": ("recurrent", "rnn", _recurrent),
    "LSTMCell": ("recurrent", "lstm", _recurrent),
    "GRUCell": ("recurrent", "gru", _recurrent),
    "MultiheadAttention": ("attention", "multi_head_attention", _attention),
    "LayerNorm": ("normalization", "layer_norm", _norm),
    "RMSNorm": ("normalization", "rms_norm", _norm),
    "GroupNorm": ("normalization", "group_norm", _norm),
    "SyncBatchNorm": ("normalization", "batch_norm", _norm),
    "LocalResponseNorm": ("normalization", "local_response_norm", _read("size", "alpha", "beta", "k")),
    "CrossMapLRN2d": ("normalization", "local_response_norm", _read("size", "alpha", "beta", "k")),
    "Softmax": ("softmax", "softmax", _dim),
    "Softmax2d": ("softmax", "softmax", lambda m: {"dim": -3}),
    "LogSoftmax": ("softmax", "log_softmax", _dim),
    "Softmin": ("softmax", "softmin", _dim),
    "Dropout": ("dropout", "dropout", _dropout("element")),
    "AlphaDropout": ("dropout", "alpha_dropout", _dropout("element")),
    "FeatureAlphaDropout": ("dropout", "alpha_dropout", _dropout("channel")),
    "Flatten": ("reshape", "flatten", _read("start_dim", "end_dim")),
    "Unflatten": ("reshape", "unflatten", _read("dim", "unflattened_size")),
    "PixelShuffle": ("reshape", "pixel_shuffle", _read("upscale_factor")),
    "PixelUnshuffle": ("reshape", "pixel_unshuffle", _read("downscale_factor")),
    "ChannelShuffle": ("reshape", "channel_shuffle", _read("groups")),
    "Fold": ("reshape", "fold", _read("output_size", "kernel_size", "stride", "padding", "dilation")),
    "Unfold": ("reshape", "unfold", _read("kernel_size", "stride", "padding", "dilation")),
    "Upsample": ("upsample", "upsample", _read("scale_factor", "size", "mode")),
    "UpsamplingNearest2d": ("upsample", "upsample", _read("scale_factor", "size", "mode")),
    "UpsamplingBilinear2d": ("upsample", "upsample", _read("scale_factor", "size", "mode")),
    "Identity": ("reshape", "identity", lambda m: {}),
}
_ACTIVATIONS = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "RReLU": "rrelu",
    "ELU": "elu",
    "SELU": "selu",
    "CELU": "celu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Mish": "mish",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "logsigmoid",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "Hardshrink": "hardshrink",
    "Softshrink": "softshrink",
    "Tanhshrink": "tanhshrink",
    "Threshold": "threshold",
    "GLU": "glu",
}
_LEAVES |= {name: ("activation", op, _activation) for name, op in _ACTIVATIONS.items()}
for _n in ("1d", "2d", "3d"):
    _LEAVES[f"Conv{_n}"] = ("conv", f"conv{_n}", _conv)
    _LEAVES[f"ConvTranspose{_n}"] = ("conv_transpose", f"conv_transpose{_n}", _conv)
    _LEAVES[f"BatchNorm{_n}"] = ("normalization", "batch_norm", _norm)
    _LEAVES[f"InstanceNorm{_n}"] = ("normalization", "instance_norm", _norm)
    _LEAVES[f"Dropout{_n}"] = ("dropout", "dropout", _dropout("channel"))
    _LEAVES[f"MaxPool{_n}"] = ("pool", "max_pool", _pool)
    _LEAVES[f"AvgPool{_n}"] = ("pool", "avg_pool", _pool)
    _LEAVES[f"LPPool{_n}"] = ("pool", "lp_pool", _pool)
    _LEAVES[f"FractionalMaxPool{_n}"] = ("pool", "max_pool", _pool)
    _LEAVES[f"AdaptiveAvgPool{_n}"] = ("pool", "adaptive_avg_pool", _pool)
    _LEAVES[f"AdaptiveMaxPool{_n}"] = ("pool", "adaptive_max_pool", _pool)
    _LEAVES[f"ReflectionPad{_n}"] = ("reshape", "pad", lambda m: _read("padding")(m) | {"mode": "reflect"})
    _LEAVES[f"ReplicationPad{_n}"] = ("reshape", "pad", lambda m: _read("padding")(m) | {"mode": "replicate"})
    _LEAVES[f"CircularPad{_n}"] = ("reshape", "pad", lambda m: _read("padding")(m) | {"mode": "circular"})
    for _c in ("ZeroPad", "ConstantPad"):
        _LEAVES[f"{_c}{_n}"] = ("reshape", "pad", lambda m: _read("padding", "value")(m) | {"mode": "constant"})
_LEAVES["FeatureAlphaDropout"] = ("dropout", "alpha_dropout", _dropout("channel"))


def leaf_class(module: nn.Module) -> type[nn.Module] | None:
    """The torch.nn class that a module is one call of, or None if its forward has to be entered.

    A subclass with a `forward` of its own may do anything (BatchNorm with an activation, LoRA), so it is entered.
    """
    for cls in type(module).__mro__:
        if cls.__module__.startswith(("torch.nn.modules", "torch.ao.nn")) and cls.__name__ in _LEAVES:
            own: type[nn.Module] = cls
            return own if type(module).forward is own.forward else None
    return None


def base_kind(module: nn.Module) -> Kind | None:
    """The kind of the torch.nn layer that a module with a forward of its own is derived from, or None."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith("torch.nn.modules") and cls.__name__ in _LEAVES:
            kind, op, read = _LEAVES[cls.__name__]
            return Kind(kind, op, {k: v for k, v in read(module).items() if v is not None})
    return None


def module_kind(module: nn.Module) -> Kind | None:
    """The kind of a module that is one operation, or None for containers and the user's own modules."""
    cls = leaf_class(module)
    if cls is None:
        return None
    kind, op, read = _LEAVES[cls.__name__]
    return Kind(kind, op, {k: v for k, v in read(module).items() if v is not None})


_ROLES = {
    "in_proj_weight": "in_proj",
    "q_proj_weight": "q_proj",
    "k_proj_weight": "k_proj",
    "v_proj_weight": "v_proj",
    "out_proj.weight": "out_proj",
    "out_proj.bias": "out_proj_bias",
}
_COMPUTED = (
    (re.compile(r"^parametrizations\.(\w+)\.original1?$"), r"\1"),
    (re.compile(r"^parametrizations\.(\w+)\.original0$"), r"\1_g"),
    (re.compile(r"^(weight\w*?)_(?:v|orig)$"), r"\1"),
)


def role(name: str) -> str:
    """What a leaf's parameter is for, by its name in the module.

    The parameter that torch computes a weight from (spectral norm, weight norm, any parametrization) stands for
    the weight; see `trace_parametrized` for its law.
    """
    for pattern, written in _COMPUTED:
        if pattern.match(name):
            name = pattern.sub(written, name)
            break
    return _ROLES.get(name, name.replace(".", "_"))
