"""Parameters that a script switches off: `requires_grad` loops, `freeze()` methods, features under `no_grad`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradlint.source.evaluate import Evaluator
from gradlint.source.index import (
    Block,
    CallSite,
    Path,
    Scope,
    dotted,
    first_parameter,
    location,
    position_of,
)
from gradlint.source.pretrained import BACKBONE_NAME, HEAD_NAME
from gradlint.source.script import Frozen
from gradlint.source.things import ClassThing, Frame, FunctionThing, Instance, Member, Thing
from gradlint.source.walking import walk

if TYPE_CHECKING:
    from gradlint.source.models import Models


def frozen_parts(evaluator: Evaluator, root: Instance, models: Models) -> Iterator[Frozen]:
    """What of an instance is not trained, from its class and from the scope that makes it."""
    seen: list[Frozen] = []
    scope = root.cls.scope if isinstance(root.cls, ClassThing) else None
    if scope is not None:
        for cls in evaluator.mro(scope):
            for method in cls.children:
                if method.kind == "function" and (method.name == "__init__" or _is_called(evaluator, method, root)):
                    frame = evaluator.frame_for(root, method, cls)
                    seen += _switches(evaluator, method, root, models, first_parameter(method) or "self", frame)
            seen += _without_gradient(evaluator, root, cls, models)
    if root.call is not None:
        seen += _in_scope(evaluator, root, models)
    yield from seen


def _in_scope(evaluator: Evaluator, root: Instance, models: Models) -> list[Frozen]:
    switched = any(True for _ in _requires_grad(root.scope))
    helpers = [
        (site, thing.scope)
        for site in root.scope.calls
        if any(isinstance(a, ast.Name) for a in site.node.args)
        for thing in evaluator.ask(site.node.func, site.scope)
        if isinstance(thing, FunctionThing) and "requires_grad" in _stores_of(thing.scope)
    ]
    if not switched and not helpers:
        return []
    found: list[Frozen] = []
    names = _names_of(evaluator, root, models)
    for name in sorted(names):
        found += _switches(evaluator, root.scope, root, models, name)
    for site, helper in helpers:
        # A helper that is handed the model and freezes it: `set_parameter_requires_grad(model, True)`.
        arguments = helper.parameters
        assert arguments is not None
        for argument, parameter in zip(site.node.args, arguments.args, strict=False):
            if isinstance(argument, ast.Name) and argument.id in names:
                frame = evaluator.frame(helper, site.node, site.scope, None, None)
                found += _switches(evaluator, helper, root, models, parameter.arg, frame)
    return found


def _names_of(evaluator: Evaluator, root: Instance, models: Models) -> set[str]:
    """The variables and attributes that hold an instance in the scope that makes it."""
    return {
        k
        for table in (root.scope.bindings, root.scope.stores)
        for k, bs in table.items()
        if any(
            b.value is not None
            and root.key in {r.key for r in models.roots(evaluator.ask(b.value, root.scope, root.frame))}
            for b in bs
            if isinstance(b.value, (ast.Call, ast.Name))
        )
    }


def _stores_of(scope: Scope) -> set[str]:
    return {k.rpartition(".")[2] for k in scope.stores} | (
        {"requires_grad"} if "requires_grad_" in scope.words else set()
    )


def _is_called(evaluator: Evaluator, method: Scope, root: Instance) -> bool:
    """Whether a method with `freeze`-like content is called on this class anywhere in reach."""
    if "requires_grad" not in _stores_of(method) and "requires_grad_" not in method.words:
        return False
    owner = method.owner_class
    assert owner is not None
    scopes = [root.scope, *owner.children]
    return any(s.name == method.name for scope in scopes for s in scope.all_calls()) or bool(
        evaluator.call_sites(method)
    )


def _switches(
    evaluator: Evaluator, scope: Scope, root: Instance, models: Models, variable: str, frame: Frame | None = None
) -> list[Frozen]:
    """The requires_grad switches in one scope on `variable` and its parts, in order; a later True undoes them."""
    found: list[tuple[Frozen, str]] = []
    for node, subject, condition, value, path in _requires_grad(scope):
        key = dotted(subject)
        if key is None or not (key == variable or key.startswith((variable + ".", variable + "["))):
            continue
        if evaluator.dead(path, scope, frame):
            continue
        part = key[len(variable) :].strip(".").removeprefix("module").strip(".")
        if not value:
            what = _what(evaluator, root, models, part, condition)
            found.append((Frozen(what, "requires_grad", location(scope.file, node)), part))
        elif condition is None and not evaluator.taken(tuple(b for b in path if b.kind == "if"), scope, frame):
            continue  # It is not known whether it is switched on again.
        elif not part and condition is None:
            found.clear()
        else:
            # What was off as a whole stays off but for the part that is switched on again.
            found = [
                (Frozen("backbone" if f.what == "all" else f.what, f.how, f.location), p)
                for f, p in found
                if p != part or not p
            ]
    return [f for f, _ in found]


def _mentions_head(condition: ast.expr | None) -> bool:
    text = ast.unparse(condition).lower() if condition is not None else ""
    return any(word in text for word in ("fc", "classifier", "head", "pooler", "linear", "proj", "last", "cls"))


def _what(evaluator: Evaluator, root: Instance, models: Models, part: str, condition: ast.expr | None) -> str:
    if condition is not None:
        negated = (
            isinstance(condition, ast.UnaryOp) or "not in" in ast.unparse(condition) or "!=" in ast.unparse(condition)
        )
        return "backbone" if negated and _mentions_head(condition) else "part"
    if not part:
        return "all"
    first = part.split(".", maxsplit=1)[0].split("[", maxsplit=1)[0]
    if part == first:
        for thing in evaluator.attribute(root, first):
            if isinstance(thing, Instance) and models.is_model(thing) and models.pretrained(thing) is not None:
                return "backbone"
    last = part.rpartition(".")[2].split("[")[0]
    if part.endswith("]") or HEAD_NAME.search(last):
        return "part"
    return "backbone" if BACKBONE_NAME.search(last.lower()) or last == "model" else "part"


def _requires_grad(scope: Scope) -> Iterator[tuple[ast.AST, ast.expr, ast.expr | None, bool, tuple]]:  # type: ignore[type-arg]
    """(node, whose parameters, name condition, value, branches) for every switch in a scope, in source order."""
    switches: list[tuple[tuple[int, int], tuple]] = []  # type: ignore[type-arg]
    for key, bindings in scope.stores.items():
        if not key.endswith(".requires_grad"):
            continue
        for binding in bindings:
            value = binding.value
            state = bool(value.value) if isinstance(value, ast.Constant) else None
            condition: ast.expr | None = None
            if state is None:
                # `param.requires_grad = "fc" in name`: all but those that fit are off.
                state, condition = False, (ast.UnaryOp(ast.Not(), value) if value is not None else None)
            variable = key.removesuffix(".requires_grad")
            subject = _loop_subject(scope, variable, binding.position)
            tests = [b for b in binding.path if b.kind == "if" and b.test is not None]
            named = [b for b in tests if _asks_about_a_turn(b, binding.path)]
            for block in named:
                assert block.test is not None
                condition = block.test if block.branch == 0 else ast.UnaryOp(ast.Not(), block.test)
            outside = tuple(b for b in binding.path if b not in named)
            if subject is not None:
                switches.append((binding.position, (binding.node, subject, condition, state, outside)))
            elif "." in variable:
                target = binding.node.targets[0] if isinstance(binding.node, ast.Assign) else None
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Attribute):
                    switches.append((binding.position, (binding.node, target.value, None, state, outside)))
    for site in scope.calls:
        if site.name == "requires_grad_" and isinstance(site.node.func, ast.Attribute):
            arguments = site.node.args
            state = not (arguments and isinstance(arguments[0], ast.Constant) and not arguments[0].value)
            receiver = site.node.func.value
            subject = receiver
            if isinstance(receiver, ast.Name):
                subject = _loop_subject(scope, receiver.id, position_of(site.node)) or receiver
            switches.append((position_of(site.node), (site.node, subject, None, state, site.path)))
    for _, switch in sorted(switches, key=lambda s: s[0]):
        yield switch


def _asks_about_a_turn(block: Block, path: Path) -> bool:
    """Whether an `if` tells the turns of the loop around it apart: `if "fc" in name`, not `if config.frozen`."""
    loops = [b for b in path[: path.index(block)] if b.kind == "loop"]
    if not loops or block.test is None:
        return False
    changed = {n.id for n in walk(loops[-1].owner) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return any(isinstance(n, ast.Name) and n.id in changed for n in walk(block.test))


def _loop_subject(scope: Scope, variable: str, position: tuple[int, int]) -> ast.expr | None:
    """`m` of `for p in m.parameters()` (or `named_parameters`, `children`) that `variable` runs over."""
    for binding in reversed(scope.bindings.get(variable, [])):
        if binding.kind != "for" or binding.position > position or binding.value is None:
            continue
        value = binding.value
        for _ in range(3):
            match value:
                case ast.Call(
                    func=ast.Attribute(value=owner, attr="parameters" | "named_parameters" | "children" | "modules")
                ):
                    if isinstance(owner, ast.Name):
                        return _loop_subject(scope, owner.id, binding.position) or owner
                    return owner
                case ast.Call(args=[first, *_]):
                    value = first
                case ast.Subscript(value=inner):
                    value = inner
        return None
    return None


def _without_gradient(evaluator: Evaluator, root: Instance, cls: Scope, models: Models) -> list[Frozen]:
    """A pretrained part that `forward` runs under `torch.no_grad()`."""
    forward = cls.method("forward")
    if forward is None or "no_grad" not in forward.words:
        return []
    frame = evaluator.frame_for(root, forward, cls)
    live = [s for s in forward.all_calls() if not evaluator.dead(s.path, forward, frame)]
    recorded = {dotted(s.node.func) for s in live if not call_is_under_no_grad(s)}
    for site in live:
        key = dotted(site.node.func)
        # One that also runs outside is trained there: `if self.training: y = self.bert(x)`.
        if key is None or not key.startswith("self.") or key in recorded or not call_is_under_no_grad(site):
            continue
        things: tuple[Thing, ...] = evaluator.ask(site.node.func, forward)
        if any((isinstance(t, Instance) and models.is_model(t)) or isinstance(t, Member) for t in things):
            return [Frozen("features", "no_grad", location(cls.file, site.node))]
    return []


def call_is_under_no_grad(site: CallSite) -> bool:
    """Whether a call stands inside `with torch.no_grad()`."""
    return is_under_no_grad(site.path)


def is_under_no_grad(path: Path) -> bool:
    """Whether blocks are among those of `with torch.no_grad()` or `inference_mode()`."""
    return any(
        b.kind == "with"
        and isinstance(b.owner, ast.With)
        and any(_records_nothing(i.context_expr) for i in b.owner.items)
        for b in path
    )


def _records_nothing(context: ast.expr) -> bool:
    """Whether a context manager is `no_grad()` or `inference_mode()` in every run, not under a condition."""
    if isinstance(context, (ast.IfExp, ast.BoolOp)):
        return False
    text = ast.unparse(context)
    return "no_grad" in text or "inference_mode" in text
