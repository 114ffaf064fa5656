"""Tensors that no operand enters: zeros, noise, ranges, and what comparisons decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gradlint.graph.kind_arguments import bind, number

CONSTANTS = frozenset(["zeros", "ones", "full", "empty", "arange", "linspace", "eye", "tensor", "rand", "randn"])
CONSTANTS |= frozenset(["randint", "randperm", "normal", "bernoulli", "rand_like", "randn_like", "randint_like"])
CONSTANTS |= frozenset(["zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full"])
CONSTANTS |= frozenset(["new_empty", "new_tensor", "full_like", "scalar_tensor", "multinomial", "empty_strided"])
CONSTANTS |= frozenset(["uniform", "zero", "fill", "exponential", "complex", "polar", "fftfreq", "rfftfreq"])
"""Functions that make a tensor out of nothing."""
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
COMPARISONS = frozenset(["eq", "ne", "gt", "ge", "lt", "le", "logical_and", "logical_or", "logical_not", "isnan"])
COMPARISONS |= frozenset(
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
"""What decides or counts: no signal passes."""


def constant(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the elements that an operation of `CONSTANTS` makes: their value, or mean, std and law."""
    if op in _CONSTANT_VALUES:
        return {"value": _CONSTANT_VALUES[op]}
    if op in ("full", "full_like", "new_full", "fill"):
        value = kwargs.get("fill_value", args[1] if op != "new_full" and len(args) > 1 else args[-1] if args else None)
        return {"value": number(value)}
    law = _LAWS.get(op)
    if op == "bernoulli" and args and isinstance(args[0], Tensor):
        # In place on an empty tensor, as stochastic depth draws its mask.
        p = number(kwargs.get("p", args[1] if len(args) > 1 else None))
        return {"value": None} if p is None else {"mean": p, "std": math.sqrt(p * (1.0 - p)), "law": "bernoulli"}
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
