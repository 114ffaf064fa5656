"""What `hydra.utils.instantiate(cfg.model)` makes: a call of what the configuration names, with what it holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gradlint.source.hydra_configuration import WORDS, is_open, target_of
from gradlint.source.index import CallSite, FileIndex, Scope
from gradlint.source.things import ClassThing, External, Frame, Instance, ModuleThing, Plain, Things, Unknown

if TYPE_CHECKING:
    from gradlint.source.elements import Elements
    from gradlint.source.passing import Passing

_MAX_DEPTH = 6
_MAX_SITES = 24


class Held(ast.expr):
    """An expression that stands for things which are known already."""

    _fields = ()
    things: Things = ()


class Composed(ast.Call):
    """A call that is put together from several places; `written` is the one in the source that carries it out."""

    written: ast.Call


def written(call: ast.Call | None) -> ast.Call | None:
    """The call as it stands in the source."""
    return call.written if isinstance(call, Composed) else call


def instantiated(evaluator: Elements, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
    """What a call of `instantiate` returns."""
    first = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "config"), None)
    if first is None or isinstance(first, ast.Starred):
        return (Unknown("what is instantiated is not known"),)
    found: list[Any] = []
    for thing in evaluator.evaluate(first, scope, frame):
        if not isinstance(thing, Plain) or not isinstance(thing.value.value, dict):
            found.append(Unknown("the configuration of what is instantiated is not known"))
            continue
        key = (id(node), id(thing.value.value))
        call = evaluator.composed.get(key)
        if call is None:
            call = evaluator.composed[key] = _call(evaluator, thing, node, scope, node.args[1:], node.keywords, 0)
            evaluator.composed_from.append(thing.value.value)
        found += evaluator.evaluate(call, scope, frame) if call is not None else (Unknown("no `_target_` is written"),)
    return tuple(found)


def constructions(evaluator: Passing, owner: Scope) -> list[CallSite]:
    """The calls of a class of the project that configurations describe, in files that import hydra."""
    found: list[CallSite] = []
    for file in evaluator.importers.importing("hydra", "instantiate"):
        for site in configured_calls(evaluator, evaluator.index(file)):
            if site.scope.owner_class is owner:
                continue  # What an object makes of its own arguments does not say what these are.
            for call in _calls_within(site.node):
                classes = evaluator.evaluate(call.func, site.scope)
                if any(isinstance(c, ClassThing) and evaluator.is_subclass(c.scope, owner) for c in classes):
                    found.append(CallSite(call, site.scope, site.path, site.name))
    return list({id(s.node): s for s in found}.values())


def configured_calls(evaluator: Passing, index: FileIndex) -> Iterator[CallSite]:
    """The calls that `instantiate` carries out in a file, as far as the configuration tells them."""
    for site in index.calls_by_name.get("instantiate", ())[:_MAX_SITES]:
        for thing in evaluator.ask(site.node, site.scope):
            if isinstance(thing, Instance) and isinstance(thing.call, Composed):
                yield CallSite(thing.call, site.scope, site.path, site.name)


def _calls_within(call: ast.Call) -> Iterator[ast.Call]:
    yield call
    for value in (*call.args, *(k.value for k in call.keywords)):
        if isinstance(value, Composed):
            yield from _calls_within(value)


def _call(
    evaluator: Elements,
    thing: Plain,
    node: ast.Call,
    scope: Scope,
    args: list[ast.expr],
    keywords: list[ast.keyword],
    depth: int,
) -> Composed | None:
    """The call that a table with a `_target_` describes; None for a table without."""
    table: dict[str, Any] = thing.value.value
    target, old = target_of(table)
    if not isinstance(target, str) or depth > _MAX_DEPTH:
        return None
    given = {k.arg for k in keywords}
    inside: Any = table.get("params") if old else table
    below = evaluator.item(thing, "params") if old and isinstance(inside, dict) else (thing,)
    nested = not any(t.get("_recursive_") is False for t in (table, _constants(keywords)))
    own = [
        ast.keyword(name, _value(evaluator, below[0], name, node, scope, depth if nested else _MAX_DEPTH))
        for name in (inside if isinstance(inside, dict) else ())
        if name not in WORDS and name not in given and isinstance(name, str)
    ]
    passed = [k for k in keywords if k.arg not in WORDS and k.arg != "config"]
    named: ast.expr = held(_named(evaluator, target, scope), node)
    if (table | _constants(keywords)).get("_partial_") is True:
        args, named = [named, *args], held((External("functools.partial"),), node)
    call = Composed(named, args, [*own, *passed])
    call.written = node
    return ast.copy_location(call, node)


def _constants(keywords: list[ast.keyword]) -> dict[str, Any]:
    return {k.arg: k.value.value for k in keywords if k.arg and isinstance(k.value, ast.Constant)}


def _value(evaluator: Elements, table: Any, name: str, node: ast.Call, scope: Scope, depth: int) -> ast.expr:
    (entry,) = evaluator.item(table, name)
    if isinstance(entry, Plain):
        if isinstance(entry.value.value, dict) and "_target_" in entry.value.value:
            call = _call(evaluator, entry, node, scope, [], [], depth + 1)
            if call is not None:
                return call
        if is_open(entry.value.value):
            entry = Unknown(f"the configuration leaves `{name}` open")
    return held((entry,), node)


def held(things: Things, node: ast.Call) -> Held:
    """An expression at a call that stands for known things."""
    made = ast.copy_location(Held(), node)
    made.things = things
    return made


def _named(evaluator: Elements, target: str, scope: Scope) -> Things:
    """What a dotted name means from anywhere in the project."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        file = evaluator.project.module(".".join(parts[:cut]), scope.file)
        if file is not None:
            things: Things = (ModuleThing(file),)
            for part in parts[cut:]:
                things = tuple(a for t in things for a in evaluator.attribute(t, part))
            return things
    return (External(target),)
