"""What is known of packages that are not installed: numpy's arithmetic with numbers, the spaces of environments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gradlint.graph.spaces import Size, spaces_of
from gradlint.graph.stubs import Unknown

_CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan, "newaxis": None}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        n: getattr(math, n)
        for n in ("sqrt", "exp", "log", "log2", "log10", "log1p", "expm1", "sin", "cos", "tan", "tanh")
    },
    **{n: getattr(math, n) for n in ("floor", "ceil", "hypot", "gcd")},
    "abs": abs,
    "absolute": abs,
    "round": round,
    "power": pow,
    "maximum": max,
    "minimum": min,
    "square": lambda x: x * x,
    "sign": lambda x: (x > 0) - (x < 0),
    "cbrt": lambda x: math.copysign(abs(x) ** (1 / 3), x),
    "floor_divide": lambda x, y: x // y,
    "clip": lambda x, low, high: min(max(x, low), high),
}
"""What numpy's functions make of numbers alone."""
_OF_ROWS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "prod": math.prod,
    "sum": sum,
    "max": max,
    "min": min,
    "amax": max,
    "amin": min,
    "mean": lambda row: sum(row) / len(row),
}
"""What numpy's functions make of a row of numbers."""
_TYPES = {
    **dict.fromkeys(("int8", "int16", "int32", "int64", "int_", "uint8", "long"), int),
    **dict.fromkeys(("float16", "float32", "float64", "float_", "double", "single"), float),
    "bool_": bool,
}
_ABSTRACT_TYPES = frozenset({"ndarray", "generic", "integer", "floating", "number"})
"""Types that nothing is an instance of where there is no numpy."""
_GYMS = frozenset({"gym", "gymnasium", "gym.vector", "gymnasium.vector"})


def member(package: str, name: str) -> Any:
    """What is known of `package.name`; `...` where nothing is."""
    if package == "numpy":
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _TYPES:
            return _TYPES[name]
        if name in _ABSTRACT_TYPES:
            return type(name, (), {})
        if name in ("array", "asarray"):
            return _array
        if name in _FUNCTIONS or name in _OF_ROWS:
            return _Function(name)
    if package in _GYMS and name == "make":
        return _environment
    return ...


class _Function(Unknown):
    """A function of numpy: what it makes of numbers that are known; of anything else an unknown value."""

    def __new__(cls, name: str) -> _Function:
        return super().__new__(cls, f"numpy.{name}")

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        name = self.gradlint_name.removeprefix("numpy.")
        try:
            if not keywords and arguments:
                if name in _FUNCTIONS and all(map(_is_number, arguments)):
                    return _FUNCTIONS[name](*arguments)
                if name in _OF_ROWS and len(arguments) == 1 and _is_row(arguments[0]):
                    return _OF_ROWS[name](arguments[0])
        except (ArithmeticError, ValueError, TypeError):
            pass
        return super().__call__(*arguments, **keywords)


class Row(Unknown):
    """An array of one axis whose numbers are known."""

    def __new__(cls, name: str, values: Sequence[Any]) -> Row:
        made = super().__new__(cls, name, len(values))
        made.values = tuple(values)
        return made

    values: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """One axis."""
        return (len(self.values),)

    def __getattr__(self, name: str) -> Any:
        if name in _OF_ROWS and self.values:
            return lambda *_, **__: _OF_ROWS[name](self.values)
        return super().__getattr__(name)

    def __getitem__(self, key: Any) -> Any:
        try:
            found = self.values[key]
        except (TypeError, IndexError):
            return super().__getitem__(key)
        return Row(self.gradlint_name, found) if isinstance(found, tuple) else found

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def tolist(self) -> list[Any]:
        """The numbers."""
        return list(self.values)

    def astype(self, *_: Any, **__: Any) -> Row:
        """The same numbers."""
        return self


def _array(data: Any = (), *_: Any, **__: Any) -> Any:
    return Row("numpy.array()", data) if _is_row(data) else Unknown("numpy.array()")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, Unknown)


def _is_row(value: Any) -> bool:
    return isinstance(value, (list, tuple, Row)) and all(map(_is_number, value))


def _environment(name: Any = "", *_: Any, **__: Any) -> Unknown:
    """What `gym.make(NAME)` yields, with the spaces that it is known to have."""
    made = Unknown("gym.make()")
    known = spaces_of(name)
    if known is not None:
        for kind, size in zip(("observation_space", "action_space"), known, strict=True):
            for prefix in ("", "single_"):
                setattr(made, f"{prefix}{kind}", _space(kind, size))
        made.unwrapped = made.env = made  # type: ignore[attr-defined]
    return made


def _space(kind: str, size: Size) -> Any:
    from torch import tensor

    made: Any = Unknown(kind)
    made.shape = () if isinstance(size, int) else size
    if isinstance(size, int):
        made.n = size
    elif len(size) == 1:
        # Bounds are computed with, and handed to tensors.
        made.high, made.low = tensor([1.0] * size[0]), tensor([-1.0] * size[0])
    return made
