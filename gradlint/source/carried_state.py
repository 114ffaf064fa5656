"""Hidden states that are carried from one backward pass to the next with their graph."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint.source.frozen import call_is_under_no_grad
from gradlint.source.index import CallSite, FileIndex, Scope, dotted, first_parameter, location, position_of
from gradlint.source.model_names import RECURRENT
from gradlint.source.models import Models
from gradlint.source.script import CarriedState
from gradlint.source.things import ClassThing, FunctionThing, Instance, Thing, Unknown, external_name
from gradlint.source.trainable import mentions
from gradlint.source.walking import walk

_CUTS = frozenset({"detach", "detach_", "data", "no_grad", "item", "numpy", "repackage_hidden"})
_FRESH = ("init", "reset", "begin", "zero", "hidden", "state", "detach", "repackage", "clear")
"""Parts of names of methods that may renew a state that the model keeps."""

_STATE = re.compile(r"hidden|state|^h(_|x|c|\d|$)|cell|memory", re.IGNORECASE)

_RECURRENCE = ("rnn", "lstm", "gru", "recurrent")

Loop = ast.For | ast.While


class CarriedStates:
    """Reads training loops."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.evaluator = models.evaluator

    def of(self, index: FileIndex) -> Iterator[CarriedState]:
        """The states that loops of a file carry across their backward passes."""
        scopes = [s for s in index.scopes if s.kind in {"function", "module"} and "backward" in s.words]
        text = index.file.text.lower() if scopes else ""
        recurs = any(word in text for word in _RECURRENCE)
        for scope in scopes:
            for site in scope.calls:
                loop = _loop_around(site)
                if loop is None or not isinstance(site.node.func, ast.Attribute) or site.node.func.attr != "backward":
                    continue
                carried = self._passed(site, loop) or (self._kept(site, loop) if recurs else None)
                if carried is not None:
                    yield carried
                    break

    def _passed(self, backward: CallSite, loop: Loop) -> CarriedState | None:
        """`out, h = model(x, h)` in the loop, and nothing in it that makes `h` anew or cuts it."""
        scope = backward.scope
        candidates = [(n, name) for n in walk(loop) if isinstance(n, ast.Assign) for name in _both_ways(n)]
        if not candidates or any(isinstance(n, ast.Attribute) and n.attr == "detach_" for n in walk(loop)):
            return None
        sites = {id(s.node): s for s in scope.calls}
        loss = _behind(backward)
        for statement, name in candidates:
            call = sites.get(id(statement.value))
            if call is None or call_is_under_no_grad(call) or loss.isdisjoint(_names(statement.targets)):
                continue
            if _is_carried(name, statement, loop, scope) and self._recurs(call, name, backward):
                return CarriedState(
                    name,
                    location(scope.file, backward.node),
                    location(scope.file, statement),
                    _retains(backward.node),
                    any(_is_thrown_away(n) for n in walk(loop)),
                )
        return None

    def _kept(self, backward: CallSite, loop: Loop) -> CarriedState | None:
        """A state that the model keeps on itself between calls, and that the loop never renews."""
        scope = backward.scope
        called = [s for s in scope.calls if _inside(s.node, loop)]
        names = {n.attr for n in walk(loop) if isinstance(n, ast.Attribute)}
        if any(part in name.lower() for name in names for part in _FRESH):
            return None
        for site in called:
            for thing in self.evaluator.ask(site.node.func, scope):
                match thing:
                    case Instance(cls=ClassThing(cls)) if self.models.is_module(cls) and not mentions(cls, _CUTS):
                        kept = _kept_by(cls)
                        if kept is not None:
                            name, node = kept
                            return CarriedState(
                                name,
                                location(scope.file, backward.node),
                                location(cls.file, node),
                                _retains(backward.node),
                            )
        return None

    def _recurs(self, call: CallSite, name: str, backward: CallSite) -> bool:
        """Whether a call runs a recurrent model or layer that does not cut the state itself.

        Of a model that is not known, the name of the state and a graph that is kept for it are enough.
        """
        things = self.evaluator.ask(call.node.func, call.scope)
        if all(isinstance(t, Unknown) for t in things):
            return _retains(backward.node) and bool(_STATE.search(name))
        return any(self._is_recurrent(t) for t in things)

    def _is_recurrent(self, thing: Thing) -> bool:
        match thing:
            case FunctionThing(receiver=Instance() as receiver):
                return self._is_recurrent(receiver)
            case Instance(cls=ClassThing(cls)) if self.models.is_module(cls):
                return not mentions(cls, _CUTS) and self.models.recurrence(thing) is not None
            case Instance():
                name = external_name(thing) or ""
                return name.startswith("torch.nn.") and name.rpartition(".")[2] in RECURRENT
        return False


