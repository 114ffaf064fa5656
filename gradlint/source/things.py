"""What an expression can stand for when the source is read without running it."""

from __future__ import annotations

import ast
from typing import TypeAlias

import msgspec

from gradlint.source.index import Scope
from gradlint.source.project import SourceFile
from gradlint.source.value import Value


class Frame(msgspec.Struct, frozen=True, eq=False):
    """One call of a project function: its parameters mean the arguments of `call` in the caller's scope."""

    function: Scope
    call: ast.Call | None
    scope: Scope | None
    outer: Frame | None = None
    receiver: Thing | None = None
    depth: int = 0


class Plain(msgspec.Struct, frozen=True, eq=False):
    """A plain Python value."""

    value: Value


class External(msgspec.Struct, frozen=True):
    """A name from outside the project, fully qualified ("torch.optim.Adam")."""

    name: str


class ModuleThing(msgspec.Struct, frozen=True, eq=False):
    """A module of the project."""

    file: SourceFile


class ClassThing(msgspec.Struct, frozen=True, eq=False):
    """A class of the project."""

    scope: Scope


class FunctionThing(msgspec.Struct, frozen=True, eq=False):
    """A function, lambda or method of the project, bound to `receiver` if any; `frame` closes over a call."""

    scope: Scope
    receiver: Thing | None = None
    frame: Frame | None = None


class Instance(msgspec.Struct, frozen=True, eq=False):
    """What a call returned that is not looked into: an object of `cls`, or the result of an outside function.

    `call` is None for the `self` of a class that is read on its own.
    """

    cls: Thing
    call: ast.Call | None
    scope: Scope
    frame: Frame | None = None
    conditional: bool = False

    @property
    def key(self) -> int:
        """Equal for the same construction."""
        return id(self.call) if self.call is not None else id(self.scope.node)


class Member(msgspec.Struct, frozen=True, eq=False):
    """An attribute that is not looked into, of an object that is known."""

    owner: Thing
    name: str


class Items(msgspec.Struct, frozen=True, eq=False):
    """A list, tuple, set or dict literal, or a comprehension, with its elements unevaluated."""

    node: ast.expr
    scope: Scope
    frame: Frame | None = None


class Group(msgspec.Struct, frozen=True, eq=False):
    """A sequence of things that were put together by the program (a tuple of what `prepare` returns)."""

    elements: tuple[tuple[Thing, ...], ...]


class Unknown(msgspec.Struct, frozen=True, eq=False):
    """Nothing is known, because of `reason`."""

    reason: str


Thing: TypeAlias = (
    Plain | External | ModuleThing | ClassThing | FunctionThing | Instance | Member | Items | Group | Unknown
)

Things: TypeAlias = tuple[Thing, ...]


class Budget(msgspec.Struct, eq=False):
    """How many more expressions may be looked at for one question."""

    left: int = 20000
    exhausted: bool = False

    def spend(self) -> bool:
        """Take one; False when none is left."""
        self.left -= 1
        self.exhausted = self.left < 0
        return not self.exhausted


def external_name(thing: Thing) -> str | None:
    """The dotted name of an outside thing, members of outside objects included, or None."""
    match thing:
        case External(name):
            return name
        case Member(owner, name):
            base = external_name(owner)
            return f"{base}.{name}" if base else None
        case Instance(cls=cls):
            return external_name(cls)
    return None
