"""Which constructions only make a part of another model: blocks of a factory, elements of a container, heads."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradlint.source.index import CallSite, Scope, dotted, terminal_name
from gradlint.source.things import ClassThing, External, Member
from gradlint.source.walking import child_nodes, walk

if TYPE_CHECKING:
    from gradlint.source.models import Models

MAX_FACTORIES = 4
"""How many functions that hand a block on are followed."""

_ADDS = frozenset({"append", "extend", "insert", "add_module", "register_module", "setdefault", "update"})
_CONTAINERS = frozenset({"Sequential", "ModuleList", "ModuleDict"})
_SEQUENCES = (ast.List, ast.Tuple, ast.ListComp, ast.GeneratorExp, ast.Dict, ast.BinOp, ast.IfExp)


class Parts:
    """Tells parts from models."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def is_part(self, site: CallSite, depth: int = 0) -> bool:
        """Whether what this call returns ends up inside another model wherever the program uses it."""
        scope = site.scope
        if self._in_module_class(scope):
            return True
        holders = _holders(site)
        if any(self._is_attribute_of_model(h, site) for h in holders):
            return True
        for call in scope.calls:
            if call.node is site.node or not (call.node.args or call.node.keywords):
                continue
            if _gives(call.node, site.node, holders) and self._builds(call):
                return True
        if scope.kind == "function" and depth < MAX_FACTORIES and _returned(site, holders):
            callers = self.models.evaluator.call_sites(scope)
            return bool(callers) and all(self.is_part(c, depth + 1) for c in callers)
        return False

    def _in_module_class(self, scope: Scope) -> bool:
        owner: Scope | None = scope
        while owner is not None and not (owner.kind == "class" and self.models.is_module(owner)):
            owner = owner.parent
        return owner is not None

    def _is_attribute_of_model(self, holder: str, site: CallSite) -> bool:
        """`model.fc = nn.Linear(…)`: a head of a model that is made elsewhere."""
        base, _, name = holder.rpartition(".")
        if not base or not name.isidentifier():
            return False
        expression = ast.parse(base, mode="eval").body if "[" not in base else None
        if expression is None:
            return False
        for node in walk(expression):
            ast.copy_location(node, site.node)
        things = self.models.evaluator.ask(expression, site.scope)
        return any(self.models.is_model(t) for t in things)

    def _builds(self, call: CallSite) -> bool:
        """Whether a call makes a model out of what it is given."""
        if call.name in {"add_module", "register_module"}:
            return True
        for thing in self.models.evaluator.ask(call.node.func, call.scope):
            match thing:
                case ClassThing(scope=scope) if self.models.is_module(scope):
                    # A LightningModule trains the network that it is given; both are of interest.
                    return not any("Lightning" in base for base in self.models.evaluator.base_names(scope))
                case External(name) | Member(owner=External(), name=name):
                    return name.rpartition(".")[2] in _CONTAINERS
        return False


def _holders(site: CallSite) -> set[str]:
    """The variables and attributes that hold the construction, alone or in a list."""
    scope, node = site.scope, site.node
    found: set[str] = set()
    for table in (scope.bindings, scope.stores):
        for name, bindings in table.items():
            for binding in bindings:
                if binding.value is not None and _holds(binding.value, node):
                    found.add(name)
    for call in scope.calls:
        func = call.node.func
        if isinstance(func, ast.Attribute) and func.attr in _ADDS and any(_holds(a, node) for a in call.node.args):
            holder = dotted(func.value)
            if holder:
                found.add(holder)
    return found


def _holds(value: ast.expr, node: ast.Call) -> bool:
    """Whether a value is the construction, moved or wrapped, or a sequence with it."""
    if value is node:
        return True
    match value:
        case ast.Call(func=ast.Attribute(value=inner)) if _holds(inner, node):
            return True
        case ast.Starred(value=inner):
            return _holds(inner, node)
        case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
            return _holds(element, node)
    if isinstance(value, _SEQUENCES):
        return any(_holds(c, node) for c in child_nodes(value) if isinstance(c, ast.expr))
    return False


def _gives(call: ast.Call, node: ast.Call, holders: set[str]) -> bool:
    for argument in (*call.args, *(k.value for k in call.keywords)):
        value = argument.value if isinstance(argument, ast.Starred) else argument
        if _holds(value, node) or (dotted(value) or "") in holders:
            return True
        if isinstance(value, ast.Call) and terminal_name(value.func) == "OrderedDict" and _gives(value, node, holders):
            return True
    return False


def _returned(site: CallSite, holders: set[str]) -> bool:
    for value, _ in site.scope.returns:
        if _holds(value, site.node) or (dotted(value) or "") in holders:
            return True
        if isinstance(value, ast.Call) and _gives(value, site.node, holders):
            return True
    return False
