"""What callers pass: a parameter stands for the arguments of the calls that reach its function."""

from __future__ import annotations

import ast

from gradlint.source.arguments import configured, parameter_option
from gradlint.source.attributes import Attributes
from gradlint.source.candidates import with_way
from gradlint.source.index import (
    Binding,
    CallSite,
    FileIndex,
    Scope,
    first_parameter,
    terminal_name,
)
from gradlint.source.instantiation import constructions
from gradlint.source.keywords import spread
from gradlint.source.other_names import calls_by_other_names
from gradlint.source.signatures import argument, parameter_default
from gradlint.source.things import (
    ClassThing,
    Frame,
    FunctionThing,
    Instance,
    Items,
    Thing,
    Things,
    Unknown,
)

MAX_CALLERS = 12
"""How many call sites of a function are looked at for one parameter."""


class Passing(Attributes):
    """Parameters and call sites."""

    def parameter(self, binding: Binding, scope: Scope, frame: Frame | None) -> Things:
        """What a parameter stands for: the argument of the call in `frame`, else of every known call."""
        name = binding.name
        owner = scope.owner_class
        if owner is not None and name == first_parameter(scope) and not scope.is_static:
            if frame is not None and frame.receiver is not None:
                return (frame.receiver,)
            return (Instance(ClassThing(owner), None, owner),)
        if frame is not None and frame.function is scope:
            return self._argument(name, scope, frame.call, frame.scope, frame.outer)
        option = parameter_option(self, name, scope) or configured(self, name, scope)
        if option:
            return option
        sites = self.call_sites(scope)[:MAX_CALLERS]
        found: list[Thing] = []
        for site in sites:
            if self.dead(site.path, site.scope):
                continue
            found.extend(self._argument(name, scope, site.node, site.scope, None))
        if found:
            return tuple(found)
        default = parameter_default(scope, name)
        if default is None:
            return (Unknown(f"nobody in the project passes `{name}` to `{scope.qualified_name or 'lambda'}`"),)
        outer = scope.parent or scope
        return tuple(with_way(t, f"default of parameter `{name}`") for t in self.evaluate(default, outer, None))

    def rest(self, binding: Binding, scope: Scope, frame: Frame | None) -> Things:
        """What `**kwargs` stands for: the keywords of the call in `frame`, else of every known call."""
        arguments = scope.parameters
        if arguments is None or arguments.kwarg is not binding.node:
            return (Unknown(f"`*{binding.name}` is put together by the caller"),)
        if frame is not None and frame.function is scope:
            if frame.call is None or frame.scope is None:
                return (Unknown(f"`**{binding.name}` is put together by the caller"),)
            return (self._rest_of(frame.call, arguments, frame.scope, frame.outer),)
        sites = self.call_sites(scope)[:MAX_CALLERS]
        found = [self._rest_of(s.node, arguments, s.scope, None) for s in sites if not self.dead(s.path, s.scope)]
        return tuple(found) or (Unknown(f"nobody in the project passes `**{binding.name}`"),)

    def _rest_of(self, call: ast.Call, arguments: ast.arguments, scope: Scope, frame: Frame | None) -> Items:
        """The keywords of a call that no parameter takes, as a dict display."""
        key = (id(call), id(arguments))
        table = self._rests.get(key)
        if table is None:
            named = {a.arg for a in (*arguments.args, *arguments.kwonlyargs)}
            over = [k for k in call.keywords if k.arg not in named]
            keys: list[ast.expr | None] = [ast.Constant(k.arg) if k.arg else None for k in over]
            table = ast.copy_location(ast.Dict(keys, [k.value for k in over]), call)
            self._rests[key] = ast.fix_missing_locations(table)
        return Items(table, scope, frame)

    def _argument(
        self, name: str, scope: Scope, call: ast.Call | None, caller: Scope | None, frame: Frame | None
    ) -> Things:
        if call is not None and caller is not None:
            given = argument(call, scope, name)
            if given is not None:
                return self.evaluate(given, caller, frame)
            found = spread(self, call, name, caller, frame)
            if found:
                return found
        default = parameter_default(scope, name)
        if default is not None:
            things = self.evaluate(default, scope.parent or scope, None)
            return tuple(with_way(t, f"default of parameter `{name}`") for t in things)
        return (Unknown(f"`{name}` is not passed in a way that can be read"),)

    def call_sites(self, function: Scope) -> list[CallSite]:
        """The calls in the project that surely run this function (a class's calls for its `__init__`)."""
        known = self._sites.get(id(function))
        if known is not None:
            return known
        self._sites[id(function)] = []
        owner = function.owner_class
        name = owner.name if owner is not None and function.name in {"__init__", "__new__"} else function.name
        if owner is not None and function.name in {"__call__", "forward"}:
            return []
        # A notebook is imported by nobody and stands in no table of importers, but it may be what is being read.
        notebooks = [f for f in self.known_files if f.path.endswith(".ipynb") and f is not function.file]
        files = [function.file, *self.importers.of(function.file, name), *notebooks]
        found: list[CallSite] = []
        for file in files:
            index = self.index(file)
            sites = [*index.calls_by_name.get(name, [])]
            if owner is not None and function.name == "__init__":
                sites += [s for s in index.calls_by_name.get("__init__", []) if _is_super_call(s, owner)]
                sites += self._of_heirs(index, owner)
            if owner is None or function.name == "__init__":
                sites += calls_by_other_names(index, name)
            found.extend(s for s in sites if s.scope is not function and self._calls(s, function, owner))
            if len(found) >= MAX_CALLERS:
                break
        if owner is not None and function.name == "__init__":
            found += constructions(self, owner)
        self._sites[id(function)] = found
        return found

    def _of_heirs(self, index: FileIndex, owner: Scope) -> list[CallSite]:
        """The constructions of the subclasses in a file that have no `__init__` of their own."""
        found: list[CallSite] = []
        for heir in index.classes:
            bases = heir.node.bases if isinstance(heir.node, ast.ClassDef) else []
            if not any(terminal_name(b) == owner.name for b in bases) or heir.method("__init__") is not None:
                continue
            for file in (heir.file, *self.importers.of(heir.file, heir.name)):
                found += self.index(file).calls_by_name.get(heir.name, [])
        return found

    def _calls(self, site: CallSite, function: Scope, owner: Scope | None) -> bool:
        if owner is not None and function.name == "__init__" and _is_super_call(site, owner):
            return True
        for thing in self.evaluate(site.node.func, site.scope):
            match thing:
                case FunctionThing(scope=scope) if scope is function:
                    return True
                case ClassThing(scope=scope) if owner is not None and self.is_subclass(scope, owner):
                    return True
        return False


def _is_super_call(site: CallSite, owner: Scope) -> bool:
    function = site.node.func
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Call)):
        return False
    if terminal_name(function.value.func) != "super" or site.scope.owner_class is None:
        return False
    node = site.scope.owner_class.node
    return isinstance(node, ast.ClassDef) and any(terminal_name(b) == owner.name for b in node.bases)
