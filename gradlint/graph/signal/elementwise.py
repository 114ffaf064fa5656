"""The elementwise functions that the prediction knows, with their slopes, and the door for a user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Function = Callable[[float], float]

_ROOT_TWO = math.sqrt(2.0)
_GELU_SCALE = math.sqrt(2.0 / math.pi)
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_QUICK_GELU = 1.702


@dataclass(frozen=True)
class Elementwise:
    """A function applied to every element; `key` identifies it, arguments included.

    `halves` is (slope left of 0, slope right of 0) for the rectifiers that are linear on each side: they
    scale with their input, and their Gaussian moments have closed forms. `kinks`: where φ or φ′ jumps.
    """

    key: tuple[Any, ...]
    phi: Function = field(compare=False)
    slope: Function = field(compare=False)
    halves: tuple[float, float] | None = field(default=None, compare=False)
    kinks: tuple[float, ...] = field(default=(), compare=False)


IDENTITY = Elementwise(("identity",), lambda x: x, lambda x: 1.0, (1.0, 1.0))

Builder = Callable[[Mapping[str, Any]], tuple[Function, Function]]
_OWN: dict[str, Elementwise] = {}


def register(name: str, phi: Function, slope: Function | None = None) -> None:
    """Teach the prediction the elementwise function `name`; without `slope` it is differentiated numerically."""

    def numeric(x: float) -> float:
        step = 1e-6 * max(1.0, abs(x))
        return (phi(x + step) - phi(x - step)) / (2.0 * step)

    _OWN[name] = Elementwise(("own", name, id(phi)), phi, slope or numeric)


def number(attributes: Mapping[str, Any], name: str, default: float) -> float:
    """A numeric attribute, or its default in PyTorch."""
    value = attributes.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default


def elementwise(op: str, attributes: Mapping[str, Any]) -> Elementwise | None:
    """The function of an activation node, None when it is not known."""
    if op in _OWN:
        return _OWN[op]
    if op in _HALVES:
        left, right = _HALVES[op](attributes)
        return Elementwise(
            ("halves", left, right),
            lambda x: (right if x > 0 else left) * x,
            lambda x: right if x > 0 else left,
            (left, right),
        )
    build = _TABLE.get(op)
    if build is None:
        return None
    phi, slope = build(attributes)
    arguments = tuple((k, attributes[k]) for k in _ARGUMENTS if isinstance(attributes.get(k), (int, float, str)))
    return Elementwise((op, *arguments), phi, slope, kinks=_kinks(op, attributes))


def _kinks(op: str, a: Mapping[str, Any]) -> tuple[float, ...]:
    ends = {
        "relu6": (0.0, 6.0),
        "hardtanh": (number(a, "min_val", number(a, "min", -1.0)), number(a, "max_val", number(a, "max", 1.0))),
        "clamp": (number(a, "min", -math.inf), number(a, "max", math.inf)),
        "hardsigmoid": (-3.0, 3.0),
        "hardswish": (-3.0, 3.0),
        "threshold": (number(a, "threshold", 0.0),),
        "softshrink": (-number(a, "lambd", 0.5), number(a, "lambd", 0.5)),
        "hardshrink": (-number(a, "lambd", 0.5), number(a, "lambd", 0.5)),
    }
    smooth_but_at_zero = {"elu", "celu", "selu", "softsign"}
    return tuple(x for x in ends.get(op, (0.0,) if op in smooth_but_at_zero else ()) if math.isfinite(x))


_ARGUMENTS = (
    "alpha",
    "approximate",
    "beta",
    "exponent",
    "factor",
    "lambd",
    "max",
    "min",
    "max_val",
    "min_val",
    "threshold",
    "value",
)
_HALVES: dict[str, Callable[[Mapping[str, Any]], tuple[float, float]]] = {
    "relu": lambda a: (0.0, 1.0),
    "leaky_relu": lambda a: (number(a, "negative_slope", 0.01), 1.0),
    "prelu": lambda a: (number(a, "init", 0.25), 1.0),
    "rrelu": lambda a: (0.5 * (number(a, "lower", 1 / 8) + number(a, "upper", 1 / 3)), 1.0),
    "abs": lambda a: (-1.0, 1.0),
    "neg": lambda a: (-1.0, -1.0),
}


def sigmoid(x: float) -> float:
    """1/(1 + e⁻ˣ), without overflow."""
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


def _sigmoid_slope(x: float) -> float:
    e = math.exp(-abs(x))
    return e / (1.0 + e) ** 2


def _tanh_slope(x: float) -> float:
    e = math.exp(-2.0 * abs(x))
    return 4.0 * e / (1.0 + e) ** 2


def _density(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi) if abs(x) < 38.0 else 0.0


def _cumulative(x: float) -> float:
    return 0.5 * math.erfc(-x / _ROOT_TWO)


def _gelu(a: Mapping[str, Any]) -> tuple[Function, Function]:
    if a.get("approximate") == "tanh":

        def inner(x: float) -> float:
            return _GELU_SCALE * (x + 0.044715 * x**3)

        return (
            lambda x: 0.5 * x * (1.0 + math.tanh(inner(x))),
            lambda x: (
                0.5 * (1.0 + math.tanh(inner(x)))
                + 0.5 * x * _tanh_slope(inner(x)) * _GELU_SCALE * (1.0 + 3 * 0.044715 * x * x)
            ),
        )
    return lambda x: x * _cumulative(x), lambda x: _cumulative(x) + x * _density(x)


def _swish(beta: float) -> tuple[Function, Function]:
    return (
        lambda x: x * sigmoid(beta * x),
        lambda x: sigmoid(beta * x) + beta * x * _sigmoid_slope(beta * x),
    )


def _elu(alpha: float, scale: float = 1.0, stretch: float = 1.0) -> tuple[Function, Function]:
    return (
        lambda x: scale * (x if x > 0 else alpha * math.expm1(x / stretch)),
        lambda x: scale * (1.0 if x > 0 else alpha / stretch * math.exp(x / stretch)),
    )


def _softplus(a: Mapping[str, Any]) -> tuple[Function, Function]:
    beta = number(a, "beta", 1.0)
    return (
        lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(beta * x))) / beta,
        lambda x: sigmoid(beta * x),
    )


def _mish(a: Mapping[str, Any]) -> tuple[Function, Function]:
    def softplus(x: float) -> float:
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    return (
        lambda x: x * math.tanh(softplus(x)),
        lambda x: math.tanh(softplus(x)) + x * _tanh_slope(softplus(x)) * sigmoid(x),
    )


def _clamp(low: float, high: float) -> tuple[Function, Function]:
    return lambda x: min(max(x, low), high), lambda x: 1.0 if low < x < high else 0.0


def _hard_sigmoid(a: Mapping[str, Any]) -> tuple[Function, Function]:
    return lambda x: min(max(x / 6.0 + 0.5, 0.0), 1.0), lambda x: 1 / 6.0 if -3.0 < x < 3.0 else 0.0


def _hard_swish(a: Mapping[str, Any]) -> tuple[Function, Function]:
    def slope(x: float) -> float:
        if x <= -3.0:
            return 0.0
        return 1.0 if x >= 3.0 else (2.0 * x + 3.0) / 6.0

    return lambda x: x * min(max(x + 3.0, 0.0), 6.0) / 6.0, slope


def _power(exponent: float) -> tuple[Function, Function]:
    if exponent == int(exponent):
        n = int(exponent)
        return lambda x: x**n if x or n > 0 else 0.0, lambda x: n * x ** (n - 1) if x or n > 0 else 0.0
    # A fractional power of a negative number is nan in torch: only the positive half exists.
    return (
        lambda x: x**exponent if x > 0 else 0.0,
        lambda x: exponent * x ** (exponent - 1.0) if x > 0 else 0.0,
    )


def _reciprocal(a: Mapping[str, Any]) -> tuple[Function, Function]:
    factor = number(a, "factor", 1.0)
    return lambda x: factor / x if x else 0.0, lambda x: -factor / (x * x) if x else 0.0


def _threshold(a: Mapping[str, Any]) -> tuple[Function, Function]:
    edge, value = number(a, "threshold", 0.0), number(a, "value", 0.0)
    return lambda x: x if x > edge else value, lambda x: 1.0 if x > edge else 0.0


def _shrink(a: Mapping[str, Any], soft: bool) -> tuple[Function, Function]:
    edge = number(a, "lambd", 0.5)
    keep = edge if soft else 0.0
    return (
        lambda x: math.copysign(abs(x) - keep, x) if abs(x) > edge else 0.0,
        lambda x: 1.0 if abs(x) > edge else 0.0,
    )


_TABLE: dict[str, Builder] = {
    "relu6": lambda a: _clamp(0.0, 6.0),
    "elu": lambda a: _elu(number(a, "alpha", 1.0)),
    "celu": lambda a: _elu(number(a, "alpha", 1.0), stretch=number(a, "alpha", 1.0)),
    "selu": lambda a: _elu(_SELU_ALPHA, _SELU_SCALE),
    "gelu": _gelu,
    "quick_gelu": lambda a: _swish(_QUICK_GELU),
    "silu": lambda a: _swish(1.0),
    "mish": _mish,
    "softplus": _softplus,
    "softsign": lambda a: (lambda x: x / (1.0 + abs(x)), lambda x: (1.0 + abs(x)) ** -2),
    "tanh": lambda a: (math.tanh, _tanh_slope),
    "sigmoid": lambda a: (sigmoid, _sigmoid_slope),
    "logsigmoid": lambda a: (lambda x: min(x, 0.0) - math.log1p(math.exp(-abs(x))), lambda x: sigmoid(-x)),
    "hardtanh": lambda a: _clamp(
        number(a, "min_val", number(a, "min", -1.0)), number(a, "max_val", number(a, "max", 1.0))
    ),
    "clamp": lambda a: _clamp(number(a, "min", -math.inf), number(a, "max", math.inf)),
    "hardsigmoid": _hard_sigmoid,
    "hardswish": _hard_swish,
    "tanhshrink": lambda a: (lambda x: x - math.tanh(x), lambda x: math.tanh(x) ** 2),
    "softshrink": lambda a: _shrink(a, True),
    "hardshrink": lambda a: _shrink(a, False),
    "threshold": _threshold,
    "erf": lambda a: (math.erf, lambda x: 2.0 * _density(x * _ROOT_TWO) * _ROOT_TWO),
    "exp": lambda a: (math.exp, math.exp),
    "expm1": lambda a: (math.expm1, math.exp),
    "log1p": lambda a: (lambda x: math.log1p(x) if x > -1 else 0.0, lambda x: 1 / (1 + x) if x > -1 else 0.0),
    "log": lambda a: (lambda x: math.log(x) if x > 0 else 0.0, lambda x: 1.0 / x if x > 0 else 0.0),
    "sqrt": lambda a: _power(0.5),
    "rsqrt": lambda a: _power(-0.5),
    "square": lambda a: _power(2.0),
    "reciprocal": _reciprocal,
    "log2": lambda a: (lambda x: math.log2(x) if x > 0 else 0.0, lambda x: 1.4426950408889634 / x if x > 0 else 0.0),
    "arctan": lambda a: (math.atan, lambda x: 1.0 / (1.0 + x * x)),
    "pow": lambda a: _power(number(a, "exponent", 2.0)),
    "sin": lambda a: (math.sin, math.cos),
    "cos": lambda a: (math.cos, lambda x: -math.sin(x)),
    "atan": lambda a: (math.atan, lambda x: 1.0 / (1.0 + x * x)),
    "sign": lambda a: (lambda x: math.copysign(1.0, x) if x else 0.0, lambda x: 0.0),
    "round": lambda a: (lambda x: float(round(x)), lambda x: 0.0),
    "floor": lambda a: (lambda x: float(math.floor(x)), lambda x: 0.0),
}

KNOWN = frozenset(_TABLE) | frozenset(_HALVES)
"""Names of the elementwise functions that have a rule."""
