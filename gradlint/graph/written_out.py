"""Activations written out in arithmetic: x·sigmoid(x) is SiLU, ½x(1 + erf(x/√2)) GELU, 1/(1 + e⁻ˣ) a sigmoid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

_POINTS = tuple(-4.0 + 0.37 * k for k in range(22))
_TOLERANCE = 1e-5
"""Between a written-out formula and a known function, over a range of 4: single-precision constants are this exact."""
_MAX_DEPTH = 16


class Operation(Protocol):
    """A node of a graph that is being made; `inputs` are keys of its table."""

    @property
    def kind(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def inputs(self) -> Sequence[int]: ...
    @property
    def attributes(self) -> dict[str, Any]: ...


Table = Mapping[int, Operation]


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
    ("sigmoid", {}, _sigmoid),
    ("tanh", {}, math.tanh),
    ("relu", {}, lambda x: max(x, 0.0)),
)
"""Functions that are written as a product, a quotient, an inverse or a maximum of functions of one operand."""


def _or(bound: Any, none: float) -> float:
    return none if bound is None else float(bound)


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
    "clamp": lambda x, a: min(max(x, _or(a.get("min"), -math.inf)), _or(a.get("max"), math.inf)),
    "hardtanh": lambda x, a: min(max(x, a.get("min", -1.0)), a.get("max", 1.0)),
}


class _NotScalarError(Exception):
    """The operation is not a function of the one operand alone."""


def clamp(attributes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The activation that `clamp(min=…, max=…)` is: cut at 0 from below it is ReLU, at 6 from above too ReLU6."""
    low, high = attributes.get("min"), attributes.get("max")
    if low == 0 and high in (None, 6) and not isinstance(low, bool):
        return ("relu" if high is None else "relu6"), {}
    return "clamp", attributes


def written_out(key: int, table: Table) -> tuple[str, dict[str, Any], int] | None:
    """The known activation that an operation completes, with its attributes and the key of its operand.

    The formula is evaluated on points, so any way of writing it is seen.
    """
    operation = table[key]
    end = table[operation.inputs[0]] if operation.kind == "scale" and operation.inputs else operation
    if end.kind == "mul" or end.op == "maximum":
        operands = _shared(end, table) if len(end.inputs) == 2 else set()
    elif end.op == "reciprocal" and operation is end:
        operands = _reach(key, table) - {key}
    else:
        return None
    for x in sorted(operands, reverse=True):
        found = _match(key, x, table)
        if found is not None:
            return *found, x
    return None


def _shared(end: Operation, table: Table) -> set[int]:
    """What both operands are computed from by elementwise functions; beside a constant, what the other one is."""
    first, second = (_reach(i, table) for i in end.inputs)
    constant = [table[i].kind == "constant" for i in end.inputs]
    return first & second if not any(constant) else second if constant[0] else first


def _reach(start: int, table: Table) -> set[int]:
    found, level = {start}, {start}
    for _ in range(_MAX_DEPTH):
        level = {i for k in level if _is_elementwise(table[k]) for i in table[k].inputs}
        found |= level
    return found


def _is_elementwise(operation: Operation) -> bool:
    return operation.kind in ("activation", "scale", "add", "mul") or operation.op == "maximum"


def _match(key: int, x: int, table: Table) -> tuple[str, dict[str, Any]] | None:
    values: list[float] = []
    for point in _POINTS:
        try:
            values.append(_value(key, x, point, table, _MAX_DEPTH))
        except _NotScalarError:
            return None
        except (ValueError, OverflowError, ZeroDivisionError, TypeError, KeyError):
            return None
    for op, attributes, function in KNOWN:
        if all(abs(v - function(p)) <= _TOLERANCE * (1.0 + abs(v)) for v, p in zip(values, _POINTS, strict=True)):
            return op, dict(attributes)
    slope = values[0] / _POINTS[0]
    if 0 < slope < 1 and all(
        abs(v - (p if p >= 0 else slope * p)) <= _TOLERANCE * (1.0 + abs(v))
        for v, p in zip(values, _POINTS, strict=True)
    ):
        return "leaky_relu", {"negative_slope": slope}
    return None


def _value(key: int, x: int, point: float, table: Table, depth: int) -> float:
    """The output of an operation where the operand `x` is `point`. Raises _NotScalarError."""
    if key == x:
        return point
    draft = table[key]
    if not depth:
        raise _NotScalarError
    operands = [_value(i, x, point, table, depth - 1) for i in draft.inputs]
    match draft.kind, draft.op:
        case "activation", op if op in _FUNCTIONS and len(operands) == 1:
            return _FUNCTIONS[op](operands[0], draft.attributes)
        case "scale", _ if len(operands) == 1:
            return float(draft.attributes.get("factor", 1.0)) * operands[0] + float(draft.attributes.get("offset", 0.0))
        case "add", op if len(operands) == 2:
            second = operands[1] * float(draft.attributes.get("alpha", 1.0))
            return operands[0] - second if op == "sub" else operands[0] + second
        case "mul", op if len(operands) == 2:
            return operands[0] / operands[1] if op == "div" else operands[0] * operands[1]
        case _, "maximum" if len(operands) == 2:
            return max(operands)
        case "constant", _ if isinstance(draft.attributes.get("value"), (int, float)):
            return float(draft.attributes["value"])
    raise _NotScalarError
