"""Operators, comparisons and conditions."""

from __future__ import annotations

import ast
import operator
from typing import Any

from gradlint.source.reader import laws
from gradlint.source.reader.assumptions import of_finite_values
from gradlint.source.reader.calls import Calls
from gradlint.source.reader.values import (
    Array,
    Choice,
    External,
    Frame,
    Function,
    Instance,
    Module,
    Pieces,
    ReadingStoppedError,
    Site,
    Tensor,
    Unknown,
    UserClass,
    is_plain,
    merge,
    site_of,
)
from gradlint.source.reader.whole_numbers import WholeNumbers, combined

BINARY: dict[type[ast.operator], tuple[str, Any]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("sub", operator.sub),
    ast.Mult: ("mul", operator.mul),
    ast.Div: ("div", operator.truediv),
    ast.FloorDiv: ("floor_divide", operator.floordiv),
    ast.Mod: ("remainder", operator.mod),
    ast.Pow: ("pow", operator.pow),
    ast.MatMult: ("matmul", operator.matmul),
    ast.BitAnd: ("bitwise_and", operator.and_),
    ast.BitOr: ("bitwise_or", operator.or_),
    ast.BitXor: ("bitwise_xor", operator.xor),
    ast.LShift: ("lshift", operator.lshift),
    ast.RShift: ("rshift", operator.rshift),
}


COMPARE: dict[type[ast.cmpop], Any] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


MAX_SEQUENCE = 100_000


MAX_EXPONENT = 4_096


_NUMBERS = frozenset([int, float])

_SEQUENCES = (str, bytes, list, tuple)

_CONCRETE = (int, float, complex, *_SEQUENCES, set, frozenset, dict)
"""Types whose values Python's operators compute with."""

_CONDITIONS = (int, float, str, bytes, list, tuple, dict, set, range)
"""Types whose values are true or false as Python says."""

_GROWING = (operator.pow, operator.lshift)
"""Operators by which two short integers make a huge one."""


