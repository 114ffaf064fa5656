"""Where the way from the loss back to the parameters is cut."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint.source.frozen import call_is_under_no_grad
from gradlint.source.gradient_flow import CUTTING_METHODS, GradientFlow, backwards
from gradlint.source.index import CallSite, FileIndex, Scope, dotted, first_parameter, location, position_of
from gradlint.source.models import Models
from gradlint.source.reaching import reaching
from gradlint.source.script import BrokenGraph
from gradlint.source.trainable import FREEZES, Trainable, mentions
from gradlint.source.walking import parents_in, walk

_NEW = re.compile(r"(^|\.)(tensor|Variable)$")
_SHAPES = frozenset({"shape", "size", "device", "dtype", "dim", "ndim", "numel"})
_FREEZES = FREEZES | {"no_grad", "pretrained", "load_state_dict", "weights", "from_pretrained", "inference_mode"}


class BrokenGraphs:
    """Reads training functions and the `forward` of module classes."""

    def __init__(self, models: Models, trainable: Trainable) -> None:
        self.models = models
        self.evaluator = models.evaluator
        self.trainable = trainable

    def of(self, index: FileIndex) -> Iterator[BrokenGraph]:
        """The cuts in a file."""
        for scope in index.scopes:
            if scope.kind in {"function", "module"} and "backward" in scope.words:
                for site, loss in backwards(scope):
                    yield from self._loss(scope, site, loss)
            if scope.kind == "class" and self.models.is_module(scope):
                yield from self._forward(scope)

    # -- the loss ------------------------------------------------------------------------------------------

    def _loss(self, scope: Scope, site: CallSite, loss: ast.expr) -> Iterator[BrokenGraph]:
        flow = GradientFlow(self.models, scope)
        backward = location(scope.file, site.node)
        reached = flow.of(loss)
        revived = _revived(scope, loss)
        if revived is not None:
            yield BrokenGraph("revived", ast.unparse(revived), location(scope.file, revived), backward)
            return
        if reached.cut is not None:
            quiet = any(s.node is reached.cut and call_is_under_no_grad(s) for s in scope.calls)
            text = ("with torch.no_grad(): " if quiet else "") + ast.unparse(reached.cut)
            yield BrokenGraph("loss", text, location(scope.file, reached.cut), backward)
            return
        for term in _terms(scope, loss):
            value = _cut_value(term)
            if value is not None and flow.of(value).made and not _has_own_backward(scope, value):
                yield BrokenGraph("term", ast.unparse(term), location(scope.file, term), backward)

    # -- forward -------------------------------------------------------------------------------------------

    def _forward(self, cls: Scope) -> Iterator[BrokenGraph]:
        forward = cls.method("forward")
        if forward is None or mentions(cls, _FREEZES):
            return
        for name, bindings in forward.bindings.items():
            for binding in bindings:
                if binding.kind != "assign" or binding.value is None or binding.path or binding.unpack:
                    continue
                value = _cut_value(binding.value)
                if not isinstance(value, ast.Name):
                    continue
                layer = self._only_made_for(forward, value, binding.value)
                if layer is not None and _is_read_after(forward, name, binding.position):
                    at = location(cls.file, binding.node)
                    yield BrokenGraph("forward", ast.unparse(binding.value), at, None, layer)

    def _only_made_for(self, forward: Scope, value: ast.Name, cut: ast.expr) -> str | None:
        """The own layer that makes a value which is read by nothing but this cut, or None."""
        me = first_parameter(forward)
        at = position_of(value)
        made = [b for b, only_on in reaching(forward.bindings.get(value.id, []), at, ()) if not only_on]
        if len(made) != 1 or made[0].kind != "assign" or made[0].path or made[0].unpack:
            return None
        match made[0].value:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=layer)) if owner == me:
                pass
            case _:
                return None
        cls = forward.owner_class
        holders = cls.attributes.get(layer, []) if cls else []
        if len(holders) != 1 or holders[0].value is None or holders[0].scope is None:
            return None
        if self.trainable.of(holders[0].value, holders[0].scope) != "weights":
            return None
        end = next((b.position for b in forward.bindings[value.id] if b.position > at), (1 << 60, 0))
        inside = {id(n) for n in walk(cut)}
        parents = parents_in(forward.node)
        for node in walk(forward.node):
            if not (isinstance(node, ast.Name) and node.id == value.id and isinstance(node.ctx, ast.Load)):
                continue
            parent = parents.get(id(node))
            if id(node) in inside or (isinstance(parent, ast.Attribute) and parent.attr in _SHAPES):
                continue
            if made[0].position <= position_of(node) < end:
                return None
        calls = [s for s in forward.calls if dotted(s.node.func) == f"{me}.{layer}"]
        return f"{me}.{layer}" if len(calls) == 1 else None


def _revived(scope: Scope, loss: ast.expr) -> ast.stmt | ast.expr | None:
    """Where a loss that was computed is made to require a gradient, which PyTorch refuses of one that has a graph.

    `loss.requires_grad = True` or `loss = torch.tensor(loss, requires_grad=True)`, as the last word on the variable.
    """
    if not isinstance(loss, ast.Name):
        return None
    at = position_of(loss)
    path = scope.path_at(at)
    found = reaching(scope.bindings.get(loss.id, []), at, path)
    if len(found) != 1 or found[0][0].value is None or found[0][0].kind != "assign":
        return None
    binding = found[0][0]
    for store in scope.stores.get(f"{loss.id}.requires_grad", []):
        on = isinstance(store.value, ast.Constant) and store.value.value is True
        if on and binding.position < store.position < at and store.path == binding.path == path:
            return store.node if isinstance(store.node, ast.stmt) else None
    match binding.value:
        case ast.Call(args=[made, *_], keywords=keywords) if _NEW.search(ast.unparse(binding.value.func)):
            names = {n.id for n in walk(made) if isinstance(n, ast.Name)}
            if names and any(k.arg == "requires_grad" and _is_true(k.value) for k in keywords):
                return binding.value
    return None


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _terms(scope: Scope, loss: ast.expr) -> Iterator[ast.expr]:
    """The terms of the sum that a loss is, through its variable."""
    expressions = [loss]
    if isinstance(loss, ast.Name):
        at = position_of(loss)
        found = reaching(scope.bindings.get(loss.id, []), at, scope.path_at(at))
        expressions = [b.value for b, _ in found if b.value is not None and not b.unpack]
    for expression in expressions:
        queue: list[ast.expr] = [expression]
        while queue:
            node = queue.pop(0)
            match node:
                case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
                    queue += [left, right]
                case ast.BinOp(left=ast.Constant(), op=ast.Mult(), right=inner) if node is not expression:
                    queue.append(inner)
                case ast.BinOp(left=inner, op=ast.Mult() | ast.Div(), right=ast.Constant()) if node is not expression:
                    queue.append(inner)
                case _ if node is not expression:
                    yield node


def _cut_value(node: ast.expr) -> ast.expr | None:
    """What a chain of `.detach()`, `.data`, `.item()`, `torch.tensor(…)` and the like is made from, or None."""
    cut = False
    while True:
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr=attr), args=[]) if attr in CUTTING_METHODS:
                node, cut = value, True
            case ast.Attribute(value=value, attr="data"):
                node, cut = value, True
            case ast.Call(func=ast.Attribute(value=value, attr="cpu" | "cuda" | "clone" | "float" | "to")):
                node = value
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="torch"), attr="tensor" | "from_numpy"), args=[value, *_]
            ):
                node, cut = value, True
            case ast.Name() | ast.Call():
                return node if cut else None
            case _:
                return None


def _has_own_backward(scope: Scope, value: ast.expr) -> bool:
    key = dotted(value)
    return key is not None and any(dotted(loss) == key for _, loss in backwards(scope))


def _is_read_after(forward: Scope, name: str, position: tuple[int, int]) -> bool:
    return any(
        isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) and position_of(n) > position
        for n in walk(forward.node)
    )
