"""Attributes that come out of a mapping: subclasses of dict, `__dict__.update(d)`, `setattr` in a loop, `hparams`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradlint.source.arguments import NAMESPACES
from gradlint.source.index import END, Scope, first_parameter
from gradlint.source.keywords import passed
from gradlint.source.reaching import reaching
from gradlint.source.things import ClassThing, Instance, Items, Member, Plain, Thing, Things, Unknown
from gradlint.source.walking import walk

if TYPE_CHECKING:
    from gradlint.source.attributes import Attributes

HPARAMS = ("hparams", "hparams_initial")
"""Where Lightning keeps what `save_hyperparameters()` saved."""


MAX_NESTED = 6
"""How many objects that wrap one another are looked through."""


def from_mapping(evaluator: Attributes, instance: Instance, name: str) -> Things:
    """What an instance of a project class holds under a name that only a mapping gives it; empty if nothing."""
    key = (instance.key, name)
    if key in evaluator.mapping or len(evaluator.mapping) > MAX_NESTED:
        return ()
    evaluator.mapping.add(key)
    try:
        return _from_mapping(evaluator, instance, name)
    finally:
        evaluator.mapping.discard(key)


def _from_mapping(evaluator: Attributes, instance: Instance, name: str) -> Things:
    cls = instance.cls
    if not isinstance(cls, ClassThing):
        return ()
    for scope in evaluator.mro(cls.scope):
        init = scope.method("__init__")
        if init is None:
            continue
        frame = evaluator.frame_for(instance, init, scope)
        sources = evaluator.mapping_sources.get(id(init))
        if sources is None:
            sources = evaluator.mapping_sources[id(init)] = tuple(_sources(init))
        for source in sources:
            found = _entries(evaluator, evaluator.evaluate(source, init, frame), name)
            if found:
                return found
        break
    if instance.call is None or not any(b.endswith(NAMESPACES) for b in evaluator.base_names(cls.scope)):
        return ()
    given = passed(evaluator, instance.call, name, instance.scope, instance.frame)
    if given:
        return given
    for argument in instance.call.args[:1]:
        if not isinstance(argument, ast.Starred):
            return _entries(evaluator, evaluator.evaluate(argument, instance.scope, instance.frame), name)
    return ()


def hyperparameter(evaluator: Attributes, instance: Instance, name: str) -> Things:
    """What `self.hparams.name` is where `__init__` calls Lightning's `save_hyperparameters`; empty if it does not."""
    assert isinstance(instance.cls, ClassThing)
    for scope in evaluator.mro(instance.cls.scope):
        init = scope.method("__init__")
        saving = next((s for s in init.calls if _is_saving(s.node)), None) if init is not None else None
        if init is None or saving is None:
            continue
        frame = evaluator.frame_for(instance, init, scope)
        for argument in saving.node.args:
            if not isinstance(argument, ast.Constant):
                found = _entries(evaluator, evaluator.evaluate(argument, init, frame), name)
                if found:
                    return found
        bindings = init.bindings.get(name, [])
        parameters = [b for b in bindings if b.kind == "parameter"]
        if parameters and name != first_parameter(init):
            return evaluator.parameter(parameters[0], init, frame)
        rest = next((b for bs in init.bindings.values() for b in bs if b.kind == "rest"), None)
        if rest is not None:
            return _entries(evaluator, evaluator.rest(rest, init, frame), name)
    return ()


def saves_hyperparameters(evaluator: Attributes, scope: Scope) -> bool:
    """Whether the `__init__` of a class calls `save_hyperparameters`."""
    inits = [i for c in evaluator.mro(scope) if (i := c.method("__init__")) is not None]
    return any("save_hyperparameters" in i.words for i in inits)


def _is_saving(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "save_hyperparameters"


def _entries(evaluator: Attributes, things: Things, name: str) -> Things:
    """The entries of this name in mappings and in objects that stand for one."""
    found: list[Thing] = []
    for thing in things:
        match thing:
            case Items(node=ast.Dict()) | Plain():
                found += evaluator.item(thing, name)
            case Instance():
                found += evaluator.attribute(thing, name)
    return tuple(f for f in found if not isinstance(f, (Unknown, Member)))


def _sources(init: Scope) -> Iterator[ast.expr]:
    """The mappings that `__init__` turns into attributes of `self`, as expressions."""
    me = first_parameter(init)
    if me is None or not init.words & {"__dict__", "setattr", "update", "__init__", "__setattr__", "__setitem__"}:
        return
    for binding, _ in reaching(init.stores.get(f"{me}.__dict__", []), END, ()):
        if binding.value is not None:
            yield binding.value
    for site in init.calls:
        call = site.node
        match call.func:
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id=owner), attr="__dict__"), attr="update") if (
                owner == me
            ):
                yield from _mappings(call)
            case ast.Attribute(value=ast.Name(id=owner), attr="update") if owner == me:
                yield from _mappings(call)
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__"):
                yield from _mappings(call)
            case ast.Name(id="setattr") if len(call.args) == 3 and _is_name(call.args[0], me):
                yield from _looped(init, call.args[1], call.args[2])
    for statement in walk(init.node) if "items" in init.words else ():
        match statement:
            case ast.Assign(targets=[ast.Subscript(value=target, slice=key)], value=value) if _is_name(target, me):
                yield from _looped(init, key, value)


def _mappings(call: ast.Call) -> Iterator[ast.expr]:
    yield from (a for a in call.args[:1] if not isinstance(a, ast.Starred))
    yield from (k.value for k in call.keywords if k.arg is None)


def _looped(init: Scope, key: ast.expr, value: ast.expr) -> Iterator[ast.expr]:
    """`for k, v in d.items(): setattr(self, k, v)`: the `d`; `v` may be wrapped on the way."""
    names = {n.id for n in walk(value) if isinstance(n, ast.Name)}
    for loop in walk(init.node):
        match loop:
            case ast.For(
                target=ast.Tuple(elts=[ast.Name(id=k), ast.Name(id=v)]),
                iter=ast.Call(func=ast.Attribute(value=source, attr="items")),
            ) if _is_name(key, k) and v in names:
                yield source


def _is_name(node: ast.expr, name: str | None) -> bool:
    return isinstance(node, ast.Name) and node.id == name
