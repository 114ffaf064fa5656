"""The torch.nn classes: constructor arguments and node kind."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from typing import Any

from gradlint.source.reader.values import Unknown

REQUIRED = object()
"""Marks an argument without default."""


@dataclass(frozen=True)
class Layer:
    """One torch.nn class: node kind, op, signature; `keep` names the arguments that become attributes."""

    kind: str
    op: str
    signature: str = ""
    keep: tuple[str, ...] = ()


_CONV = "in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True"
_DECONV = (
    "in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1, bias=True, dilation=1"
)
_BATCH = "num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True"
_INSTANCE = "num_features, eps=1e-5, momentum=0.1, affine=False, track_running_stats=False"
_RNN = (
    "input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, proj_size=0"
)
_VANILLA = (
    "input_size, hidden_size, num_layers=1, nonlinearity='tanh', bias=True, batch_first=False, dropout=0.0, "
    "bidirectional=False"
)
_CELL = "input_size, hidden_size, bias=True"
_POOL = "kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False"
_AVG = "kernel_size, stride=None, padding=0"


def _layers() -> dict[str, Layer]:
    table = {
        "Linear": Layer("linear", "linear", "in_features, out_features, bias=True"),
        "LazyLinear": Layer("linear", "linear", "out_features, bias=True"),
        "Bilinear": Layer("linear", "bilinear", "in1_features, in2_features, out_features, bias=True"),
        "Embedding": Layer(
            "embedding", "embedding", "num_embeddings, embedding_dim, padding_idx=None, max_norm=None, norm_type=2.0"
        ),
        "EmbeddingBag": Layer("embedding", "embedding_bag", "num_embeddings, embedding_dim, max_norm=None"),
        "LayerNorm": Layer(
            "normalization", "layer_norm", "normalized_shape, eps=1e-5, elementwise_affine=True, bias=True"
        ),
        "RMSNorm": Layer("normalization", "rms_norm", "normalized_shape, eps=None, elementwise_affine=True"),
        "GroupNorm": Layer("normalization", "group_norm", "num_groups, num_channels, eps=1e-5, affine=True"),
        "LocalResponseNorm": Layer("normalization", "local_response_norm", "size, alpha=0.0001, beta=0.75, k=1.0"),
        "SyncBatchNorm": Layer("normalization", "batch_norm", _BATCH),
        "BatchNorm": Layer("normalization", "batch_norm", _BATCH),
        "RNN": Layer("recurrent", "rnn", _VANILLA),
        "LSTM": Layer("recurrent", "lstm", _RNN),
        "GRU": Layer("recurrent", "gru", _RNN),
        "RNNCell": Layer("recurrent", "rnn", _CELL + ", nonlinearity='tanh'"),
        "LSTMCell": Layer("recurrent", "lstm", _CELL),
        "GRUCell": Layer("recurrent", "gru", _CELL),
        "MultiheadAttention": Layer(
            "attention",
            "multi_head_attention",
            "embed_dim, num_heads, dropout=0.0, bias=True, add_bias_kv=False, add_zero_attn=False, kdim=None, "
            "vdim=None, batch_first=False",
        ),
        "Flatten": Layer("reshape", "flatten", "start_dim=1, end_dim=-1"),
        "Unflatten": Layer("reshape", "unflatten", "dim, unflattened_size"),
        "PixelShuffle": Layer("reshape", "pixel_shuffle", "upscale_factor"),
        "PixelUnshuffle": Layer("reshape", "pixel_unshuffle", "downscale_factor"),
        "ChannelShuffle": Layer("reshape", "channel_shuffle", "groups"),
        "Fold": Layer("unknown", "fold", "output_size, kernel_size"),
        "Unfold": Layer("reshape", "unfold", "kernel_size, dilation=1, padding=0, stride=1"),
        "Upsample": Layer("upsample", "upsample", "size=None, scale_factor=None, mode='nearest'"),
        "UpsamplingNearest2d": Layer("upsample", "upsample", "size=None, scale_factor=None, mode='nearest'"),
        "UpsamplingBilinear2d": Layer("upsample", "upsample", "size=None, scale_factor=None, mode='bilinear'"),
        "Softmax": Layer("softmax", "softmax", "dim=None"),
        "Softmax2d": Layer("softmax", "softmax", "dim=1"),
        "LogSoftmax": Layer("softmax", "log_softmax", "dim=None"),
        "GLU": Layer("unknown", "glu", "dim=-1"),
        "Softmin": Layer("unknown", "softmin", "dim=None"),
        "CosineSimilarity": Layer("unknown", "cosine_similarity", "dim=1, eps=1e-8"),
        "PairwiseDistance": Layer("unknown", "pairwise_distance", "p=2.0"),
        "AdaptiveLogSoftmaxWithLoss": Layer("unknown", "adaptive_log_softmax", "in_features, n_classes, cutoffs"),
    }
    for d in (1, 2, 3):
        table |= {
            f"Conv{d}d": Layer("conv", f"conv{d}d", _CONV),
            f"LazyConv{d}d": Layer("conv", f"conv{d}d", _CONV.replace("in_channels, ", "")),
            f"ConvTranspose{d}d": Layer("conv_transpose", f"conv_transpose{d}d", _DECONV),
            f"BatchNorm{d}d": Layer("normalization", "batch_norm", _BATCH),
            f"LazyBatchNorm{d}d": Layer("normalization", "batch_norm", _BATCH.replace("num_features, ", "")),
            f"InstanceNorm{d}d": Layer("normalization", "instance_norm", _INSTANCE),
            f"MaxPool{d}d": Layer("pool", "max_pool", _POOL),
            f"MaxUnpool{d}d": Layer("unknown", "max_unpool", "kernel_size, stride=None, padding=0"),
            f"AvgPool{d}d": Layer("pool", "avg_pool", _AVG),
            f"LPPool{d}d": Layer("pool", "lp_pool", "norm_type, kernel_size, stride=None"),
            f"AdaptiveAvgPool{d}d": Layer("pool", "adaptive_avg_pool", "output_size"),
            f"AdaptiveMaxPool{d}d": Layer("pool", "adaptive_max_pool", "output_size"),
            f"Dropout{d}d": Layer("dropout", "dropout", "p=0.5, inplace=False"),
            f"ZeroPad{d}d": Layer("reshape", "pad", "padding"),
            f"ReflectionPad{d}d": Layer("reshape", "pad", "padding"),
            f"ReplicationPad{d}d": Layer("reshape", "pad", "padding"),
            f"ConstantPad{d}d": Layer("reshape", "pad", "padding, value=0"),
            f"CircularPad{d}d": Layer("reshape", "pad", "padding"),
        }
    table["DropPath"] = Layer("dropout", "drop_path", "drop_prob=0.0, scale_by_keep=True")
    table["StochasticDepth"] = Layer("dropout", "drop_path", "p, mode='row'")
    for name in ("Dropout", "AlphaDropout", "FeatureAlphaDropout"):
        table[name] = Layer("dropout", "dropout", "p=0.5, inplace=False")
    activations = {
        "ReLU": ("relu", "inplace=False"),
        "ReLU6": ("relu6", "inplace=False"),
        "LeakyReLU": ("leaky_relu", "negative_slope=0.01, inplace=False"),
        "PReLU": ("prelu", "num_parameters=1, init=0.25"),
        "RReLU": ("rrelu", "lower=0.125, upper=0.3333333333333333, inplace=False"),
        "ELU": ("elu", "alpha=1.0, inplace=False"),
        "CELU": ("celu", "alpha=1.0, inplace=False"),
        "SELU": ("selu", "inplace=False"),
        "GELU": ("gelu", "approximate='none'"),
        "SiLU": ("silu", "inplace=False"),
        "Mish": ("mish", "inplace=False"),
        "Softplus": ("softplus", "beta=1, threshold=20"),
        "Softsign": ("softsign", ""),
        "Softshrink": ("softshrink", "lambd=0.5"),
        "Hardshrink": ("hardshrink", "lambd=0.5"),
        "Tanhshrink": ("tanhshrink", ""),
        "Threshold": ("threshold", "threshold, value, inplace=False"),
        "Tanh": ("tanh", ""),
        "Sigmoid": ("sigmoid", ""),
        "LogSigmoid": ("logsigmoid", ""),
        "Hardtanh": ("hardtanh", "min_val=-1.0, max_val=1.0, inplace=False"),
        "Hardsigmoid": ("hardsigmoid", "inplace=False"),
        "Hardswish": ("hardswish", "inplace=False"),
    }
    for name, (op, signature) in activations.items():
        table[name] = Layer("activation", op, signature)
    return table


LAYERS = _layers()

CONTAINERS = frozenset({"Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Identity"})

FAMILIES = {
    "_ConvNd": tuple(n for n in LAYERS if "Conv" in n),
    "_ConvTransposeNd": tuple(n for n in LAYERS if "ConvTranspose" in n),
    "_BatchNorm": tuple(n for n in LAYERS if "BatchNorm" in n),
    "_NormBase": tuple(n for n in LAYERS if "BatchNorm" in n or "InstanceNorm" in n),
    "_InstanceNorm": tuple(n for n in LAYERS if "InstanceNorm" in n),
    "RNNBase": ("RNN", "LSTM", "GRU"),
    "RNNCellBase": ("RNNCell", "LSTMCell", "GRUCell"),
    "_DropoutNd": tuple(n for n in LAYERS if "Dropout" in n),
    "_MaxPoolNd": tuple(n for n in LAYERS if n.startswith("MaxPool")),
    "_AvgPoolNd": tuple(n for n in LAYERS if n.startswith("AvgPool")),
}
"""Base classes in torch.nn.modules that people test with isinstance."""


@cache
def parse_signature(signature: str) -> dict[str, Any]:
    """Argument names and defaults of `a, b=1`; REQUIRED where there is no default."""
    node = ast.parse(f"def f({signature}): ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    names = [a.arg for a in node.args.args]
    defaults = [ast.literal_eval(d) for d in node.args.defaults]
    return dict(zip(names, [REQUIRED] * (len(names) - len(defaults)) + defaults, strict=True))


def bind(signature: str, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name; what is neither given nor defaulted is Unknown."""
    declared = parse_signature(signature)
    others = {k: v for k, v in kwargs.items() if k in declared or k not in ("device", "dtype")}
    bound = {**declared, **others, **dict(zip(declared, args, strict=False))}
    for name, value in bound.items():
        if value is REQUIRED:
            bound[name] = Unknown(f"`{name}` is not given")
    return bound
