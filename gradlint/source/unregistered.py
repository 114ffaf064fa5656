"""Parameters that a module class makes where `parameters()` does not find them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint.source.frozen import call_is_under_no_grad
from gradlint.source.index import CallSite, FileIndex, Scope, first_parameter, location
from gradlint.source.models import Models
from gradlint.source.script import Forgotten
from gradlint.source.things import External, Instance, Plain, Thing, external_name
from gradlint.source.trainable import FREEZES, PARAMETER, Trainable, mentions
from gradlint.source.walking import parents_in, walk

_REGISTERS = frozenset({"add_module", "register_module", "register_parameter", "setattr", "__setattr__", "_modules"})
_OVERRIDES = frozenset({"parameters", "named_parameters", "__setattr__", "__getattr__"})
_READS = frozenset({"enumerate", "zip", "len", "reversed", "iter", "range", "print", "min", "max"})
"""What a list of modules may be handed to without being registered on the way."""

_ADDS = frozenset({"append", "extend", "insert", "setdefault", "update"})
_LOOKS = frozenset({"items", "values", "keys", "get", "index", "pop", "clear"})
_MOVES = frozenset({"cuda", "to", "double", "half", "type", "clone", "bfloat16"})
"""Methods that give a new tensor, which is no longer a Parameter; `cpu` and `float` mostly give back the very one."""

_PLAIN = (ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.DictComp)


class Unregistered:
    """Reads module classes."""

    def __init__(self, models: Models, trainable: Trainable) -> None:
        self.models = models
        self.evaluator = models.evaluator
        self.trainable = trainable

    def of(self, index: FileIndex) -> Iterator[Forgotten]:
        """What the module classes of a file hold outside of `parameters()`."""
        for cls in index.classes:
            if self.models.is_module(cls):
                yield from self._containers(cls)
                yield from self._in_forward(cls)
                yield from self._moved(cls)

    # -- modules in a plain list or dict -------------------------------------------------------------------

    def _containers(self, cls: Scope) -> Iterator[Forgotten]:
        family = self.evaluator.mro(cls)
        if any(mentions(c, _REGISTERS | FREEZES) for c in family) or any(
            c.method(m) for c in family for m in _OVERRIDES
        ):
            return
        for name, bindings in cls.attributes.items():
            if any(not isinstance(b.value, (*_PLAIN, ast.Name)) for b in bindings if b.kind != "augment"):
                continue
            held = [(b.value, b.scope) for b in bindings if b.value is not None and b.scope is not None]
            kinds = {k for value, scope in held for k in self._held(value, scope)}
            if None in kinds:
                continue
            kinds |= {k for value, scope in _added(cls, f"{{me}}.{name}") for k in self._held(value, scope)}
            if not kinds or None in kinds or not _is_only_read(cls, name) or self._is_named_outside(cls, name):
                continue
            first = next(b for b in bindings if b.scope is not None)
            yield Forgotten(
                "container", f"self.{name}", cls.name, location(cls.file, first.node), trains="weights" in kinds
            )

    def _held(self, value: ast.expr, scope: Scope, depth: int = 0) -> list[str | None]:
        """What each element of a plain list or dict holds; None for one that is not surely a new module."""
        match value:
            case ast.List(elts=[ast.Call() as only]) | ast.Tuple(elts=[ast.Call() as only]):
                # A list of one is how a module is kept out of `parameters()` on purpose.
                held = self.trainable.of(only, scope)
                library = any((external_name(t) or "").startswith("torch.nn.") for t in self.evaluator.ask(only, scope))
                return [held if library else None]
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [k for e in elements for k in self._element(e, scope, depth)]
            case ast.Dict(values=elements):
                return [k for e in elements for k in self._element(e, scope, depth)]
            case ast.ListComp(elt=element) | ast.DictComp(value=element):
                return self._element(element, scope, depth)
            case ast.Name(id=name) if depth < 2:
                return self._variable(name, scope, depth)
        return [None]

    def _element(self, element: ast.expr, scope: Scope, depth: int) -> list[str | None]:
        if isinstance(element, (*_PLAIN, ast.Name)) and depth < 3:
            if isinstance(element, ast.Name):
                return [None]
            return self._held(element, scope, depth + 1)
        return [self.trainable.of(element, scope)] if isinstance(element, ast.Call) else [None]

    def _variable(self, name: str, scope: Scope, depth: int) -> list[str | None]:
        """A local list that is filled and then assigned to `self`."""
        bindings = scope.bindings.get(name, [])
        if not bindings or any(b.kind != "assign" or not isinstance(b.value, _PLAIN) for b in bindings):
            return [None]
        loads = [n for n in walk(scope.node) if isinstance(n, ast.Name) and n.id == name]
        adds = [
            s
            for s in scope.calls
            if isinstance(s.node.func, ast.Attribute)
            and isinstance(s.node.func.value, ast.Name)
            and s.node.func.value.id == name
        ]
        # Stored, filled, assigned to `self`: any other mention may register what is in it.
        if len(loads) != len(bindings) + len(adds) + 1 or any(s.name not in _ADDS for s in adds):
            return [None]
        found = [k for b in bindings if b.value is not None for k in self._held(b.value, scope, depth + 1)]
        return found + [k for s in adds for a in s.node.args[-1:] for k in self._given(s, a, depth)]

    def _given(self, site: CallSite, argument: ast.expr, depth: int) -> list[str | None]:
        if site.name in {"extend", "update"}:
            return self._held(argument, site.scope, depth + 1) if isinstance(argument, _PLAIN) else [None]
        return self._element(argument, site.scope, depth)

    def _is_named_outside(self, cls: Scope, name: str) -> bool:
        """Whether code outside of the class speaks of the attribute: it may hand it to an optimizer."""
        word = re.compile(rf"\.{re.escape(name)}\b")
        node = cls.node
        start, end = getattr(node, "lineno", 1), getattr(node, "end_lineno", 1)
        lines = cls.file.lines
        if word.search("\n".join([*lines[: start - 1], *lines[end:]])):
            return True
        return any(word.search(f.text) for f in self.evaluator.importers.of(cls.file, cls.name))

    # -- modules built in forward --------------------------------------------------------------------------

    def _in_forward(self, cls: Scope) -> Iterator[Forgotten]:
        forward = cls.method("forward")
        if forward is None:
            return
        seen: set[int] = set()
        for site in forward.calls:
            if id(site.node) in seen or call_is_under_no_grad(site):
                continue
            if not _may_construct(site):
                continue
            held = self.trainable.of(site.node, forward)
            made = self.evaluator.ask(site.node, forward)
            if held is None or any(getattr(t, "call", None) is not site.node for t in made):
                continue
            seen.update(id(n) for n in walk(site.node))
            how = _use(forward, site.node)
            if how is not None:
                name = how if how != "called" else site.name
                yield Forgotten("forward", name, cls.name, location(cls.file, site.node), trains=held == "weights")

    # -- parameters that are moved on the way --------------------------------------------------------------

    def _moved(self, cls: Scope) -> Iterator[Forgotten]:
        for name, bindings in cls.attributes.items():
            moved = [b for b in bindings if b.value is not None and self._is_moved(b.value, b.scope or cls)]
            if len(moved) != len(bindings) or not moved or self._is_named_outside(cls, name):
                continue
            if mentions(cls, _REGISTERS):
                continue
            at = location(cls.file, moved[0].node)
            yield Forgotten("moved", f"self.{name}", cls.name, at)

    def _is_moved(self, value: ast.expr, scope: Scope) -> bool:
        match value:
            case ast.Call(func=ast.Attribute(value=ast.Call() as inner, attr=attr), args=to) if attr in _MOVES:
                stays = attr in ("to", "type") and len(to) == 1 and self._is_usual(to[0], scope)
                return not stays and self._is_parameter(inner, scope)
            case ast.BinOp(left=left, right=right):
                return any(isinstance(s, ast.Call) and self._is_parameter(s, scope) for s in (left, right))
        return False

    def _is_usual(self, given: ast.expr, scope: Scope) -> bool:
        """Whether it is the CPU or float32 in every run: of what is so, `.to("cpu")` gives back the very Parameter."""

        def usual(thing: Thing) -> bool:
            match thing:
                case Plain(value=value):
                    return bool(value.value == "cpu")
                case External(name=name):
                    return name in ("torch.float32", "torch.float")
                case Instance(cls=External(name="torch.device"), call=ast.Call(args=[ast.Constant(value="cpu"), *_])):
                    return True
            return False

        things = self.evaluator.ask(given, scope)
        return bool(things) and all(map(usual, things))

    def _is_parameter(self, call: ast.Call, scope: Scope) -> bool:
        if any(k.arg == "requires_grad" for k in call.keywords) or len(call.args) > 1:
            return False
        return any((external_name(t) or "") in PARAMETER for t in self.evaluator.ask(call.func, scope))


def _added(cls: Scope, pattern: str) -> Iterator[tuple[ast.expr, Scope]]:
    """What `self.x.append(…)`, `self.x[…] = …` and the like put into an attribute, as lists."""
    for method in cls.children:
        key = pattern.format(me=first_parameter(method) or "self")
        for site in method.calls:
            func = site.node.func
            if isinstance(func, ast.Attribute) and func.attr in _ADDS and ast.unparse(func.value) == key:
                if not site.node.args:
                    continue
                last = site.node.args[-1]
                made = _made_for_it(method, last)
                if made is not None and func.attr not in {"extend", "update"}:
                    yield ast.List([made, made], ast.Load()), method
                elif func.attr in {"extend", "update"} or isinstance(last, ast.Name):
                    yield last, method
                else:
                    # Two of it, so that it is not taken for a module that is hidden in a list of one.
                    yield ast.List([last, last], ast.Load()), method
        for node in walk(method.node):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Subscript) and ast.unparse(target.value) == key:
                        yield ast.List([node.value, node.value], ast.Load()), method


def _made_for_it(method: Scope, element: ast.expr) -> ast.Call | None:
    """What makes an element that a variable holds on its way into a list, and that goes nowhere else."""
    if not isinstance(element, ast.Name):
        return None
    bindings = method.bindings.get(element.id, [])
    if len(bindings) != 1 or bindings[0].kind != "assign" or not isinstance(bindings[0].value, ast.Call):
        return None
    parents = parents_in(method.node)
    for node in walk(method.node):
        if isinstance(node, ast.Name) and node.id == element.id and node is not element:
            match parents.get(id(node)):
                case ast.Assign(targets=[target]) if target is node:
                    continue
                case ast.Attribute(attr=attr) if "parameters" not in attr:
                    continue
            return None
    return bindings[0].value


def _is_only_read(cls: Scope, name: str) -> bool:
    """Whether methods other than `__init__` use the attribute, and all only look into it."""
    used = False
    for method in cls.children:
        me = first_parameter(method)
        parents = parents_in(method.node)
        for node in walk(method.node):
            if not (
                isinstance(node, ast.Attribute)
                and node.attr == name
                and isinstance(node.value, ast.Name)
                and node.value.id == me
                and isinstance(node.ctx, ast.Load)
            ):
                continue
            if not _looks(parents.get(id(node)), node, parents):
                return False
            used = used or method.name != "__init__"
    return used


def _looks(parent: ast.AST | None, node: ast.expr, parents: dict[int, ast.AST]) -> bool:
    match parent:
        case ast.For() | ast.comprehension() | ast.Compare() | ast.If() | ast.BoolOp():
            return True
        case ast.Subscript(value=value):
            return (value is node and not isinstance(parent.slice, ast.Slice)) or (
                isinstance(parent.slice, ast.Slice) and _looks(parents.get(id(parent)), parent, parents)
            )
        case ast.Call(func=ast.Name(id=callee)):
            return callee in _READS
        case ast.Attribute(attr=attr):
            return attr in _ADDS | _LOOKS
    return False


def _may_construct(site: CallSite) -> bool:
    return site.name[:1].isupper() or isinstance(site.node.func, ast.Call)


def _use(forward: Scope, call: ast.Call) -> str | None:
    """How `forward` runs what it has constructed: "called" at once, the variable or attribute, or None if unsure."""
    for site in forward.calls:
        if _unmoved(site.node.func) is call:
            return "called"
    me = first_parameter(forward)
    for table in (forward.bindings, forward.stores):
        for name, bindings in table.items():
            if not any(b.value is not None and _unmoved(b.value) is call for b in bindings) or len(bindings) != 1:
                continue
            conditional = any(b.kind in {"if", "case", "handler", "try"} for b in bindings[0].path)
            if name.startswith(f"{me}.") and conditional:
                return None  # Made at the first call and kept: whether an optimizer knows it depends on the caller.
            return name if _is_only_called(forward, name) else None
    return None


def _is_only_called(forward: Scope, name: str) -> bool:
    """Whether a variable is called, and nothing is done to it that could fix its weights or register it."""
    called = [s for s in forward.calls if ast.unparse(s.node.func) == name]
    mentions = [
        n
        for n in walk(forward.node)
        if isinstance(n, (ast.Name, ast.Attribute)) and isinstance(n.ctx, ast.Load) and ast.unparse(n) == name
    ]
    moved = [s for s in forward.calls if isinstance(s.node.func, ast.Attribute) and s.node.func.attr in {"to", "cuda"}]
    moved = [s for s in moved if isinstance(s.node.func, ast.Attribute) and ast.unparse(s.node.func.value) == name]
    return bool(called) and len(mentions) == len(called) + len(moved)


def _unmoved(value: ast.AST) -> ast.AST:
    """`nn.Linear(3, 4).to(device)`: the construction behind what moves it."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _MOVES:
        value = value.func.value
    return value
