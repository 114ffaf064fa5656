"""The kind of a sum, a product or a power."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from gradlint.graph.kind_arguments import number
from gradlint.graph.trace_leaves import Kind


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


ARITHMETIC: dict[str, Callable[[Sequence[Any], Mapping[str, Any]], Kind]] = {
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
"""Kinds of sums, products and powers: of a tensor and a number, or of two tensors."""
