"""The names of torch functions and tensor methods, by what they do to a gradient."""

from __future__ import annotations

ACTIVATIONS = {
    **dict.fromkeys(
        [
            "relu",
            "relu6",
            "selu",
            "silu",
            "mish",
            "softsign",
            "tanh",
            "sigmoid",
            "logsigmoid",
            "hardsigmoid",
            "hardswish",
            "exp",
            "log",
            "log2",
            "log10",
            "log1p",
            "expm1",
            "sqrt",
            "rsqrt",
            "square",
            "abs",
            "neg",
            "sin",
            "cos",
            "tan",
            "erf",
            "reciprocal",
            "sign",
            "floor",
            "round",
            "ceil",
            "tanhshrink",
            "atan",
            "asinh",
            "sinh",
            "cosh",
            "acos",
            "asin",
            "logit",
            "nan_to_num",
            "sinc",
        ],
        "",
    ),
    "leaky_relu": "negative_slope=0.01, inplace=False",
    "elu": "alpha=1.0, inplace=False",
    "celu": "alpha=1.0, inplace=False",
    "gelu": "approximate='none'",
    "rrelu": "lower=0.125, upper=0.3333333333333333, training=False, inplace=False",
    "softplus": "beta=1, threshold=20",
    "hardtanh": "min_val=-1.0, max_val=1.0, inplace=False",
    "threshold": "threshold, value, inplace=False",
    "clamp": "min=None, max=None",
    "clip": "min=None, max=None",
    "clamp_min": "min=None",
    "clamp_max": "max=None",
    "softshrink": "lambd=0.5",
    "hardshrink": "lambd=0.5",
}


ALIASES = {"absolute": "abs", "negative": "neg", "swish": "silu", "log_sigmoid": "logsigmoid", "expit": "sigmoid"}


IDENTITIES = frozenset(
    [
        "contiguous",
        "to",
        "cuda",
        "cpu",
        "float",
        "double",
        "half",
        "bfloat16",
        "clone",
        "type",
        "type_as",
        "requires_grad",
        "requires_grad_",
        "alias",
        "view_as_real",
        "pin_memory",
        "retain_grad",
        "dequantize",
        "as_tensor",
        "tensor",
        "from_numpy",
        "squeeze_",
        "detach_",
        "int",
        "long",
    ]
) - {"squeeze_", "detach_"}


RESHAPES = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "repeat",
        "repeat_interleave",
        "select",
        "narrow",
        "gather",
        "index_select",
        "roll",
        "flip",
        "unfold",
        "pixel_shuffle",
        "pixel_unshuffle",
        "swapaxes",
        "movedim",
        "t",
        "detach",
        "pad",
        "unflatten",
        "view_as",
        "reshape_as",
        "tile",
        "flipud",
        "fliplr",
        "rot90",
        "diagonal",
        "ravel",
        "channel_shuffle",
        "take_along_dim",
        "masked_select",
    ]
)


REDUCTIONS = frozenset(["mean", "sum", "amax", "amin", "var", "std", "norm", "logsumexp", "cumsum", "prod", "median"])


NO_GRADIENT = frozenset(
    [
        "argmax",
        "argmin",
        "argsort",
        "eq",
        "ne",
        "lt",
        "gt",
        "le",
        "ge",
        "isnan",
        "isinf",
        "isfinite",
        "bool",
        "any",
        "all",
        "nonzero",
        "topk_indices",
        "bincount",
        "logical_and",
        "logical_or",
        "logical_not",
        "numel",
        "bernoulli",
        "multinomial",
        "item",
        "tolist",
        "numpy",
        "shape_as_tensor",
    ]
)


LOSSES = frozenset(["cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div"])
"""Losses of torch.nn.functional whose names do not end with `_loss`."""
