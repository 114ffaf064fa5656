"""Conditions: what is true, and which branches run, under the defaults that the source gives."""

from __future__ import annotations

import ast

from gradlint.source import arithmetic
from gradlint.source.evaluation import Evaluation
from gradlint.source.index import (
    Path,
    Scope,
)
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
    external_name,
)
from gradlint.source.value import Value


class Conditions(Evaluation):
    """Truth, comparison and plain values of things."""

    def truth(self, test: ast.expr, scope: Scope, frame: Frame | None = None) -> bool | None:
        """Whether a condition holds under the defaults that the source gives, or None."""
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.truth(operand, scope, frame)
                return None if inner is None else not inner
            case ast.BoolOp(op=op, values=values):
                decisive = isinstance(op, ast.Or)
                sure = True
                for value in values:
                    truth = self.truth(value, scope, frame)
                    if truth is decisive:
                        return decisive
                    sure = sure and truth is not None
                return not decisive if sure else None
        found = {self.truth_of(t) for t in self.evaluate(test, scope, frame)}
        return found.pop() if len(found) == 1 else None

    def truth_of(self, thing: Thing) -> bool | None:
        """The truth value of a thing, or None."""
        match thing:
            case Plain(value=Value(value=value)):
                return bool(value)
            case Items(node=ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements)):
                return bool(elements)
            case Items(node=ast.Dict(keys=keys)):
                return bool(keys)
            case ClassThing() | FunctionThing():
                return True
            case Instance(cls=ClassThing() | External()) if not _may_be_anything(thing):
                return True
        return None

    def _compare(self, node: ast.Compare, scope: Scope, frame: Frame | None) -> bool | None:
        if len(node.ops) != 1:
            return None
        op, right = node.ops[0], node.comparators[0]
        if isinstance(right, ast.Constant) and right.value is None and isinstance(op, (ast.Is, ast.IsNot)):
            lefts = {_is_none(t) for t in self.evaluate(node.left, scope, frame)}
            if len(lefts) != 1 or None in lefts:
                return None
            return lefts.pop() is isinstance(op, ast.Is)
        lefts_plain = self.plains(self.evaluate(node.left, scope, frame))
        rights_plain = self.plains(self.evaluate(right, scope, frame))
        if lefts_plain is None or rights_plain is None:
            return None
        try:
            truths = {arithmetic.compare(op, a, b) for a in lefts_plain for b in rights_plain}
        except arithmetic.NotComputable:
            return None
        return truths.pop() if len(truths) == 1 else None

    def plains(self, things: Things) -> list[object] | None:
        """The plain Python values of things, containers of plain values included; None if one is not plain."""
        found = []
        for thing in things:
            value = self.plain_of(thing)
            if value is arithmetic.MISSING:
                return None
            found.append(value)
        return found

    def plain_of(self, thing: Thing, depth: int = 0) -> object:
        """A thing as a plain Python value, or `arithmetic.MISSING`."""
        match thing:
            case Plain(value=value):
                return value.value
            case Items(node=ast.Dict(keys=keys, values=values), scope=scope, frame=frame) if depth < 4:
                table = {}
                for key, node in zip(keys, values, strict=True):
                    k = self.single(key, scope, frame, depth) if key is not None else arithmetic.MISSING
                    v = self.single(node, scope, frame, depth)
                    if k is arithmetic.MISSING or v is arithmetic.MISSING or not isinstance(k, (str, int, float)):
                        return arithmetic.MISSING
                    table[k] = v
                return table
            case Items(node=ast.List(elts=e) | ast.Tuple(elts=e) | ast.Set(elts=e), scope=scope, frame=frame) if (
                depth < 4
            ):
                values_ = [self.single(x, scope, frame, depth) for x in e]
                if any(v is arithmetic.MISSING for v in values_):
                    return arithmetic.MISSING
                return values_ if isinstance(thing.node, ast.List) else tuple(values_)
        return arithmetic.MISSING

    def single(self, node: ast.expr, scope: Scope, frame: Frame | None, depth: int = 0) -> object:
        """The one plain value of an expression, or `arithmetic.MISSING`."""
        things = self.evaluate(node, scope, frame)
        return self.plain_of(things[0], depth + 1) if len(things) == 1 else arithmetic.MISSING

    def taken(self, path: Path, scope: Scope, frame: Frame | None = None) -> bool:
        """Whether all of these branches are surely taken under the defaults that the source gives."""
        return all(
            b.kind == "if" and b.test is not None and self.truth(b.test, scope, frame) is (b.branch == 0) for b in path
        )

    def dead(self, path: Path, scope: Scope, frame: Frame | None = None) -> bool:
        """Whether these branches are not taken under the defaults that the source gives."""
        for block in path:
            if block.kind == "if" and block.test is not None:
                truth = self.truth(block.test, scope, frame)
                if truth is not None and truth is (block.branch == 1):
                    return True
        return False


_NEVER_NONE = (
    "torch.nn.",
    "torch.optim.",
    "torch.cuda.amp.Grad",
    "transformers.",
    "torchvision.models.",
    "timm.create",
)


def _is_none(thing: Thing) -> bool | None:
    match thing:
        case Plain(value=value):
            return value.value is None
        case Items() | ClassThing() | FunctionThing() | ModuleThing() | Group():
            return False
        case Instance(cls=ClassThing()):
            return False
        case Instance(cls=External(name)) if name.startswith(_NEVER_NONE):
            return False
    return None


def _may_be_anything(thing: Instance) -> bool:
    name = external_name(thing.cls)
    return name is not None and not name.startswith(("torch.nn.", "torch.optim."))
