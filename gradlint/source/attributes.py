"""What an attribute holds: of instances and their classes, of modules, of what was stored from outside."""

from __future__ import annotations

import ast

from gradlint.source.arguments import ABSL_FLAGS, absl_flag, attribute_of_arguments
from gradlint.source.candidates import conditional, is_none, with_way
from gradlint.source.index import (
    END,
    Binding,
    Scope,
    dotted,
    first_parameter,
    position_of,
    terminal_name,
)
from gradlint.source.keywords import passed
from gradlint.source.mapped import HPARAMS, from_mapping, hyperparameter, saves_hyperparameters
from gradlint.source.names import Names
from gradlint.source.reaching import reaching
from gradlint.source.things import (
    ClassThing,
    External,
    Frame,
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

_DICT_METHODS = frozenset({"get", "items", "keys", "values", "update", "pop", "copy", "setdefault", "__dict__"})


class Attributes(Names):
    """Attributes and subscripts that were stored, classes and their bases."""

    def _attribute_expression(self, node: ast.Attribute, scope: Scope, frame: Frame | None) -> Things:
        twin = self.index_of(scope).twin(node, scope)
        if twin is not None and (twin[0] is not node or frame is not None):
            return self.evaluate(*twin)
        things, certain = self._stored(node, scope, frame)
        if certain:
            return things
        below = tuple(
            a
            for t in self.evaluate(node.value, scope, frame)
            for a in (absl_flag(self, scope, node.attr) if t == ABSL_FLAGS else self.attribute(t, node.attr))
        )
        if not things:
            return below
        return (*things, *(conditional(b) for b in below if not isinstance(b, Unknown)))

    def _stored(self, node: ast.expr, scope: Scope, frame: Frame | None) -> tuple[Things, bool]:
        """What an assignment to this very attribute or subscript gave it, and whether that is all."""
        if isinstance(node, ast.Attribute) and node.attr not in self.index_of(scope).stored:
            return (), False
        key = dotted(node)
        if key is None:
            return (), False
        root = key.partition(".")[0].partition("[")[0]
        at, bindings = position_of(node), scope.stores.get(key)
        if bindings is None:
            holder = _holder_of(root, scope)
            if holder is not scope:
                bindings, at, scope = holder.stores.get(key), END, holder
        if not bindings:
            return (), False
        if scope.owner_class is not None and root == first_parameter(scope) and at == END:
            return (), False
        frame = self._frame_of(scope, frame)
        found = reaching(bindings, at, scope.path_around(at, bindings) if at != END else ())
        found = [(b, p) for b, p in found if not self.dead(p, scope, frame)]
        if not found:
            return (), False
        return self._bound(found, scope, frame), not found[-1][1]

    def _subscript(self, node: ast.Subscript, scope: Scope, frame: Frame | None) -> Things:
        things, certain = self._stored(node, scope, frame)
        if certain:
            return things
        found = list(things)
        bases = self.evaluate(node.value, scope, frame)
        if isinstance(node.slice, ast.Slice):
            return bases
        keys = [self.plain_of(t) for t in self.evaluate(node.slice, scope, frame)]
        for base in bases:
            for key in keys:
                found.extend(self.item(base, key))
        return tuple(found)

    def attribute(self, thing: Thing, name: str) -> Things:
        """What `thing.name` stands for."""
        match thing:
            case External(module):
                return (External(f"{module}.{name}"),)
            case Unknown():
                return (thing,)
            case ModuleThing(file):
                found = self.exported(file, name)
                if found:
                    return found
                sub = self.module(name, file, 1) if file.path.endswith("__init__.py") else None
                if name == "__dict__":
                    return (Member(thing, name),)
                return (ModuleThing(sub),) if sub else (Unknown(f"`{name}` is not found in `{file.module}`"),)
            case ClassThing(scope):
                return self._class_attribute(scope, name, None)
            case Instance(cls=ClassThing(scope)):
                return self._instance_attribute(thing, scope, name)
            case Member(owner=Instance(cls=ClassThing(scope)) as owner, name=holder) if holder in HPARAMS:
                saved = hyperparameter(self, owner, name) if saves_hyperparameters(self, scope) else ()
                return saved or (Member(thing, name),)
            case Instance():
                return attribute_of_arguments(self, thing, name) or (Member(thing, name),)
            case Items(node=ast.Dict()) if name not in _DICT_METHODS:
                return self.item(thing, name)
            case Plain(value=Value(value=dict(table))) if name not in _DICT_METHODS and name in table:
                return self.item(thing, name)
        return (Member(thing, name),)

    def held(self, thing: Thing, key: str) -> Things:
        """What an object of the project that stands for a mapping holds under a key; empty if it is none."""
        match thing:
            case Instance(cls=ClassThing()):
                return from_mapping(self, thing, key)
            case Member(owner=Instance(cls=ClassThing(scope)) as owner, name=holder) if holder in HPARAMS:
                return hyperparameter(self, owner, key) if saves_hyperparameters(self, scope) else ()
        return ()

    def _class_attribute(self, scope: Scope, name: str, receiver: Thing | None) -> Things:
        for cls in self.mro(scope):
            bindings = cls.bindings.get(name)
            if bindings:
                things = self._bound(reaching(bindings, END, ()), cls, None)
                return tuple(_bind_method(t, receiver or ClassThing(scope), receiver is not None) for t in things)
        return (Member(receiver or ClassThing(scope), name),)

    def _instance_attribute(self, instance: Instance, scope: Scope, name: str) -> Things:
        found: list[Thing] = []
        for cls in self.mro(scope):
            bindings = cls.attributes.get(name)
            if bindings:
                found.extend(self._attribute_bindings(bindings, instance, cls))
                break
        outside = self._stored_from_outside(instance, name)
        if found:
            return (*found, *outside)
        field = self._dataclass_field(instance, scope, name)
        if field:
            return field
        things = self._class_attribute(scope, name, instance)
        method = next((t for t in things if isinstance(t, FunctionThing)), None)
        if method is not None and _is_property(method.scope):
            return self.call_function(method, None, None, None)
        if not outside and isinstance(things[0], Member):
            return from_mapping(self, instance, name) or things
        return (*outside, *(things if not outside or not isinstance(things[0], Member) else ()))

    def _stored_from_outside(self, instance: Instance, name: str) -> Things:
        """`model.fc = …` where the variable holds this instance, in the scope that made it."""
        if instance.call is None:
            return ()
        for holder in instance.scope.holders(instance.call):
            bindings = instance.scope.stores.get(f"{holder}.{name}")
            if bindings and holder in instance.scope.bindings:
                return tuple(conditional(t) for t in self.binding(bindings[-1], instance.scope, instance.frame))
        return ()

    def _attribute_bindings(self, bindings: list[Binding], instance: Instance, cls: Scope) -> Things:
        """`self.x = …`: those of `__init__` first; others (setup, build) only where `__init__` says None or nothing."""
        found: list[Thing] = []
        by_method: dict[int, list[Binding]] = {}
        for binding in bindings:
            by_method.setdefault(id(binding.scope), []).append(binding)
        groups = sorted(by_method.values(), key=lambda g: g[0].scope is None or g[0].scope.name != "__init__")
        for group in groups:
            scope = group[0].scope
            assert scope is not None
            frame = self.frame_for(instance, scope, cls)
            if scope.name != "__init__":
                reached = reaching([b for b in group if b.kind != "augment"], END, ())
            else:
                reached = reaching(group, END, ())
            values = self._bound(reached, scope, frame)
            found.extend(v for v in values if not (is_none(v) and len(groups) > 1))
            if scope.name == "__init__" and any(not isinstance(v, Unknown) and not is_none(v) for v in values):
                break
        return tuple(found)

    def frame_for(self, instance: Instance, method: Scope, cls: Scope) -> Frame | None:
        """The frame in which a method of this instance runs; `__init__` knows its arguments."""
        if method.name != "__init__" or instance.call is None:
            return None
        made = instance.cls.scope if isinstance(instance.cls, ClassThing) else cls
        if made is cls or not made.method("__init__"):
            return self.frame(method, instance.call, instance.scope, instance.frame, instance)
        return None

    def _dataclass_field(self, instance: Instance, scope: Scope, name: str) -> Things:
        if instance.call is None or (instance.call is not None and scope.method("__init__")):
            return ()
        fields = [
            n
            for cls in reversed(self.mro(scope))
            for n, b in cls.bindings.items()
            if any(isinstance(x.node, ast.AnnAssign) for x in b)
        ]
        if name not in fields:
            return ()
        given = passed(self, instance.call, name, instance.scope, instance.frame)
        if given:
            return given
        position = list(dict.fromkeys(fields)).index(name)
        if position < len(instance.call.args) and not isinstance(instance.call.args[position], ast.Starred):
            return self.evaluate(instance.call.args[position], instance.scope, instance.frame)
        for cls in self.mro(scope):
            for binding in cls.bindings.get(name, []):
                if binding.value is not None:
                    default = self._field_default(binding.value, cls)
                    return tuple(with_way(t, f"default of `{scope.name}.{name}`") for t in default)
        return ()

    def _field_default(self, value: ast.expr, scope: Scope) -> Things:
        if isinstance(value, ast.Call) and terminal_name(value.func) in {"field", "Field", "ib", "attrib"}:
            for keyword in value.keywords:
                if keyword.arg == "default":
                    return self.evaluate(keyword.value, scope, None)
                if keyword.arg in {"default_factory", "factory"} and isinstance(keyword.value, ast.Lambda):
                    return self.evaluate(keyword.value.body, scope, None)
            if value.args:
                return self.evaluate(value.args[0], scope, None)
            return (Unknown("the field has no default"),)
        return self.evaluate(value, scope, None)

    def mro(self, scope: Scope) -> list[Scope]:
        """The class and its bases within the project, nearest first."""
        known = self._families.get(id(scope))
        if known is not None:
            return known
        found: list[Scope] = []
        settled = True
        queue = [scope]
        while queue and len(found) < 12:
            cls = queue.pop(0)
            if cls in found:
                continue
            found.append(cls)
            node = cls.node
            assert isinstance(node, ast.ClassDef)
            for base in node.bases:
                things = self.evaluate(base, cls.parent or cls)
                settled = settled and self.knows(base)
                queue.extend(t.scope for t in things if isinstance(t, ClassThing))
        if settled:
            self._families[id(scope)] = found
        return found

    def base_names(self, scope: Scope) -> list[str]:
        """The qualified names of all bases from outside the project."""
        names = []
        for cls in self.mro(scope):
            assert isinstance(cls.node, ast.ClassDef)
            for base in cls.node.bases:
                names += [t.name for t in self.evaluate(base, cls.parent or cls) if isinstance(t, External)]
        return list(dict.fromkeys(names))

    def is_subclass(self, scope: Scope, base: Scope) -> bool:
        """Whether a project class is another or derives from it without an `__init__` of its own."""
        for cls in self.mro(scope):
            if cls is base:
                return True
            if cls.method("__init__"):
                return False
        return False


def _holder_of(name: str, scope: Scope) -> Scope:
    """The nearest scope around that binds a name, or the outermost."""
    while name not in scope.bindings and scope.kind != "module" and scope.parent is not None:
        scope = scope.parent
    return scope


def _bind_method(thing: Thing, receiver: Thing, is_instance: bool) -> Thing:
    match thing:
        case FunctionThing(scope=scope, receiver=None, frame=frame) if scope.owner_class is not None:
            if scope.is_static:
                return thing
            if is_instance or _is_classmethod(scope):
                return FunctionThing(scope, receiver, frame)
    return thing


def _is_classmethod(scope: Scope) -> bool:
    decorators = getattr(scope.node, "decorator_list", ())
    return any(isinstance(d, ast.Name) and d.id == "classmethod" for d in decorators)


def _is_property(scope: Scope) -> bool:
    decorators = getattr(scope.node, "decorator_list", ())
    return any(terminal_name(d) in {"property", "cached_property"} for d in decorators)
