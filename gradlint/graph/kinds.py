"""Kind, operation and attributes of a function or method call on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradlint.graph.kind_arguments import attributes, parameter_arguments
from gradlint.graph.kind_arithmetic import ARITHMETIC
from gradlint.graph.kind_constants import COMPARISONS, CONSTANTS, constant
from gradlint.graph.kind_layers import LAYERS
from gradlint.graph.kind_names import operation_name
from gradlint.graph.kind_shapes import IDENTITIES, REDUCTIONS, RESHAPES, reduction, reshape_attributes
from gradlint.graph.trace_leaves import Kind, base_kind, leaf_class, module_kind, plain, role
from gradlint.graph.written_out import clamp

__all__ = [
    "IDENTITIES",
    "Kind",
    "base_kind",
    "function_kind",
    "leaf_class",
    "module_kind",
    "operation_name",
    "parameter_arguments",
    "plain",
    "role",
]

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

_MATMULS = frozenset(["matmul", "rmatmul", "bmm", "mm", "mv", "dot", "einsum", "outer", "ger", "tensordot"])
_MATMULS |= frozenset(["baddbmm", "addbmm", "inner", "chain_matmul", "multi_dot", "linalg_multi_dot", "cdist", "vdot"])


def function_kind(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    """The kind of a call; "unknown" under the operation's own name where none fits."""
    if op in _ACTIVATIONS:
        names = _ACTIVATIONS[op]
        found = _DEFAULTS.get(op, {}) | attributes(names, args, kwargs)
        for theirs, ours in (("min_val", "min"), ("max_val", "max")):
            if theirs in kwargs:
                found[ours] = plain(kwargs[theirs])
        return Kind("activation", *(clamp(found) if op.startswith("clamp") else (op, found)))
    if op in ARITHMETIC:
        return ARITHMETIC[op](args, kwargs)
    if op in LAYERS:
        return LAYERS[op](op, args, kwargs)
    if op in RESHAPES:
        return Kind("reshape", op.removeprefix("get_"), reshape_attributes(op, args, kwargs))
    if op in REDUCTIONS:
        return reduction(op, args, kwargs)
    if op in _MATMULS:
        equation = args[0] if op == "einsum" and args and isinstance(args[0], str) else None
        return Kind("matmul", "matmul" if op == "rmatmul" else op, {"equation": equation} if equation else {})
    if op in CONSTANTS:
        return Kind("constant", "constant", constant(op, args, kwargs))
    if op in COMPARISONS:
        return Kind("constant", op)
    return Kind("unknown", op, {"reduction": r} if isinstance(r := kwargs.get("reduction"), str) else {})
