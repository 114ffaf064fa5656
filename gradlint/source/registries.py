"""What a project's registries give back: `MODELS.get(name)`, `MODELS.build(cfg)`, `timm.create_model(name)`."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradlint.source.index import Scope
from gradlint.source.instantiation import Composed, held
from gradlint.source.project import SourceFile
from gradlint.source.registrations import KINDS, LOOK_UPS, TIMM_REGISTRY, TIMM_WORDS, is_registry, registered
from gradlint.source.things import (
    ClassThing,
    External,
    Frame,
    FunctionThing,
    Instance,
    Member,
    Plain,
    Thing,
    Things,
)

if TYPE_CHECKING:
    from gradlint.source.evaluate import Evaluator


def created_by_timm(evaluator: Evaluator, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
    """What `timm.create_model` makes of a network that the project registered; empty for timm's own."""
    first = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "model_name"), None)
    if first is None:
        return ()
    made: list[Thing] = []
    for thing in evaluator.evaluate(first, scope, frame):
        key = evaluator.plain_of(thing)
        callees = _held_under(evaluator, TIMM_REGISTRY, key, None) if isinstance(key, str) else ()
        if callees:
            passed = [k for k in node.keywords if k.arg not in TIMM_WORDS]
            made += evaluator.evaluate(_composed(evaluator, node, callees, passed, key), scope, frame)
    return tuple(made)


def looked_up(evaluator: Evaluator, callee: Thing, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
    """What a call of a registry's `get` or `build` gives; empty where the callee is none or the key is not known."""
    match callee:
        case FunctionThing(scope=method, receiver=Instance(cls=ClassThing(cls)) as registry) if is_registry(cls.name):
            name = method.name
        case Member(owner=Instance(cls=External(outside)) as registry, name=name) if is_registry(outside):
            pass
        case _:
            return ()
    if name not in LOOK_UPS or registry.call is None or not node.args or isinstance(node.args[0], ast.Starred):
        return ()
    words = [h.rpartition(".")[2] for h in registry.scope.holders(registry.call)]
    found: list[Thing] = []
    for thing in evaluator.evaluate(node.args[0], scope, frame):
        kinds = [evaluator.item(thing, kind) for kind in KINDS] if name == "build" else [(thing,)]
        key = next((k for things in kinds if isinstance(k := evaluator.plain_of(things[0]), str)), None)
        callees = next((c for w in words if key and (c := _held_under(evaluator, w, key, registry.scope.file))), ())
        if callees:
            found += callees if name != "build" else _built(evaluator, thing, callees, node, scope, frame)
    return tuple(found)


def _built(
    evaluator: Evaluator, table: Thing, callees: Things, node: ast.Call, scope: Scope, frame: Frame | None
) -> Things:
    """What `build` makes: a call with the other entries of the table, or with the table where it cannot be spread."""
    own: list[ast.keyword] = []
    if isinstance(table, Plain) and isinstance(table.value.value, dict):
        names = [n for n in table.value.value if isinstance(n, str) and n not in KINDS]
        own = [ast.keyword(n, held(evaluator.item(table, n), node)) for n in names]
    elif isinstance(table, Instance) and table.call is not None:
        given = [k for k in table.call.keywords if k.arg and k.arg not in KINDS]
        own = [ast.keyword(k.arg, held(evaluator.evaluate(k.value, table.scope, table.frame), node)) for k in given]
    return evaluator.evaluate(_composed(evaluator, node, callees, own, id(table)), scope, frame)


def _held_under(evaluator: Evaluator, registry: str, key: str, home: SourceFile | None) -> Things:
    place = registered(evaluator.importers, registry, key, home)
    things = evaluator.exported(*place) if place is not None else ()
    return tuple(t for t in things if isinstance(t, (ClassThing, FunctionThing)))


def _composed(
    evaluator: Evaluator, node: ast.Call, callees: Things, keywords: list[ast.keyword], key: object
) -> ast.expr:
    known = evaluator.composed.get((id(node), hash(key)))
    if known is None:
        call = Composed(held(callees, node), [], keywords)
        call.written = node
        known = evaluator.composed[id(node), hash(key)] = ast.copy_location(call, node)
    return known
