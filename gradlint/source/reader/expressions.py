"""Expressions: literals, look-ups, calls, texts."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.source.reader.comprehensions import Comprehensions
from gradlint.source.reader.values import (
    External,
    Frame,
    OutOfStepsError,
    Super,
    Unknown,
    UserClass,
    is_plain,
    site_of,
)

MAX_LITERAL = 2_000
"""A literal with more elements is data."""


_OF_THE_FRAME = frozenset(["super", "globals", "locals", "vars", "eval"])
"""Built-ins whose result depends on the names around the call."""


class Expressions(Comprehensions):
    """Evaluates expressions."""

    def evaluate(self, node: ast.expr, frame: Frame) -> Any:
        """The value of an expression; never raises for bad user code."""
        self.steps += 1
        if self.steps > self.limit:
            raise OutOfStepsError
        return self.methods[type(node)](node, frame)

    def _of_other(self, node: ast.expr, frame: Frame) -> Any:
        return Unknown(f"`{type(node).__name__}` is not followed")

    def _of_constant(self, node: ast.Constant, frame: Frame) -> Any:
        return node.value

    def _of_name(self, node: ast.Name, frame: Frame) -> Any:
        value = None if frame.outward else frame.names.get(node.id)
        if value is None:
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
        return self.attribute(self.evaluate(node.value, frame), node.attr, site_of(frame.file, node))

    def _of_call(self, node: ast.Call, frame: Frame) -> Any:
        site = site_of(frame.file, node)
        function = node.func
        of_frame = function.id if isinstance(function, ast.Name) and function.id in _OF_THE_FRAME else None
        if of_frame == "super":
            owner = self._owner(frame)
            if owner is not None:
                return Super(self._receiver(frame), owner)
        callee = self.evaluate(function, frame)
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
        if of_frame is not None and isinstance(callee, External):
            if callee.name in ("globals", "locals", "vars") and not args:
                return frame.names
            if callee.name == "eval" and len(args) == 1:
                return self.evaluate_text(args, frame, site)
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

    def _of_namedexpr(self, node: ast.NamedExpr, frame: Frame) -> Any:
        value = self.evaluate(node.value, frame)
        frame.names[node.target.id] = value
        return value

    def _of_subscript(self, node: ast.Subscript, frame: Frame) -> Any:
        return self.get_item(
            self.evaluate(node.value, frame), self.evaluate(node.slice, frame), site_of(frame.file, node)
        )

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
                items = self.items(value, site_of(frame.file, node))
                found += [Unknown("unpacked elements that are not known")] if items is None else items
            else:
                found.append(self.evaluate(node, frame))
        return found

    def _of_list(self, node: ast.List, frame: Frame) -> Any:
        if len(node.elts) > MAX_LITERAL:
            return Unknown("a large table")
        return self.made(self._sequence(node.elts, frame))

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
        items = self.items(self.evaluate(node.value, frame), site_of(frame.file, node))
        if frame.yields is not None and items is not None:
            frame.yields.extend(items)
        return Unknown("sent value")