class Operators(Calls):
    """Arithmetic, comparison and truth."""

    def binary(self, op: ast.operator, left: Any, right: Any, site: Site) -> Any:
        """left OP right."""
        name, function = BINARY[type(op)]
        if type(left) in _NUMBERS and type(right) in _NUMBERS:
            return _calculated(function, left, right)
        if self.operations is not None and (self._is_in_graph(left) or self._is_in_graph(right)):
            if name == "matmul":
                return self.operations.function("matmul", [left, right], {}, site)
            return self.operations.arithmetic(name, left, right, site)
        if isinstance(left, Array) or isinstance(right, Array):
            return self.array_arithmetic(name, left, right, site)
        if isinstance(left, Module) and left.torch in ("ModuleList", "Sequential") and name == "add":
            return self._joined(left, right, site)
        if isinstance(left, str) and isinstance(right, Unknown) and name == "add":
            return Unknown(right.reason, prefix=left, choices=right.choices, source=right)
        if isinstance(left, str) and name == "mod":
            return self._percent(left, right)
        if name == "bitwise_or" and isinstance(left, dict) and isinstance(right, dict):
            return {**left, **right}
        return self.concrete(function, left, right)

    def _is_in_graph(self, value: Any) -> bool:
        """Whether an operation on a value is a node of the graph that is being read."""
        return isinstance(value, (Tensor, Pieces)) or self.is_weight(value)

    def _joined(self, left: Module, right: Any, site: Site) -> Any:
        """A container of layers and what is added to it, as a new container."""
        first, second = self.items(left, site), self.items(right, site)
        if first is None or second is None:
            return Unknown("layers that are not known")
        both = [*first, *second]
        return self.call(External(f"torch.nn.{left.torch}"), both if left.torch == "Sequential" else [both], {}, site)

    def _percent(self, left: str, right: Any) -> Any:
        if is_plain(right):
            try:
                return left % right
            except (TypeError, ValueError, KeyError):
                return Unknown("a string format")
        return Unknown("a string format", prefix=left.split("%", maxsplit=1)[0])

    def concrete(self, function: Any, left: Any, right: Any) -> Any:
        """A Python operator on concrete values, guarded against huge results."""
        if isinstance(left, Unknown) or isinstance(right, Unknown):
            return Unknown(
                "arithmetic with a value that is not known",
                numeric=_numeric(left) and _numeric(right),
                tensor=_elementwise(left) or _elementwise(right),
            )
        if isinstance(left, Choice) or isinstance(right, Choice):
            return Unknown("arithmetic with alternatives")
        try:
            if isinstance(left, WholeNumbers) or isinstance(right, WholeNumbers):
                return combined(function, left, right) or Unknown("arithmetic on arrays", numeric=True)
            if function is operator.mul:
                for a, b in ((left, right), (right, left)):
                    if isinstance(a, _SEQUENCES) and (not isinstance(b, int) or b * len(a) > MAX_SEQUENCE):
                        return Unknown("a huge sequence")
        except (TypeError, ValueError, ArithmeticError, MemoryError):
            return Unknown("arithmetic that fails")
        if isinstance(left, _CONCRETE) and isinstance(right, _CONCRETE):
            return _calculated(function, left, right)
        return Unknown("arithmetic on objects")

    def _of_binop(self, node: ast.BinOp, frame: Frame) -> Any:
        left, right = self.evaluate(node.left, frame), self.evaluate(node.right, frame)
        return self.binary(node.op, left, right, site_of(frame.file, node))

    def _of_unaryop(self, node: ast.UnaryOp, frame: Frame) -> Any:
        value = self.evaluate(node.operand, frame)
        site = site_of(frame.file, node)
        if isinstance(node.op, ast.Not):
            truth = self.truth(value)
            return Unknown("a condition that is not known") if truth is None else not truth
        if isinstance(value, Tensor) and self.operations is not None:
            if isinstance(node.op, ast.USub):
                return self.operations.arithmetic("mul", value, -1.0, site)
            return self.operations.unknown("invert", [value], {}, site)
        if isinstance(value, Array):
            return Array(value.shape, laws.scaled(value.law, -1.0, None), site=site)
        if isinstance(value, (int, float)):
            if isinstance(node.op, ast.USub):
                return -value
            if isinstance(node.op, ast.Invert):
                return ~value if isinstance(value, int) else Unknown("invert")
            return +value
        return Unknown("a sign", numeric=_numeric(value), tensor=isinstance(value, Unknown) and value.tensor)

    def _of_boolop(self, node: ast.BoolOp, frame: Frame) -> Any:
        wanted = isinstance(node.op, ast.Or)
        unknown: list[Any] = []
        value: Any = None
        for operand in node.values:
            value = self.evaluate(operand, frame)
            truth = self.truth(value)
            if truth is None:
                unknown.append(value)
            elif truth == wanted:
                if not unknown:
                    return value
                return Unknown("a condition that is not known") if wanted is False else merge([*unknown, value], "or")
        if not unknown:
            return value
        return unknown[0] if len(unknown) == 1 and len(node.values) == 1 else Unknown("a condition that is not known")

    def _of_compare(self, node: ast.Compare, frame: Frame) -> Any:
        left = self.evaluate(node.left, frame)
        result: bool | None = True
        tensors = False
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.evaluate(comparator, frame)
            one = self.compare(op, left, right)
            if one is False:
                return False
            if one is None:
                result = None
                tensors |= type(op) in COMPARE and (_elementwise(left) or _elementwise(right))
            left = right
        return Unknown("a comparison with a value that is not known", tensor=tensors) if result is None else True

    def compare(self, op: ast.cmpop, left: Any, right: Any) -> bool | None:
        """left OP right, None when it is not known."""
        function = COMPARE.get(type(op))
        if function is None:
            holds = _identical(left, right) if isinstance(op, (ast.Is, ast.IsNot)) else self._contains(left, right)
            return holds if holds is None or isinstance(op, (ast.Is, ast.In)) else not holds
        if is_plain(left) and is_plain(right):
            try:
                return bool(function(left, right))
            except TypeError:
                return None
        if isinstance(op, (ast.Eq, ast.NotEq)):
            comparable = (External, UserClass, Function, Module, str, type(None))
            if isinstance(left, comparable) and isinstance(right, comparable):
                alike = left is right or (type(left) is type(right) and bool(left == right))
                return alike if isinstance(op, ast.Eq) else not alike
        return None

    def _contains(self, item: Any, container: Any) -> bool | None:
        if isinstance(container, Module):
            container = container.children
        if isinstance(item, (Unknown, Choice)):
            return None
        if isinstance(container, str):
            return item in container if isinstance(item, str) else None
        if isinstance(container, (list, tuple, set, frozenset, dict, range)):
            try:
                if any(
                    item is v or (is_plain(v) and item == v) or (isinstance(v, External) and item == v)
                    for v in container
                ):
                    return True
                return None if any(isinstance(v, (Unknown, Choice)) for v in container) else False
            except TypeError:
                return None
        return None

    def truth(self, value: Any) -> bool | None:
        """Whether a value is true, None if that is not known."""
        if value is None or isinstance(value, _CONDITIONS):
            return bool(value)
        match value:
            case Function() | UserClass() | Instance():
                return True
            case Module():
                return bool(value.children) if value.torch in ("Sequential", "ModuleList", "ModuleDict") else True
        return None

    def holds(self, test: ast.expr, frame: Frame) -> bool | None:
        """Whether a condition is true: as the source tells, or in a graph as this reading of it assumes."""
        truth = self.truth(self.evaluate(test, frame))
        if truth is None and self.operations is not None:
            finite = of_finite_values(test)
            return finite if finite is not None else self.assumptions.truth(test)
        return truth

    def _of_ifexp(self, node: ast.IfExp, frame: Frame) -> Any:
        truth = self.holds(node.test, frame)
        if truth is not None:
            return self.evaluate(node.body if truth else node.orelse, frame)
        count = len(self.operations.builder.nodes) if self.operations else 0
        values = [self.evaluate(node.body, frame), self.evaluate(node.orelse, frame)]
        if self.operations is not None and len(self.operations.builder.nodes) > count:
            site = site_of(frame.file, node.test)
            reason = f"which value is taken depends on `{site.text}`, which is not known"
            raise ReadingStoppedError(site, reason, node.test)
        return merge(values, "depends on a condition that is not known")


def _calculated(function: Any, left: Any, right: Any) -> Any:
    """A Python operator on two values of Python's own, but for powers and shifts that would be huge."""
    try:
        grows = function in _GROWING and isinstance(left, int) and isinstance(right, int)
        if grows and (right > MAX_EXPONENT or left.bit_length() > MAX_EXPONENT):
            return Unknown("a huge number", numeric=True)
        return function(left, right)
    except (TypeError, ValueError, ArithmeticError, MemoryError):
        return Unknown("arithmetic that fails")


def _identical(left: Any, right: Any) -> bool | None:
    """Whether two values are one object, None when it is not known."""
    if not isinstance(left, (Unknown, Choice)) and not isinstance(right, (Unknown, Choice)):
        return left is right or (isinstance(left, External) and left == right)
    beside_none = right if left is None else left if right is None else None
    is_value = isinstance(beside_none, Unknown) and (beside_none.tensor or beside_none.numeric)
    return False if is_value else None


def _elementwise(value: Any) -> bool:
    return isinstance(value, (Tensor, Array, Pieces)) or (isinstance(value, Unknown) and value.tensor)


def _numeric(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, Unknown) and value.numeric
    )
