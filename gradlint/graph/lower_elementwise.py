"""Activations that a forward writes out in arithmetic: x·sigmoid(x) is SiLU, ½x(1 + erf(x/√2)) is GELU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gradlint.graph.lower_draft import Draft, Drafts

_POINTS = tuple(-4.0 + 0.37 * k for k in range(22))
_TOLERANCE = 1e-5
"""Between a written-out formula and a known function, over a range of 4: single-precision constants are this exact."""
_MAX_DEPTH = 16


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _gelu(x: float) -> float:
    return 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0)))


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


KNOWN: tuple[tuple[str, dict[str, Any], Callable[[float], float]], ...] = (
    ("silu", {}, lambda x: x * _sigmoid(x)),
    ("gelu", {"approximate": "none"}, _gelu),
    ("gelu", {"approximate": "tanh"}, _gelu_tanh),
    ("quick_gelu", {}, lambda x: x * _sigmoid(1.702 * x)),
    ("mish", {}, lambda x: x * math.tanh(_softplus(x))),
    ("hardswish", {}, lambda x: x * min(max(x + 3.0, 0.0), 6.0) / 6.0),
    ("square", {}, lambda x: x * x),
)
"""Functions that are written as a product of two functions of one operand."""

_FUNCTIONS: dict[str, Callable[[float, dict[str, Any]], float]] = {
    "sigmoid": lambda x, a: _sigmoid(x),
    "tanh": lambda x, a: math.tanh(x),
    "erf": lambda x, a: math.erf(x),
    "exp": lambda x, a: math.exp(x),
    "neg": lambda x, a: -x,
    "abs": lambda x, a: abs(x),
    "square": lambda x, a: x * x,
    "sqrt": lambda x, a: math.sqrt(x),
    "log": lambda x, a: math.log(x),
    "log1p": lambda x, a: math.log1p(x),
    "relu": lambda x, a: max(x, 0.0),
    "relu6": lambda x, a: min(max(x, 0.0), 6.0),
    "softplus": lambda x, a: _softplus(x * a.get("beta", 1.0)) / a.get("beta", 1.0),
    "hardsigmoid": lambda x, a: min(max(x + 3.0, 0.0), 6.0) / 6.0,
    "reciprocal": lambda x, a: a.get("factor", 1.0) / x,
    "pow": lambda x, a: math.pow(x, a["exponent"]),
    "clamp": lambda x, a: min(max(x, a.get("min", -math.inf)), a.get("max", math.inf)),
    "hardtanh": lambda x, a: min(max(x, a.get("min", -1.0)), a.get("max", 1.0)),
}


class _NotScalarError(Exception):
    """The operation is not a function of the one operand alone."""


def fuse_activations(drafts: Drafts) -> None:
    """Write a product of functions of one operand as the known activation that it equals, where it equals one.

    The formula is evaluated on points, so any way of writing it is seen. A square keeps its product where the
    operands are not one and the same tensor.
    """
    for key in list(drafts):
        draft = drafts[key]
        product = draft if draft.kind == "mul" else drafts[draft.inputs[0]] if draft.kind == "scale" else None
        if product is None or product.kind != "mul" or len(product.inputs) != 2:
            continue
        for x in sorted(_common(product, drafts), reverse=True):
            found = _match(draft, x, drafts)
            if found is not None:
                draft.kind, draft.op, draft.attributes, draft.inputs = "activation", found[0], dict(found[1]), [x]
                break


def _common(product: Draft, drafts: Drafts) -> set[int]:
    """What both operands of a product are computed from by elementwise functions."""
    first, second = (_reach(i, drafts) for i in product.inputs)
    return first & second


def _reach(start: int, drafts: Drafts) -> set[int]:
    found, level = {start}, {start}
    for _ in range(_MAX_DEPTH):
        level = {i for k in level if drafts[k].kind in ("activation", "scale", "add", "mul") for i in drafts[k].inputs}
        found |= level
    return found


def _match(draft: Draft, x: int, drafts: Drafts) -> tuple[str, dict[str, Any]] | None:
    values: list[float] = []
    for point in _POINTS:
        try:
            values.append(_value(draft.key, x, point, drafts, _MAX_DEPTH))
        except _NotScalarError:
            return None
        except (ValueError, OverflowError, ZeroDivisionError, TypeError, KeyError):
            return None
    for op, attributes, function in KNOWN:
        if all(abs(v - function(p)) <= _TOLERANCE * (1.0 + abs(v)) for v, p in zip(values, _POINTS, strict=True)):
            return op, attributes
    return None


def _value(key: int, x: int, point: float, drafts: Drafts, depth: int) -> float:
    """The output of an operation where the operand `x` is `point`. Raises _NotScalarError."""
    if key == x:
        return point
    draft = drafts[key]
    if not depth:
        raise _NotScalarError
    operands = [_value(i, x, point, drafts, depth - 1) for i in draft.inputs]
    match draft.kind, draft.op:
        case "activation", op if op in _FUNCTIONS and len(operands) == 1:
            return _FUNCTIONS[op](operands[0], draft.attributes)
        case "scale", _ if len(operands) == 1:
            return float(draft.attributes["factor"]) * operands[0] + float(draft.attributes["offset"])
        case "add", op if len(operands) == 2:
            second = operands[1] * float(draft.attributes.get("alpha", 1.0))
            return operands[0] - second if op == "sub" else operands[0] + second
        case "mul", op if len(operands) == 2:
            return operands[0] / operands[1] if op == "div" else operands[0] * operands[1]
        case "constant", _ if isinstance(draft.attributes.get("value"), (int, float)):
            return float(draft.attributes["value"])
    raise _NotScalarError
