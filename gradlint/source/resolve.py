"""The value resolver: every plain value that can reach an expression, with the way it took."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.location import Location
from gradlint.source import arithmetic
from gradlint.source.configuration import line_of
from gradlint.source.evaluate import Evaluator
from gradlint.source.index import Scope
from gradlint.source.things import External, Frame, Instance, Items, Member, Plain, Thing, Things, Unknown
from gradlint.source.value import UNKNOWN, Resolution, Value


def resolve(evaluator: Evaluator, expression: ast.expr | None, scope: Scope, frame: Frame | None = None) -> Resolution:
    """Every value that can reach the expression; `unknown` says why there is none, or not all."""
    if expression is None:
        return UNKNOWN
    return resolution(evaluator, evaluator.ask(expression, scope, frame))


def resolution(evaluator: Evaluator, things: Things) -> Resolution:
    """The plain values among things, the rest as the reason why not all is known."""
    values: list[Value] = []
    unknown: list[str] = []
    for thing in things:
        match thing:
            case Plain(value=value):
                values.append(_located(value))
            case Items(scope=scope, node=node):
                plain: Any = evaluator.plain_of(thing)
                if plain is arithmetic.MISSING:
                    unknown.append("it is put together at run time")
                else:
                    values.append(evaluator.plain(plain, node, scope).value)
            case _:
                unknown.append(_reason(thing))
    distinct = {(repr(v.value), v.origin): v for v in reversed(values)}
    ordered = [v for v in values if distinct.get((repr(v.value), v.origin)) is v]
    return Resolution(tuple(ordered), unknown[0] if unknown else None)


def _reason(thing: Thing) -> str:
    match thing:
        case Unknown(reason):
            return reason
        case External(name):
            return f"it comes from `{name}`"
        case Instance(cls=External(name)):
            return f"it is what `{name}(…)` returns"
        case Member(name=name) | Instance(cls=Member(name=name)):
            return f"it comes from `.{name}`"
    return "it is not a plain value"


def _located(value: Value) -> Value:
    """A value from a configuration file with the line of its key, where exactly one line sets it."""
    keys = [w.removeprefix("key `").removesuffix("`") for w in value.way if w.startswith("key `")]
    if not keys or value.origin.path.endswith(".py"):
        return value
    line = line_of(value.origin.path, keys[-1])
    if line is None:
        return value
    return Value(value.value, Location(value.origin.path, line), value.way, value.conditional, value.overridable)
