"""The nn.Module classes of a project: their layers, what recurs in them, what they load."""

from __future__ import annotations

import ast

from gradlint.location import Location
from gradlint.source.evaluate import Evaluator
from gradlint.source.index import CallSite, Scope, location
from gradlint.source.model_names import (
    RECURRENT,
    is_model_name,
    is_module_base,
    is_recurrent_name,
)
from gradlint.source.pretrained import pretrained_of
from gradlint.source.recurrence import handwritten
from gradlint.source.script import ModelClass, Pretrained, Recurrence
from gradlint.source.things import ClassThing, Frame, Instance, Member, external_name


class ModelClasses:
    """The facts of module classes, each found once."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._classes: dict[int, bool] = {}
        self._made: dict[int, ModelClass] = {}
        self._recurrences: dict[tuple[int, int], Recurrence | None] = {}
        self._by_hand: dict[int, Location | None] = {}

    def is_module(self, scope: Scope) -> bool:
        """Whether a project class is a torch.nn.Module."""
        known = self._classes.get(id(scope))
        if known is None:
            self._classes[id(scope)] = False
            with self.evaluator.question():
                names = self.evaluator.base_names(scope)
            known = any(is_module_base(n) for n in names)
            if not known and not names and isinstance(scope.node, ast.ClassDef):
                # A base that is out of reach; a forward() beside layers tells it.
                known = bool(scope.node.bases) and any(c.method("forward") for c in self.evaluator.mro(scope))
            self._classes[id(scope)] = known
        return known

    def model_class(self, scope: Scope) -> ModelClass:
        """The facts of a module class."""
        found = self._made.get(id(scope))
        if found is None:
            bases = tuple(self.evaluator.base_names(scope))
            layers = {}
            for name, bindings in scope.attributes.items():
                value = bindings[0].value
                if isinstance(value, ast.Call) and bindings[0].scope is not None:
                    for thing in self.evaluator.ask(value.func, bindings[0].scope):
                        qualified = external_name(thing)
                        if qualified and qualified.startswith("torch.nn"):
                            layers[name] = qualified
            module = scope.file.module
            found = self._made[id(scope)] = ModelClass(
                name=scope.name,
                qualified_name=f"{module}.{scope.qualified_name}" if module else scope.qualified_name,
                location=location(scope.file, header(scope.node)),
                bases=bases,
                recurrence=self.recurrence_of_class(scope, None),
                pretrained=self.pretrained_of_class(scope, None),
                layers=layers,
            )
        return found

    def recurrence_of_class(self, scope: Scope, frame: Frame | None, depth: int = 0) -> Recurrence | None:
        """The recurrent layers in a class, its bases and the project classes it is made of."""
        key = (id(scope), id(frame))
        if key in self._recurrences:
            return self._recurrences[key]
        self._recurrences[key] = None
        kinds: list[str] = []
        places = []
        evaluator = self.evaluator
        for cls in evaluator.mro(scope):
            for site in cls.all_calls():
                if depth > 6 or not _may_construct(site):
                    continue
                inside = frame if frame is not None and site.scope is frame.function else None
                things = evaluator.ask(site.node.func, site.scope, inside)
                made = [t for t in things if isinstance(t, ClassThing) or is_recurrent_name(t)]
                if not made or self._is_dead(site, inside):
                    continue
                for thing in made:
                    if not isinstance(thing, ClassThing):
                        kinds.append((external_name(thing) or "").rpartition(".")[2])
                        places.append(location(site.scope.file, site.node))
                    elif thing.scope not in evaluator.mro(scope) and self.is_module(thing.scope):
                        part = self.recurrence_of_class(
                            thing.scope, self._inner_frame(thing.scope, site, inside), depth + 1
                        )
                        if part is not None:
                            kinds += part.kinds
                            places += part.locations
            place = self._handwritten(cls) if not kinds else None
            if place is not None:
                kinds.append("hand-written")
                places.append(place)
            for base in evaluator.base_names(cls):
                if base.startswith("torch.nn") and base.rpartition(".")[2] in RECURRENT:
                    kinds.append(base.rpartition(".")[2])
                    places.append(location(cls.file, header(cls.node)))
        found = Recurrence(tuple(dict.fromkeys(kinds)), tuple(dict.fromkeys(places))) if kinds else None
        self._recurrences[key] = found
        return found

    def _is_dead(self, site: CallSite, frame: Frame | None) -> bool:
        """Whether a call never runs, under a budget of its own."""
        with self.evaluator.question():
            return self.evaluator.dead(site.path, site.scope, frame)

    def _handwritten(self, cls: Scope) -> Location | None:
        """`handwritten`, once a class: what its arguments are does not bear on it."""
        if id(cls) not in self._by_hand:
            self._by_hand[id(cls)] = handwritten(self.evaluator, cls)
        return self._by_hand[id(cls)]

    def _inner_frame(self, scope: Scope, site: CallSite, outer: Frame | None) -> Frame | None:
        init = scope.method("__init__")
        if init is None:
            return None
        receiver = Instance(ClassThing(scope), site.node, site.scope, outer)
        return self.evaluator.frame_for(receiver, init, scope)

    def pretrained_of_class(self, scope: Scope, frame: Frame | None, depth: int = 0) -> Pretrained | None:
        """The pretrained load inside a class: assigned to `self`, in `__init__` or what it is made of."""
        evaluator = self.evaluator
        for cls in evaluator.mro(scope):
            for site in cls.all_calls():
                if depth > 5 or not _may_load(site):
                    continue
                inside = frame if frame is not None and site.scope is frame.function else None
                for thing in evaluator.ask(site.node, site.scope, inside):
                    if not isinstance(thing, Instance):
                        continue
                    found = None
                    if isinstance(thing.cls, ClassThing):
                        found = pretrained_of(evaluator, thing)
                        inner = thing.cls.scope
                        if inner in evaluator.mro(scope) or not self.is_module(inner):
                            continue
                        inner_frame = self._inner_frame(inner, site, inside)
                        found = found or self.pretrained_of_class(inner, inner_frame, depth + 1)
                    elif is_model_name(external_name(thing.cls) or "") or isinstance(thing.cls, Member):
                        found = pretrained_of(evaluator, thing)
                    if found is not None:
                        if evaluator.dead(site.path, site.scope, inside):
                            continue
                        unsure = any(b.kind in {"if", "case"} for b in site.path) and not evaluator.taken(
                            tuple(b for b in site.path if b.kind == "if"), site.scope, inside
                        )
                        if unsure and found.certain:
                            found = Pretrained(found.family, found.call, found.name, found.size, False)
                        return found
        return None


def header(node: ast.AST) -> ast.AST:
    """A node that spans the line of a `class` statement only."""
    header = ast.Pass()
    header.lineno = header.end_lineno = getattr(node, "lineno", 1)
    header.col_offset = getattr(node, "col_offset", 0)
    header.end_col_offset = header.col_offset + len("class ") + len(getattr(node, "name", ""))
    return header


def _may_construct(site: CallSite) -> bool:
    callee = site.name
    return callee[:1].isupper() or callee == "" or callee in site.scope.bindings or "rnn" in callee.lower()


def _may_load(site: CallSite) -> bool:
    return (
        site.name[:1].isupper()
        or site.name in {"from_pretrained", "create_model", "load", "get_model"}
        or any(k.arg in {"pretrained", "weights", "encoder_weights"} for k in site.node.keywords)
        or "pretrained" in site.scope.words
        or "models" in site.scope.words
    )
