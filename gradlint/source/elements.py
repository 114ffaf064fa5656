"""The elements of containers: by key, and all that a loop yields."""

from __future__ import annotations

import ast

from gradlint.source import arithmetic
from gradlint.source.arguments import attribute_of_arguments
from gradlint.source.candidates import MAX_CANDIDATES, conditional
from gradlint.source.conditions import Conditions
from gradlint.source.things import (
    External,
    Group,
    Instance,
    Items,
    Member,
    ModuleThing,
    Plain,
    Thing,
    Things,
    Unknown,
    external_name,
)
from gradlint.source.value import Value


class Elements(Conditions):
    """Subscription and iteration."""

    def item(self, thing: Thing, key: object) -> Things:
        """What `thing[key]` stands for; `arithmetic.MISSING` is a key that is not known: every element."""
        missing = key is arithmetic.MISSING
        match thing:
            case Items(node=ast.Dict(keys=keys, values=values), scope=scope, frame=frame):
                found: list[Thing] = []
                for k, v in zip(keys, values, strict=True):
                    if k is None:
                        spread = self.evaluate(v, scope, frame)
                        inner = [e for t in spread for e in self.item(t, key) if not isinstance(e, Unknown)]
                        if inner and not missing:
                            return tuple(inner)
                        found.extend(inner)
                    elif missing or self.single(k, scope, frame) == key:
                        found.extend(self.evaluate(v, scope, frame))
                        if not missing:
                            return tuple(found)
                return tuple(conditional(f) for f in found) or (Unknown(f"there is no key {key!r}"),)
            case Items(node=ast.List(elts=e) | ast.Tuple(elts=e), scope=scope, frame=frame):
                if isinstance(key, int) and not isinstance(key, bool) and -len(e) <= key < len(e):
                    return self.evaluate(e[key], scope, frame)
                if missing:
                    return tuple(conditional(t) for x in e[:MAX_CANDIDATES] for t in self.evaluate(x, scope, frame))
            case Items(node=ast.DictComp(value=v), scope=scope, frame=frame):
                return self.evaluate(v, scope, frame)
            case Group(elements):
                if isinstance(key, int) and -len(elements) <= key < len(elements):
                    return elements[key]
            case Plain(value=value) if isinstance(value.value, (dict, list, tuple, str)):
                return self._plain_item(value, key)
            case Member(owner=External() | ModuleThing() as owner, name="__dict__") if isinstance(key, str):
                return self.attribute(owner, key)
            case External(name) if name.endswith(".__dict__") and isinstance(key, str):
                return (External(name.removesuffix("__dict__") + key),)
            case Instance(cls=cls) if isinstance(key, str) and external_name(cls) is not None:
                found_ = attribute_of_arguments(self, thing, key)
                return found_ or (Member(thing, f"[{key!r}]"),)
            case Instance() | Member():
                if isinstance(key, str):
                    held = self.held(thing, key)
                    if held:
                        return held
                return (Member(thing, f"[{key!r}]" if not missing else "[]"),)
        return (Unknown("an element that is not known"),)

    def held(self, thing: Thing, key: str) -> Things:
        """What an object of the project that stands for a mapping holds under a key; empty if it is none."""
        return ()

    def _plain_item(self, value: Value, key: object) -> Things:
        if key is arithmetic.MISSING:
            return (Unknown("its key is not known"),)
        try:
            element = value.value[key]
        except (KeyError, IndexError, TypeError):
            return (Unknown(f"there is no {key!r}"),)
        origin = value.origin
        return (Plain(Value(element, origin, (*value.way, f"key `{key}`"), value.conditional, value.overridable)),)

    def elements(self, thing: Thing) -> Things:
        """What a loop over a thing yields."""
        match thing:
            case Items(node=ast.List(elts=e) | ast.Tuple(elts=e) | ast.Set(elts=e), scope=scope, frame=frame):
                return tuple(t for x in e[:MAX_CANDIDATES] for t in self.evaluate(x, scope, frame))
            case Items(node=ast.ListComp(elt=e) | ast.GeneratorExp(elt=e) | ast.SetComp(elt=e), scope=scope, frame=f):
                return self.evaluate(e, scope, f)
            case Group(elements):
                return tuple(t for e in elements for t in e)
            case Plain(value=value) if isinstance(value.value, (list, tuple)):
                return tuple(Plain(Value(v, value.origin, value.way, True)) for v in value.value[:MAX_CANDIDATES])
            case Unknown():
                return (thing,)
        return (Member(thing, "[]"),)

    def unpacked(self, things: Things, indices: tuple[int, ...]) -> Things:
        """The elements at `indices` of tuples, lists and the like."""
        for index in indices:
            things = tuple(e for t in things for e in self.item(t, index))
        return things
