"""Networks, and parts of networks, that a script trains with an optimizer that does not know them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint.source.computed_from import ComputedFrom
from gradlint.source.frozen import call_is_under_no_grad
from gradlint.source.gradient_flow import backwards
from gradlint.source.index import Binding, CallSite, FileIndex, Scope, dotted, location, position_of
from gradlint.source.instantiation import written
from gradlint.source.models import Models
from gradlint.source.optimizers import Optimizers
from gradlint.source.script import Forgotten, Optimizer
from gradlint.source.things import ClassThing, Instance
from gradlint.source.trainable import FREEZES, Trainable, mentions
from gradlint.source.walking import parents_in, walk

_HARMLESS = frozenset({"to", "cuda", "train", "zero_grad", "float", "double", "half", "cpu", "forward"})
"""What may be done to a network that is to be trained, and says nothing of who trains it."""


class Ungiven:
    """Compares what is trained with what the optimizers were given."""

    def __init__(self, models: Models, optimizers: Optimizers, trainable: Trainable) -> None:
        self.models = models
        self.optimizers = optimizers
        self.evaluator = models.evaluator
        self.trainable = trainable

    def of(self, index: FileIndex, optimizers: list[Optimizer]) -> Iterator[Forgotten]:
        """What the optimizers of a file do not know of what the file trains."""
        for scope in index.scopes:
            if scope.kind in {"function", "module"}:
                yield from self._replaced(scope)
                if "backward" in scope.words and optimizers:
                    yield from self._not_given(scope, optimizers, index)

    # -- a part that is put in after the optimizer was made ------------------------------------------------

    def _replaced(self, scope: Scope) -> Iterator[Forgotten]:
        if not scope.stores:
            return
        made = [s for s in scope.calls if self._is_optimizer(s)]
        if not made or any(s.name == "add_param_group" for s in scope.all_calls()):
            return
        for key, bindings in scope.stores.items():
            owner, _, part = key.rpartition(".")
            for binding in bindings:
                if not isinstance(binding.value, ast.Call) or not part.isidentifier() or not owner:
                    continue
                site = self._maker_before(made, owner, binding)
                if site is not None and self.trainable.of(binding.value, scope) == "weights":
                    at = location(scope.file, binding.node)
                    yield Forgotten("replaced", key, owner, at, True, location(scope.file, site.node))

    def _maker_before(self, made: list[CallSite], owner: str, binding: Binding) -> CallSite | None:
        """The optimizer that was made from `owner.parameters()` before, and is still in use after, an assignment."""
        root = owner.partition(".")[0]
        scope = binding.scope
        if scope is None or any(position_of(s.node) > binding.position for s in made):
            return None
        for site in made:
            text = ast.unparse(site.node)
            if site.path != binding.path or f"{root}.parameters()" not in text or owner != root:
                continue
            if any(position_of(site.node) < b.position for b in scope.bindings.get(root, [])):
                continue
            used = any(s.name == "step" and position_of(s.node) > binding.position for s in scope.calls)
            called = any(dotted(s.node.func) == root and position_of(s.node) > binding.position for s in scope.calls)
            if used and called:
                return site
        return None

    def _is_optimizer(self, site: CallSite) -> bool:
        if not site.name[:1].isupper() or not site.node.args:
            return False
        things = self.evaluator.ask(site.node, site.scope)
        return any(
            isinstance(t, Instance) and written(t.call) is site.node and self.optimizers.algorithm(t) is not None
            for t in things
        )

    # -- a network in the loss that no optimizer is given --------------------------------------------------

    def _not_given(self, scope: Scope, optimizers: list[Optimizer], index: FileIndex) -> Iterator[Forgotten]:
        known = [m for o in optimizers for g in o.groups for m in g.models]
        if not known or any(not g.models for o in optimizers for g in o.groups):
            return
        given = {m.location for m in known}
        for name in sorted(_in_the_loss(scope)):
            binding = _bound_once(scope, name)
            if binding is None or binding.value is None or binding.scope is None:
                continue
            things = self.evaluator.ask(binding.value, binding.scope)
            match things:
                case (Instance(cls=ClassThing(cls), call=ast.Call()) as root,) if self.models.is_module(cls):
                    model = self.models.model(root)
                    if (
                        model.location in given
                        or model.pretrained
                        or model.frozen
                        or model.location.path != index.file.path
                    ):
                        continue
                    if self.trainable.held(root) != "weights" or not _is_only_run(name, index):
                        continue
                    if mentions(cls, FREEZES | {"no_grad", "Optimizer", "optim"}):
                        continue
                    yield Forgotten(
                        "not given",
                        name,
                        cls.name,
                        location(binding.scope.file, binding.node),
                        True,
                        optimizers[0].location,
                    )


def _in_the_loss(scope: Scope) -> set[str]:
    """The variables that are called on the way to what `backward()` starts from, nothing cut between."""
    back = ComputedFrom(scope)
    called = {
        node.func.id
        for site, loss in backwards(scope)
        if not site.node.args
        for node in back.of(loss)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    quiet = {s.node.func.id for s in scope.calls if isinstance(s.node.func, ast.Name) and call_is_under_no_grad(s)}
    return called - quiet


def _bound_once(scope: Scope, name: str) -> Binding | None:
    holder: Scope | None = scope
    while holder is not None:
        bindings = [b for b in holder.bindings.get(name, []) if not _is_moved_self(b, name)]
        if name in holder.bindings:
            return (
                bindings[0] if len(bindings) == 1 and bindings[0].kind == "assign" and not bindings[0].unpack else None
            )
        holder = holder.parent
    return None


def _is_moved_self(binding: Binding, name: str) -> bool:
    """`net = net.to(device)`."""
    match binding.value:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=attr)):
            return owner == name and attr in _HARMLESS
    return False


def _is_only_run(name: str, index: FileIndex) -> bool:
    """Whether a file does nothing with a variable but run it."""
    tree = index.module.node
    parents = parents_in(tree)
    for node in walk(tree):
        if not (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)):
            continue
        match parents.get(id(node)):
            case ast.Call(func=func) if func is node:
                continue
            case ast.Attribute(attr=attr) if attr in _HARMLESS:
                continue
        return False
    return True
