"""The evaluator: which things an expression can stand for, followed through names, calls and files."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import product

from gradlint.source import arithmetic
from gradlint.source.candidates import MAX_CANDIDATES, conditional
from gradlint.source.index import (
    Scope,
    position_of,
)
from gradlint.source.instantiation import Held
from gradlint.source.known_calls import call_external, call_member, curried
from gradlint.source.passing import Passing
from gradlint.source.registrations import LOOK_UPS, TIMM_MAKERS
from gradlint.source.registries import created_by_timm, looked_up
from gradlint.source.things import (
    ClassThing,
    External,
    Frame,
    FunctionThing,
    Group,
    Instance,
    Items,
    Member,
    Plain,
    Thing,
    Things,
    Unknown,
)
from gradlint.source.value import Value

MAX_DEPTH = 7
"""How many project calls are followed into one another."""


class Evaluator(Passing):
    """Answers what an expression stands for. One evaluator serves one script; its memo lives as long."""

    def _evaluate(self, node: ast.expr, scope: Scope, frame: Frame | None) -> Things:
        match node:
            case ast.Constant(value=value):
                return (self.plain(value, node, scope),)
            case ast.Name(id=name):
                return self.name(name, scope, position_of(node), frame)
            case ast.Attribute():
                return self._attribute_expression(node, scope, frame)
            case ast.Call():
                return self._call_expression(node, scope, frame)
            case ast.Subscript():
                return self._subscript(node, scope, frame)
            case ast.List() | ast.Tuple() | ast.Set() | ast.Dict():
                return (Items(node, scope, frame),)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return (Items(node, scope, frame),)
            case ast.BinOp(left=left, op=operator, right=right):
                return self._combine(
                    lambda a, b: arithmetic.binary(operator, a, b), [left, right], scope, frame
                ) or self._concatenation(node, scope, frame)
            case ast.UnaryOp(op=sign, operand=operand):
                if isinstance(sign, ast.Not):
                    truth = self.truth(operand, scope, frame)
                    return (
                        Unknown("its condition is not known") if truth is None else self.plain(not truth, node, scope),
                    )
                return self._combine(lambda a: arithmetic.unary(sign, a), [operand], scope, frame) or (
                    Unknown("it is computed at run time"),
                )
            case ast.IfExp(test=test, body=body, orelse=orelse):
                match self.truth(test, scope, frame):
                    case True:
                        return self.evaluate(body, scope, frame)
                    case False:
                        return self.evaluate(orelse, scope, frame)
                both = (*self.evaluate(body, scope, frame), *self.evaluate(orelse, scope, frame))
                return tuple(conditional(t) for t in both)
            case ast.BoolOp(op=op, values=values):
                return self._boolean(op, values, scope, frame)
            case ast.Compare():
                truth = self._compare(node, scope, frame)
                return (Unknown("it is decided at run time") if truth is None else self.plain(truth, node, scope),)
            case ast.JoinedStr():
                parts = [p.value if isinstance(p, ast.FormattedValue) else p for p in node.values]
                return self._combine(arithmetic.joined, parts, scope, frame) or (
                    Unknown("the text is put together at run time"),
                )
            case ast.Lambda():
                inner = self.index_of(scope).scope_of.get(id(node))
                return (FunctionThing(inner, None, frame),) if inner else (Unknown("a lambda out of reach"),)
            case ast.NamedExpr(value=value) | ast.Await(value=value) | ast.Starred(value=value):
                return self.evaluate(value, scope, frame)
            case Held(things=things):
                return things
        return (Unknown("it is computed at run time"),)

    def _combine(
        self,
        function: Callable[..., object],
        operands: list[ast.expr],
        scope: Scope,
        frame: Frame | None,
    ) -> Things:
        """`function` over every combination of plain operands; empty when an operand is not plain."""
        choices: list[list[Value]] = []
        for operand in operands:
            values = [t.value for t in self.evaluate(operand, scope, frame) if isinstance(t, Plain)]
            if not values:
                return ()
            choices.append(values)
        found: list[Thing] = []
        for combination in list(product(*choices))[:MAX_CANDIDATES]:
            try:
                result = function(*(v.value for v in combination))
            except arithmetic.NotComputable:
                continue
            decisive = next((v for v in combination if v.way or v.overridable), combination[0])
            found.append(
                Plain(
                    Value(
                        result,
                        decisive.origin,
                        tuple(w for v in combination for w in v.way),
                        any(v.conditional for v in combination),
                        any(v.overridable for v in combination),
                    )
                )
            )
        return tuple(found)

    def _concatenation(self, node: ast.BinOp, scope: Scope, frame: Frame | None) -> Things:
        """`list(a) + list(b)`, kept as an expression of both."""
        if isinstance(node.op, ast.Add):
            sides = [*self.evaluate(node.left, scope, frame), *self.evaluate(node.right, scope, frame)]
            if any(isinstance(s, (Items, Group)) or _is_parameters(s) for s in sides):
                return (Group(tuple((s,) for s in sides)),)
        return (Unknown("it is computed at run time"),)

    def _boolean(self, op: ast.boolop, values: list[ast.expr], scope: Scope, frame: Frame | None) -> Things:
        found: list[Thing] = []
        for i, value in enumerate(values):
            truth = self.truth(value, scope, frame)
            last = i == len(values) - 1
            if not last and truth is isinstance(op, ast.And):
                continue
            found.extend(self.evaluate(value, scope, frame))
            if truth is not None:
                break
        return tuple(found) if len(found) <= 1 else tuple(conditional(t) for t in found)

    def _call_expression(self, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            owner = scope.owner_class
            if owner is not None:
                bases = [c for c in self.mro(owner) if c is not owner]
                return (Instance(ClassThing(bases[0]), None, bases[0]),) if bases else (Unknown("a base class"),)
        callees = self.evaluate(node.func, scope, frame)
        return tuple(r for c in callees for r in self.call(c, node, scope, frame))

    def call(self, callee: Thing, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
        """What a call of this callee returns."""
        match callee:
            case Unknown():
                return (callee,)
            case ClassThing():
                return (Instance(callee, node, scope, frame),)
            case FunctionThing(receiver=receiver):
                found = looked_up(self, callee, node, scope, frame) if receiver is not None else ()
                return found or self.call_function(callee, node, scope, frame)
            case External(name):
                found = created_by_timm(self, node, scope, frame) if name in TIMM_MAKERS else ()
                return found or call_external(self, name, node, scope, frame)
            case Member(owner, name):
                found = looked_up(self, callee, node, scope, frame) if name in LOOK_UPS else ()
                return found or call_member(self, owner, name, node, scope, frame)
            case Instance(cls=External("functools.partial"), call=ast.Call(args=[first, *_]) as made):
                key = (id(made), id(node))
                whole = self._curried.get(key) or self._curried.setdefault(key, curried(callee, node, scope))
                inner = self.evaluate(first, callee.scope, callee.frame)
                return tuple(t for c in inner for t in self.call(c, whole, scope, frame))
        return (Instance(callee, node, scope, frame),)

    def call_function(
        self, function: FunctionThing, node: ast.Call | None, scope: Scope | None, frame: Frame | None
    ) -> Things:
        """What a project function returns for this call."""
        inner = function.scope
        outer = frame
        if outer is not None and outer.depth >= MAX_DEPTH:
            return (Unknown("calls are nested too deep"),)
        called: Frame | None
        if node is not None and scope is not None:
            called = self.frame(inner, node, scope, outer, function.receiver)
        else:
            called = None
        live = [(e, p) for e, p in inner.returns if not self.dead(p, inner, called)]
        found: list[Thing] = []
        for expression, path in live or inner.returns:
            values = self.evaluate(expression, inner, called)
            only_on = [b for b in path if b.kind in {"if", "case", "handler"}]
            found.extend(conditional(v) for v in values) if only_on and len(live) > 1 else found.extend(values)
        return tuple(found) or (self.plain(None, inner.node, inner),)


def _is_parameters(thing: Thing) -> bool:
    return (
        isinstance(thing, Instance)
        and isinstance(thing.cls, Member)
        and thing.cls.name
        in {
            "parameters",
            "named_parameters",
        }
    )