def _loop_around(site: CallSite) -> Loop | None:
    """The innermost loop around a call."""
    owners = [b.owner for b in site.path if b.kind == "loop"]
    last = owners[-1] if owners else None
    return last if isinstance(last, (ast.For, ast.While)) else None


def _inside(node: ast.AST, loop: Loop) -> bool:
    return position_of(loop) <= position_of(node) and (node.end_lineno or 0) <= (loop.end_lineno or 0)  # type: ignore[attr-defined]


def _both_ways(statement: ast.Assign) -> Iterator[str]:
    """The variables that an assignment gives to a call and takes from it."""
    if not isinstance(statement.value, ast.Call):
        return
    given: list[ast.expr] = []
    for argument in (*statement.value.args, *(k.value for k in statement.value.keywords)):
        given += argument.elts if isinstance(argument, (ast.Tuple, ast.List)) else [argument]
    passed = {key for g in given if (key := dotted(g)) is not None}
    for target in statement.targets:
        parts: list[ast.expr] = [target]
        while parts:
            part = parts.pop(0)
            if isinstance(part, (ast.Tuple, ast.List)):
                parts += part.elts
            elif dotted(part) in passed and isinstance(target, (ast.Tuple, ast.List)):
                yield dotted(part) or ""


def _is_carried(name: str, statement: ast.Assign, loop: Loop, scope: Scope) -> bool:
    """Whether a variable comes from before the loop, and the loop only gives it the model's own answer."""
    bindings = [*scope.bindings.get(name, []), *scope.stores.get(name, [])]
    inner = [b for b in bindings if _inside(b.node, loop)]
    others = [b for b in inner if b.node is not statement and not _where_none(b.path, name)]
    before = len(inner) < len(bindings) or any(_where_none(b.path, name) for b in inner)
    return before and not others and not _escapes(name, loop)


def _where_none(path: tuple[object, ...], name: str) -> bool:
    """Under `if name is None`."""
    for block in path:
        match getattr(block, "test", None), getattr(block, "branch", None):
            case ast.Compare(left=left, ops=[ast.Is()], comparators=[ast.Constant(value=None)]), 0:
                if dotted(left) == name:
                    return True
    return False


def _escapes(name: str, loop: Loop) -> bool:
    """Whether something in the loop may change the state in place: `reset_(h)`, `h[:] = 0`, `h.zero_()`."""
    for node in walk(loop):
        match node:
            case ast.Expr(value=ast.Call(args=args)) if any(dotted(a) == name for a in args):
                return True
            case ast.Subscript(value=value, ctx=ast.Store()) if dotted(value) == name:
                return True
            case ast.Attribute(value=value, attr=attr) if dotted(value) == name and attr.endswith("_"):
                return True
            case ast.Attribute(value=value, attr="data") if dotted(value) == name:
                return True
    return False


def _is_thrown_away(node: ast.AST) -> bool:
    """`h.detach()` as a statement, which changes nothing."""
    match node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="detach"))):
            return True
    return False


def _retains(backward: ast.Call) -> bool:
    return any(
        k.arg == "retain_graph" and isinstance(k.value, ast.Constant) and k.value.value is True
        for k in backward.keywords
    )


def _behind(backward: CallSite) -> set[str]:
    """The variables that flow into what a backward starts from."""
    assert isinstance(backward.node.func, ast.Attribute)
    wanted, done = _names([backward.node.func.value]), set[str]()
    while wanted - done:
        name = (wanted - done).pop()
        done.add(name)
        wanted |= _names([b.value for b in backward.scope.bindings.get(name, []) if b.value is not None])
        for site in backward.scope.calls:  # `outputs.append(out)`
            match site.node.func:
                case ast.Attribute(value=ast.Name(id=holder), attr="append" | "extend") if holder == name:
                    wanted |= _names(site.node.args)
    return done


def _names(nodes: list[ast.expr]) -> set[str]:
    return {n.id for node in nodes for n in walk(node) if isinstance(n, ast.Name)}


def _kept_by(cls: Scope) -> tuple[str, ast.AST] | None:
    """`out, self.h = self.rnn(x, self.h)` in `forward`, where nothing else in it assigns `self.h`."""
    forward = cls.method("forward")
    if forward is None:
        return None
    me = first_parameter(forward)
    for name, bindings in forward.stores.items():
        node = bindings[0].node
        if len(bindings) != 1 or not name.startswith(f"{me}.") or bindings[0].path or not isinstance(node, ast.Assign):
            continue
        match node.value:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=layer)) if owner == me:
                made = [b.value for b in cls.attributes.get(layer, [])]
                recurrent = [v for v in made if isinstance(v, ast.Call) and dotted(v.func)]
                if not recurrent or not any((dotted(v.func) or "").rpartition(".")[2] in RECURRENT for v in recurrent):
                    continue
                if name in set(_both_ways(node)):
                    return name, node
    return None
