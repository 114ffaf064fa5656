"""Expressions: literals, operators, look-ups, comprehensions."""

from __future__ import annotations

import ast
import operator
from typing import Any

from gradlint.source.reader import laws
from gradlint.source.reader.objects import Objects
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
    Super,
    Tensor,
    Unknown,
    UserClass,
    is_plain,
    merge,
)

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

MAX_LITERAL = 2_000
"""A literal with more elements is data."""

LONG_LOOP = 400
"""Steps after which a loop of a script that builds nothing counts as work on data and is left."""

LONG_BUILDING_LOOP = 4_000
"""The same inside a constructor, where tables of sizes are computed."""
MAX_EXPONENT = 4_096


class Expressions(Objects):
    """Evaluates expressions."""

    def evaluate(self, node: ast.expr, frame: Frame) -> Any:
        """The value of an expression; never raises for bad user code."""
        self.step()
        kind = type(node)
        method = self.methods.get(kind)
        if method is None:
            method = self.methods[kind] = getattr(self, f"_of_{kind.__name__.lower()}", self._not_followed)
        return method(node, frame)

    def _not_followed(self, node: ast.expr, frame: Frame) -> Any:
        return Unknown(f"`{type(node).__name__}` is not followed")

    def _of_constant(self, node: ast.Constant, frame: Frame) -> Any:
        return node.value

    def _of_name(self, node: ast.Name, frame: Frame) -> Any:
        value = self.lookup(node.id, frame)
        if value is None and not self._bound_to_none(node.id, frame):
            value = self.builtin(node.id)
        return value.settled if isinstance(value, Unknown) and value.settled is not None else value

    def _bound_to_none(self, name: str, frame: Frame) -> bool:
        current: Frame | None = frame.outward.get(name, frame)
        while current is not None:
            if name in current.names:
                return True
            current = current.outer
        return False

    def _of_attribute(self, node: ast.Attribute, frame: Frame) -> Any:
        return self.attribute(self.evaluate(node.value, frame), node.attr, Site(frame.file, node))

    def _of_call(self, node: ast.Call, frame: Frame) -> Any:
        site = Site(frame.file, node)
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            owner = self._owner(frame)
            if owner is not None:
                return Super(self._receiver(frame), owner)
        callee = self.evaluate(node.func, frame)
        args: list[Any] = []
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                value = self.evaluate(argument.value, frame)
                items = self.items(value, site)
                args += [Unknown("unpacked arguments that are not known")] if items is None else items
            else:
                args.append(self.evaluate(argument, frame))
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.evaluate(keyword.value, frame)
            if keyword.arg is not None:
                kwargs[keyword.arg] = value
            elif isinstance(value, dict):
                kwargs.update({k: v for k, v in value.items() if isinstance(k, str)})
        if isinstance(callee, External) and callee.name in ("globals", "locals", "vars") and not args:
            return frame.names
        return self.call(callee, args, kwargs, site)

    def _owner(self, frame: Frame) -> UserClass | None:
        current: Frame | None = frame
        while current is not None:
            if current.owner is not None and current.receiver is not None:
                return current.owner
            current = current.outer
        return None

    def _receiver(self, frame: Frame) -> Any:
        current: Frame | None = frame
        while current is not None:
            if current.receiver is not None:
                return current.receiver
            current = current.outer
        return None

    def _of_binop(self, node: ast.BinOp, frame: Frame) -> Any:
        left, right = self.evaluate(node.left, frame), self.evaluate(node.right, frame)
        return self.binary(node.op, left, right, Site(frame.file, node))

    def binary(self, op: ast.operator, left: Any, right: Any, site: Site) -> Any:
        """left OP right."""
        name, function = BINARY[type(op)]
        if self.operations is not None and any(
            isinstance(v, (Tensor, Pieces)) or self.is_weight(v) for v in (left, right)
        ):
            if name == "matmul":
                return self.operations.function("matmul", [left, right], {}, site)
            return self.operations.arithmetic(name, left, right, site)
        if isinstance(left, Array) or isinstance(right, Array):
            return self.array_arithmetic(name, left, right, site)
        if isinstance(left, str) and isinstance(right, Unknown) and name == "add":
            return Unknown(right.reason, prefix=left, choices=right.choices, source=right)
        if isinstance(left, str) and name == "mod":
            return self._percent(left, right)
        if name == "bitwise_or" and isinstance(left, dict) and isinstance(right, dict):
            return {**left, **right}
        return self.concrete(function, left, right)

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
        sequences = (str, bytes, list, tuple)
        try:
            if function is operator.mul:
                for a, b in ((left, right), (right, left)):
                    if isinstance(a, sequences) and (not isinstance(b, int) or b * len(a) > MAX_SEQUENCE):
                        return Unknown("a huge sequence")
            integers = isinstance(left, int) and isinstance(right, int) and function in (operator.pow, operator.lshift)
            if integers and (right > MAX_EXPONENT or left.bit_length() > MAX_EXPONENT):
                return Unknown("a huge number", numeric=True)
            if isinstance(left, (int, float, complex, *sequences, set, frozenset, dict)) and isinstance(
                right, (int, float, complex, *sequences, set, frozenset, dict)
            ):
                return function(left, right)
        except (TypeError, ValueError, ArithmeticError, MemoryError):
            return Unknown("arithmetic that fails")
        return Unknown("arithmetic on objects")

    def _of_unaryop(self, node: ast.UnaryOp, frame: Frame) -> Any:
        value = self.evaluate(node.operand, frame)
        site = Site(frame.file, node)
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
            tensors |= not isinstance(op, (ast.Is, ast.IsNot, ast.In, ast.NotIn)) and (
                _elementwise(left) or _elementwise(right)
            )
            one = self.compare(op, left, right)
            if one is False:
                return False
            if one is None:
                result = None
            left = right
        return Unknown("a comparison with a value that is not known", tensor=tensors) if result is None else True

    def compare(self, op: ast.cmpop, left: Any, right: Any) -> bool | None:
        """left OP right, None when it is not known."""
        match op:
            case ast.Is() | ast.IsNot():
                if None in (left, right) and any(
                    isinstance(v, Unknown) and (v.tensor or v.numeric) for v in (left, right)
                ):
                    return isinstance(op, ast.IsNot)
                if isinstance(left, (Unknown, Choice)) or isinstance(right, (Unknown, Choice)):
                    return None
                alike = left is right or (isinstance(left, External) and left == right)
                return alike if isinstance(op, ast.Is) else not alike
            case ast.In() | ast.NotIn():
                found = self._contains(left, right)
                return found if found is None or isinstance(op, ast.In) else not found
        if is_plain(left) and is_plain(right):
            try:
                return bool(COMPARE[type(op)](left, right))
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
        match value:
            case bool() | int() | float() | str() | bytes() | list() | tuple() | dict() | set() | range() | None:
                return bool(value)
            case Function() | UserClass() | Instance():
                return True
            case Module():
                return bool(value.children) if value.torch in ("Sequential", "ModuleList", "ModuleDict") else True
        return None

    def _of_ifexp(self, node: ast.IfExp, frame: Frame) -> Any:
        truth = self.truth(self.evaluate(node.test, frame))
        if truth is not None:
            return self.evaluate(node.body if truth else node.orelse, frame)
        count = len(self.operations.builder.nodes) if self.operations else 0
        values = [self.evaluate(node.body, frame), self.evaluate(node.orelse, frame)]
        if self.operations is not None and len(self.operations.builder.nodes) > count:
            site = Site(frame.file, node.test)
            raise ReadingStoppedError(site, f"which value is taken depends on `{site.text}`, which is not known")
        return merge(values, "depends on a condition that is not known")

    def _of_namedexpr(self, node: ast.NamedExpr, frame: Frame) -> Any:
        value = self.evaluate(node.value, frame)
        frame.names[node.target.id] = value
        return value

    def _of_subscript(self, node: ast.Subscript, frame: Frame) -> Any:
        return self.get_item(self.evaluate(node.value, frame), self.evaluate(node.slice, frame), Site(frame.file, node))

    def _of_slice(self, node: ast.Slice, frame: Frame) -> Any:
        return slice(
            *(None if part is None else self.evaluate(part, frame) for part in (node.lower, node.upper, node.step))
        )

    def _sequence(self, nodes: list[ast.expr], frame: Frame) -> list[Any]:
        if len(nodes) > MAX_LITERAL:
            return [Unknown("a large table")]
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                value = self.evaluate(node.value, frame)
                items = self.items(value, Site(frame.file, node))
                found += [Unknown("unpacked elements that are not known")] if items is None else items
            else:
                found.append(self.evaluate(node, frame))
        return found

    def _of_list(self, node: ast.List, frame: Frame) -> Any:
        if len(node.elts) > MAX_LITERAL:
            return Unknown("a large table")
        return self._sequence(node.elts, frame)

    def _of_tuple(self, node: ast.Tuple, frame: Frame) -> Any:
        return tuple(self._sequence(node.elts, frame))

    def _of_set(self, node: ast.Set, frame: Frame) -> Any:
        items = self._sequence(node.elts, frame)
        return set(items) if all(isinstance(i, (str, int, float)) for i in items) else Unknown("a set")

    def _of_dict(self, node: ast.Dict, frame: Frame) -> Any:
        table: dict[Any, Any] = {}
        if len(node.keys) > MAX_LITERAL:
            return Unknown("a large table")
        for key, value in zip(node.keys, node.values, strict=True):
            held = self.evaluate(value, frame)
            if key is None:
                table.update(held if isinstance(held, dict) else {})
                continue
            name = self.evaluate(key, frame)
            try:
                table[name] = held
            except TypeError:
                continue
        return table

    def _of_lambda(self, node: ast.Lambda, frame: Frame) -> Any:
        return self.make_function(node, frame)

    def _of_joinedstr(self, node: ast.JoinedStr, frame: Frame) -> Any:
        text, known, choices, source = "", True, (), None
        for part in node.values:
            value = (
                self.evaluate(part.value, frame) if isinstance(part, ast.FormattedValue) else self.evaluate(part, frame)
            )
            if known and isinstance(part, ast.FormattedValue) and part.format_spec is not None:
                try:
                    value = format(value, str(self.evaluate(part.format_spec, frame))) if is_plain(value) else value
                except (TypeError, ValueError):
                    value = Unknown("a string format")
            if not known:
                continue
            if isinstance(value, (str, int, float)) or value is None:
                text += str(value)
            else:
                known = False
                choices = value.choices if isinstance(value, Unknown) else ()
                source = value if isinstance(value, Unknown) else None
        return (
            text
            if known
            else Unknown("an f-string with a value that is not known", prefix=text, choices=choices, source=source)
        )

    def _of_formattedvalue(self, node: ast.FormattedValue, frame: Frame) -> Any:
        return self.evaluate(node.value, frame)

    def _of_starred(self, node: ast.Starred, frame: Frame) -> Any:
        return self.evaluate(node.value, frame)

    def _of_await(self, node: ast.Await, frame: Frame) -> Any:
        return self.evaluate(node.value, frame)

    def _of_yield(self, node: ast.Yield, frame: Frame) -> Any:
        value = self.evaluate(node.value, frame) if node.value else None
        if frame.yields is not None:
            frame.yields.append(value)
        return Unknown("sent value")

    def _of_yieldfrom(self, node: ast.YieldFrom, frame: Frame) -> Any:
        items = self.items(self.evaluate(node.value, frame), Site(frame.file, node))
        if frame.yields is not None and items is not None:
            frame.yields.extend(items)
        return Unknown("sent value")

    # -- comprehensions ------------------------------------------------------------------------------------------

    def _comprehend(self, generators: list[ast.comprehension], frame: Frame, produce: Any) -> bool:
        """Run the clauses, calling produce(frame) for each element; False if an iterable is not known."""
        if not generators:
            produce(frame)
            return True
        first, rest = generators[0], generators[1:]
        site = Site(frame.file, first.iter)
        items = self.items(self.evaluate(first.iter, frame), site)
        if items is None or len(items) > MAX_SEQUENCE:
            return False
        complete = True
        started, events = self.steps, self.events
        for item in items:
            if self.is_idle(started, events):
                return False
            self.assign(first.target, item, frame)
            keep = [self.truth(self.evaluate(test, frame)) for test in first.ifs]
            if None in keep:
                complete = False
            elif all(keep):
                complete &= self._comprehend(rest, frame, produce)
        return complete

    def is_idle(self, started: int, events: int) -> bool:
        """Whether a loop has run long without making or initialising anything."""
        if self.operations is not None or self.events != events:
            return False
        return self.steps - started > (LONG_BUILDING_LOOP if self.building else LONG_LOOP)

    def assign(self, target: ast.expr, value: Any, frame: Frame) -> None:
        """Bind a target; the statements know how."""
        raise NotImplementedError

    def _inner(self, frame: Frame) -> Frame:
        return Frame(frame.file, {}, outer=frame, returns=frame.returns)

    def _of_listcomp(self, node: ast.ListComp | ast.GeneratorExp, frame: Frame) -> Any:
        found: list[Any] = []
        inner = self._inner(frame)
        if self._comprehend(node.generators, inner, lambda f: found.append(self.evaluate(node.elt, f))):
            return found
        return Unknown("a comprehension over something that is not known")

    _of_generatorexp = _of_listcomp

    def _of_setcomp(self, node: ast.SetComp, frame: Frame) -> Any:
        found: list[Any] = []
        known = self._comprehend(
            node.generators, self._inner(frame), lambda f: found.append(self.evaluate(node.elt, f))
        )
        return set(found) if known and all(isinstance(v, (str, int, float)) for v in found) else Unknown("a set")

    def _of_dictcomp(self, node: ast.DictComp, frame: Frame) -> Any:
        table: dict[Any, Any] = {}

        def produce(inner: Frame) -> None:
            key, value = self.evaluate(node.key, inner), self.evaluate(node.value, inner)
            if isinstance(key, (str, int, float, tuple)) and is_plain(key):
                table[key] = value

        if self._comprehend(node.generators, self._inner(frame), produce):
            return table
        return Unknown("a comprehension over something that is not known")


def _elementwise(value: Any) -> bool:
    return isinstance(value, (Tensor, Array, Pieces)) or (isinstance(value, Unknown) and value.tensor)


def _numeric(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, Unknown) and value.numeric
    )
