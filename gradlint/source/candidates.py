"""Candidates: which things are the same, which hold on some branch only, where they were made."""

from __future__ import annotations

from gradlint.location import Location
from gradlint.source.index import (
    location,
)
from gradlint.source.things import (
    ClassThing,
    External,
    FunctionThing,
    Instance,
    Items,
    Member,
    ModuleThing,
    Plain,
    Thing,
    Things,
    Unknown,
)
from gradlint.source.value import Value

MAX_CANDIDATES = 12
"""More candidates than this for one expression help nobody."""


def identity(thing: Thing, depth: int = 0) -> object:
    """Equal for things that are the same candidate."""
    match thing:
        case Plain(value=value):
            return ("plain", repr(value.value), value.origin, value.conditional)
        case Instance(cls=cls) if depth < 6:
            return ("instance", thing.key, id(thing.frame), identity(cls, depth + 1))
        case Member(owner=owner, name=name) if depth < 6:
            return ("member", name, identity(owner, depth + 1))
        case ClassThing(scope) | FunctionThing(scope=scope, receiver=None):
            return ("scope", id(scope))
        case FunctionThing(scope=scope, receiver=receiver) if receiver is not None and depth < 6:
            return ("method", id(scope), identity(receiver, depth + 1))
        case Unknown(reason):
            return ("unknown", reason)
        case External(name):
            return ("external", name)
        case ModuleThing(file):
            return ("module", file.path)
        case Items(node=node, frame=frame):
            return ("items", id(node), id(frame))
    return id(thing)


def is_none(thing: Thing) -> bool:
    """Whether a thing is `None`."""
    return isinstance(thing, Plain) and thing.value.value is None


def distinct(things: Things) -> Things:
    """The things without repetition, cut where there are too many; an Unknown where there are none."""
    seen: dict[object, Thing] = {}
    for thing in things:
        seen.setdefault(identity(thing), thing)
    found = tuple(seen.values())
    if len(found) > MAX_CANDIDATES:
        return (*found[:MAX_CANDIDATES], Unknown("there are too many candidates"))
    return found or (Unknown("nothing reaches it"),)


def conditional(thing: Thing) -> Thing:
    """The thing, marked as holding on some branch only."""
    match thing:
        case Plain(value=v) if not v.conditional:
            return Plain(Value(v.value, v.origin, v.way, True, v.overridable))
        case Instance(cls=cls, call=call, scope=scope, frame=frame, conditional=False):
            return Instance(cls, call, scope, frame, True)
    return thing


def with_way(thing: Thing, step: str) -> Thing:
    """A plain value with one more step on its way."""
    match thing:
        case Plain(value=v):
            return Plain(Value(v.value, v.origin, (step, *v.way), v.conditional, v.overridable))
    return thing


def origin_of(thing: Thing) -> Location | None:
    """Where an instance was constructed."""
    match thing:
        case Instance(call=call, scope=scope):
            return location(scope.file, call if call is not None else scope.node)
    return None
