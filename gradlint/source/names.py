"""What a name means at a place: the bindings that reach it, imports and star imports included."""

from __future__ import annotations

import ast
from itertools import product

from gradlint.source import arithmetic
from gradlint.source.candidates import MAX_CANDIDATES, conditional, is_none
from gradlint.source.elements import Elements
from gradlint.source.index import END, Binding, Path, Position, Scope, position_of
from gradlint.source.known_names import BUILTINS, STAR_EXPORTS
from gradlint.source.project import SourceFile
from gradlint.source.reaching import reaching
from gradlint.source.things import (
    ClassThing,
    External,
    Frame,
    FunctionThing,
    Group,
    Instance,
    Items,
    ModuleThing,
    Plain,
    Thing,
    Things,
    Unknown,
)
from gradlint.source.value import Value


class Names(Elements):
    """Names, bindings and imports."""

    def name(self, name: str, scope: Scope, position: Position, frame: Frame | None) -> Things:
        """What a name means at a position of a scope."""
        current: Scope | None = scope
        at = position
        while current is not None:
            visible = current is scope or current.kind != "class"
            bindings = current.bindings.get(name) if visible and name not in current.globals else None
            if bindings:
                in_frame = self._frame_of(current, frame)
                path = current.path_around(at, bindings) if current is scope else ()
                found = reaching(bindings, at, path)
                if not found and current is scope and current.kind != "class":
                    found = reaching(bindings, END, path)
                things = self._bound(found, current, in_frame)
                if current.kind == "module" and all(is_none(t) for t in things):
                    things = self._set_by_functions(name, current) or things
                if things:
                    return things
            if current.kind == "module" and current.stars:
                things = self._from_stars(name, current)
                if things:
                    return things
            current = current.parent
            at = END
            if current is not None and current.kind == "module" and scope.kind == "class":
                at = position  # A class body runs where it stands; its methods run later.
        if name in BUILTINS:
            return (External(f"builtins.{name}"),)
        things = self._set_by_functions(name, self.index_of(scope).module)
        if things:
            return things
        return (Unknown(f"`{name}` is not defined in the project"),)

    def _set_by_functions(self, name: str, module: Scope) -> Things:
        """What functions give a name of the module that they declare `global`."""
        setters = [s for s in self.index_of(module).scopes if name in s.globals and name in s.bindings]
        found = [t for s in setters for t in self._bound(reaching(s.bindings[name], END, ()), s, None)]
        return tuple(found) if len(setters) < 2 else tuple(conditional(t) for t in found)

    def _frame_of(self, scope: Scope, frame: Frame | None) -> Frame | None:
        while frame is not None and frame.function is not scope:
            frame = frame.outer if scope.kind != "module" else None
        return frame

    def _bound(self, found: list[tuple[Binding, Path]], scope: Scope, frame: Frame | None) -> Things:
        if len(found) == 1 and not found[0][1]:
            return self.binding(found[0][0], scope, frame)
        things: list[Thing] = []
        live = False
        for respect_dead in (True, False):
            for binding, only_on in found:
                if respect_dead and self.dead(only_on, scope, frame):
                    continue
                live = True
                values = self.binding(binding, scope, frame)
                sure = not only_on or self.taken(only_on, scope, frame)
                things.extend(values if sure else (conditional(v) for v in values))
                if sure:
                    break
            if live:
                break
        return tuple(things)

    def binding(self, binding: Binding, scope: Scope, frame: Frame | None) -> Things:
        """What a binding gives its name."""
        match binding.kind:
            case "assign" | "with":
                if binding.value is None:
                    return (Unknown(f"`{binding.name}` is declared but not given a value"),)
                return self.unpacked(self.evaluate(binding.value, scope, frame), binding.unpack)
            case "for":
                if binding.value is None:
                    return (Unknown("a loop variable"),)
                things = self.evaluate(binding.value, scope, frame)
                return self.unpacked(tuple(e for t in things for e in self.elements(t)), binding.unpack)
            case "augment":
                return self._augmented(binding, scope, frame)
            case "import":
                return self._import(binding, scope)
            case "from":
                return self._import_from(binding, scope)
            case "function":
                inner = self.index_of(scope).scope_of[id(binding.node)]
                receiver = None
                return (FunctionThing(inner, receiver, frame),)
            case "class":
                return (ClassThing(self.index_of(scope).scope_of[id(binding.node)]),)
            case "parameter":
                return self.parameter(binding, scope, frame)
            case "rest":
                return self.rest(binding, scope, frame)
        return (Unknown(f"`{binding.name}` is set at run time"),)

    def _augmented(self, binding: Binding, scope: Scope, frame: Frame | None) -> Things:
        statement = binding.node
        assert isinstance(statement, ast.AugAssign)
        table = scope.bindings if isinstance(statement.target, ast.Name) else scope.stores
        before = [b for b in table.get(binding.name, []) if b.position < binding.position and b.kind != "augment"]
        found = reaching(before, position_of(statement), binding.path)
        olds = self._bound(found, scope, frame)
        adds = self.evaluate(statement.value, scope, frame)
        results: list[Thing] = []
        for old, add in list(product(olds, adds))[:MAX_CANDIDATES]:
            match old, add:
                case Plain(value=a), Plain(value=b):
                    try:
                        result = arithmetic.binary(statement.op, a.value, b.value)
                    except arithmetic.NotComputable:
                        continue
                    results.append(Plain(Value(result, a.origin, (*a.way, *b.way), a.conditional, a.overridable)))
                case (Items() | Group(), _) | (Instance(), _):
                    results.append(Group(((old,), (add,))))
        if any(b.kind == "loop" for b in binding.path) and any(isinstance(r, Plain) for r in results):
            return olds
        return tuple(results) or (Unknown(f"`{binding.name}` is updated at run time"),)

    def _import(self, binding: Binding, scope: Scope) -> Things:
        alias = binding.node
        assert isinstance(alias, ast.alias)
        wanted = alias.name if alias.asname else alias.name.partition(".")[0]
        file = self.module(wanted, scope.file)
        if file is not None and file.path != scope.file.path:
            return (ModuleThing(file),)
        return (External(wanted),)

    def _import_from(self, binding: Binding, scope: Scope) -> Things:
        statement = binding.node
        assert isinstance(statement, ast.ImportFrom)
        alias = statement.names[binding.unpack[0]]
        return self.imported(statement.module or "", alias.name, statement.level, scope)

    def imported(self, module: str, name: str, level: int, scope: Scope) -> Things:
        """What `from <level dots>module import name` gives in a file."""
        file = self.module(module, scope.file, level)
        if file is not None and (file.path != scope.file.path or scope.kind != "module"):
            found = self.exported(file, name)
            if found:
                return found
        submodule = self.module(f"{module}.{name}" if module else name, scope.file, level)
        if submodule is not None and submodule.path != scope.file.path:
            return (ModuleThing(submodule),)
        if file is not None or level:
            return (Unknown(f"`{name}` is not found in `{'.' * level}{module}`"),)
        return (External(f"{module}.{name}"),)

    def exported(self, file: SourceFile, name: str) -> Things:
        """What a module of the project calls `name` once it has run; empty if nothing."""
        module = self.index(file).module
        if name in module.bindings or module.stars:
            things = self.name(name, module, END, None)
            if not (len(things) == 1 and isinstance(things[0], (Unknown, External)) and name not in module.bindings):
                return things
        return ()

    def _from_stars(self, name: str, scope: Scope) -> Things:
        for module, level in scope.stars:
            file = self.module(module, scope.file, level)
            if file is None:
                if module in STAR_EXPORTS and not level and name in STAR_EXPORTS[module]:
                    return (External(f"{module}.{name}"),)
                continue
            if file.path == scope.file.path:
                continue
            key = (file.path, name)
            if key in self._importing:
                continue
            self._importing.add(key)
            try:
                found = self.exported(file, name)
            finally:
                self._importing.discard(key)
            if found:
                return found
        return ()
