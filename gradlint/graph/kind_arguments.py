"""The arguments of a call on tensors: by name, as plain values, as numbers, and which of them are weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.graph.trace_leaves import plain


def bind(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments after the first by name."""
    found = dict(zip(names, args[1:], strict=False))
    found.update({k: v for k, v in kwargs.items() if k in names})
    return found


def attributes(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments after the first that are plain values, by name."""
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


def shape_of(value: Any) -> list[int]:
    """A tensor's sizes; empty for anything else."""
    return [int(s) for s in value.shape] if isinstance(value, Tensor) else []


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
