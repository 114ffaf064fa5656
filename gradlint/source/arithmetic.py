"""Operators over plain values, bounded in size, as the resolver needs them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any, Final

MISSING: Final = object()
"""Stands for "not known" where None is a value."""

MAX_TEXT = 4096
MAX_EXPONENT = 512


class NotComputable(Exception):  # noqa: N818 -- it is an answer, not an error
    """The operands have no such operation, or the result is too large to be of use."""


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: lambda a, b: a == b,
    ast.IsNot: lambda a, b: a != b,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def binary(op: ast.operator, a: object, b: object) -> object:
    """`a op b`. Raises NotComputable."""
    function = _BINARY.get(type(op))
    if function is None or _too_large(op, a, b):
        raise NotComputable
    try:
        result = function(a, b)
    except Exception as error:
        raise NotComputable from error
    if isinstance(result, complex) or (isinstance(result, (str, list, tuple)) and len(result) > MAX_TEXT):
        raise NotComputable
    return result


def _too_large(op: ast.operator, a: object, b: object) -> bool:
    if isinstance(op, ast.Pow):
        return not (isinstance(a, (int, float)) and isinstance(b, (int, float)) and abs(b) <= MAX_EXPONENT)
    if isinstance(op, ast.Mult):
        sizes = [len(x) for x in (a, b) if isinstance(x, (str, list, tuple))]
        counts = [x for x in (a, b) if isinstance(x, int)]
        if any(size * max(count, 1) > MAX_TEXT for size in sizes for count in counts):
            return True
    return any(isinstance(x, int) and abs(x) > 1 << 4096 for x in (a, b))


def unary(op: ast.unaryop, a: object) -> object:
    """`op a`. Raises NotComputable."""
    if not isinstance(a, (int, float)):
        raise NotComputable
    match op:
        case ast.USub():
            return -a
        case ast.UAdd():
            return +a
        case ast.Not():
            return not a
    raise NotComputable


def joined(*parts: object) -> str:
    """The text of an f-string's parts."""
    text = "".join(str(p) for p in parts)
    if len(text) > MAX_TEXT:
        raise NotComputable
    return text


def compare(op: ast.cmpop, a: object, b: object) -> bool:
    """`a op b` as a condition. Raises NotComputable."""
    try:
        return bool(_COMPARE[type(op)](a, b))
    except Exception as error:
        raise NotComputable from error
