"""The models that a script constructs: their classes, what recurs in them, what is pretrained and frozen."""

from __future__ import annotations

import ast

from gradlint.source.candidates import origin_of
from gradlint.source.checkpoints import checkpoint_of
from gradlint.source.drawn_anew import is_drawn_anew
from gradlint.source.evaluate import Evaluator
from gradlint.source.frozen import frozen_parts
from gradlint.source.hydra_configuration import MAKERS
from gradlint.source.index import CallSite, FileIndex, Scope, location, source_of, terminal_name
from gradlint.source.instantiation import written
from gradlint.source.model_classes import ModelClasses, header
from gradlint.source.model_names import is_model_name, is_recurrent_name
from gradlint.source.parts import Parts
from gradlint.source.pretrained import pretrained_of
from gradlint.source.registrations import TIMM_MAKERS
from gradlint.source.script import Model, Pretrained, Recurrence
from gradlint.source.things import (
    ClassThing,
    External,
    Group,
    Instance,
    Items,
    Member,
    Thing,
    Things,
    external_name,
)
from gradlint.source.walking import walk

CONFIGURED = MAKERS | TIMM_MAKERS
"""Outside functions that make networks of the project."""


class Models(ModelClasses):
    """The model classes and instances that a script speaks of; each construction is one `Model`."""

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__(evaluator)
        self._models: dict[tuple[int, int], Model] = {}
        self.parts = Parts(self)

    def is_model(self, thing: Thing) -> bool:
        """Whether a thing is a network."""
        match thing:
            case Instance(cls=ClassThing(scope)):
                return self.is_module(scope)
            case Instance(cls=Member(owner=ClassThing(scope), name=name)) if name.startswith(("from_", "load_")):
                return self.is_module(scope)
            case Instance(cls=cls):
                name_ = external_name(cls) if not isinstance(cls, Instance) else None
                return name_ is not None and is_model_name(name_)
        return False

    def of(self, things: Things) -> tuple[Model, ...]:
        """The models among things: themselves, the owners of their parts, the elements of containers."""
        found: list[Model] = []
        for root in self.roots(things):
            found.append(self.model(root))
        return tuple(dict.fromkeys(found))

    def roots(self, things: Things, depth: int = 0) -> list[Instance]:
        """The instances that `of` speaks of."""
        found: list[Instance] = []
        for thing in things:
            match thing:
                case Instance() if self.is_model(thing):
                    found.append(thing)
                case Member(owner=owner) if depth < 6:
                    found.extend(self.roots((owner,), depth + 1))
                case Group(elements) if depth < 6:
                    found.extend(r for e in elements for r in self.roots(e, depth + 1))
                case Items() if depth < 4:
                    found.extend(self.roots(self.evaluator.elements(thing), depth + 1))
        return found

    def model(self, root: Instance) -> Model:
        """The `Model` of a construction."""
        cls = _class_scope(root)
        key = (root.key, id(cls) if cls is not None else hash(external_name(root.cls)))
        found = self._models.get(key)
        if found is None:
            found = self._models[key] = self._describe(root)
        return found

    def _describe(self, root: Instance) -> Model:
        evaluator = self.evaluator
        scope = _class_scope(root)
        place = origin_of(root)
        assert place is not None
        adapter = None
        inner = root
        if external_name(root.cls) in {"peft.get_peft_model", "peft.PeftModel.from_pretrained"}:
            adapter = "lora"
            wrapped = root.call.args[0] if root.call and root.call.args else None
            if wrapped is not None:
                bases = self.roots(evaluator.ask(wrapped, root.scope, root.frame))
                inner = bases[0] if bases else root
                scope = _class_scope(inner)
        name = variable_of(root) or (scope.name if scope else terminal_name(root.call.func) if root.call else "model")
        classes = (self.model_class(scope).qualified_name,) if scope is not None else (external_name(root.cls) or "",)
        text = source_of(root.scope.file, root.call) if root.call is not None else ""
        return Model(
            name=name,
            classes=classes,
            location=place if root.call is not None else location(root.scope.file, header(root.scope.node)),
            expression=text,
            model_class=self.model_class(scope) if scope is not None else None,
            recurrence=self.recurrence(inner),
            pretrained=None if is_drawn_anew(evaluator, inner, variable_of(inner)) else self.pretrained(inner),
            frozen=tuple(frozen_parts(evaluator, root, self)),
            adapter=adapter,
            scope=root.scope.qualified_name if root.call is not None else "",
            candidates=root.conditional,
        )

    def recurrence(self, root: Instance, depth: int = 0) -> Recurrence | None:
        """What recurs in an instance: in its class, or in the models it is given."""
        parts: list[Recurrence] = []
        name = external_name(root.cls) or ""
        if is_recurrent_name(root.cls) and root.call is not None:
            parts.append(Recurrence((name.rpartition(".")[2],), (location(root.scope.file, root.call),)))
        scope = _class_scope(root)
        if scope is not None:
            init = scope.method("__init__")
            frame = self.evaluator.frame_for(root, init, scope) if init is not None and root.call is not None else None
            own = self.recurrence_of_class(scope, frame)
            if own is not None:
                parts.append(own)
        if depth < 4:
            parts += [r for r in (self.recurrence(a, depth + 1) for a in self._given(root)) if r is not None]
        if not parts:
            return None
        kinds = tuple(dict.fromkeys(k for p in parts for k in p.kinds))
        return Recurrence(kinds, tuple(dict.fromkeys(x for p in parts for x in p.locations)))

    def pretrained(self, root: Instance, depth: int = 0) -> Pretrained | None:
        """The checkpoint that an instance's weights come from: its own load, its class's, or a part's."""
        found = pretrained_of(self.evaluator, root)
        if found is not None:
            return found
        scope = _class_scope(root)
        if scope is not None:
            init = scope.method("__init__")
            frame = self.evaluator.frame_for(root, init, scope) if init is not None and root.call is not None else None
            found = self.pretrained_of_class(scope, frame)
            if found is not None and found.certain:
                return found
        for part in self._given(root) if depth < 4 else ():
            given = self.pretrained(part, depth + 1)
            if given is not None and (found is None or given.certain):
                return given
        return found or checkpoint_of(self.evaluator, root, variable_of(root))

    def _given(self, root: Instance) -> list[Instance]:
        """The models among an instance's constructor arguments."""
        if root.call is None:
            return []
        found: list[Instance] = []
        for argument in (*root.call.args, *(k.value for k in root.call.keywords)):
            if isinstance(argument, (ast.Name, ast.Attribute, ast.Call, ast.List, ast.Starred)):
                # A size read off another model (`resnet.fc.in_features`) does not hand over its weights.
                things = self.evaluator.ask(argument, root.scope, root.frame)
                found += self.roots(tuple(t for t in things if not isinstance(t, Member)))
        return [f for f in found if f.key != root.key]

    def constructed_in(self, index: FileIndex) -> list[Model]:
        """The models that a file constructs outside of module classes, in source order."""
        found: list[Model] = []
        inner: set[int] = set()
        for scope in index.scopes:
            owner: Scope | None = scope
            while owner is not None and not (owner.kind == "class" and self.is_module(owner)):
                owner = owner.parent
            if owner is not None:
                continue
            for site in scope.calls:
                if id(site.node) in inner:
                    continue
                roots = [t for t in self._constructs(site) if self.is_model(t)]
                roots = [r for r in roots if isinstance(r, Instance) and written(r.call) is site.node]
                if roots:
                    inner.update(id(n) for n in walk(site.node))
                    if not self.parts.is_part(site):
                        found.extend(self.model(r) for r in roots if isinstance(r, Instance))
        return found

    def _constructs(self, site: CallSite) -> Things:
        callees = self.evaluator.ask(site.node.func, site.scope)
        made: list[Thing] = []
        for callee in callees:
            if isinstance(callee, (ClassThing, External)) or (
                isinstance(callee, Member) and isinstance(callee.owner, (ClassThing, External))
            ):
                made.append(Instance(callee, site.node, site.scope))
            if isinstance(callee, External) and callee.name in CONFIGURED:
                made = [m for m in made if not (isinstance(m, Instance) and m.cls == callee)]
                made += self.evaluator.ask(site.node, site.scope)
        return tuple(made)


def variable_of(root: Instance) -> str | None:
    """The variable or attribute that the construction is assigned to."""
    call = written(root.call)
    if call is None:
        return None
    for table in (root.scope.bindings, root.scope.stores):
        for name, bindings in table.items():
            for binding in bindings:
                if (
                    binding.value is not None
                    and not binding.unpack
                    and (binding.value is call or _chained(binding.value, call))
                ):
                    return name
    return None


def _chained(value: ast.expr, call: ast.Call) -> bool:
    """`Net().to(device)`, `DataParallel(Net())`: the construction inside what is assigned."""
    for _ in range(4):
        match value:
            case ast.Call(func=ast.Attribute(value=ast.Call() as inner)):
                value = inner
            case ast.Call(args=[ast.Call() as inner, *_]):
                value = inner
            case _:
                return False
        if value is call:
            return True
    return False


def _class_scope(root: Instance) -> Scope | None:
    match root.cls:
        case ClassThing(scope):
            return scope
        case Member(owner=ClassThing(scope)):
            return scope
    return None
