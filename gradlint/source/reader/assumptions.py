"""What one reading of a forward pass assumes of conditions that the source does not tell."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, replace
from typing import Any

MAX_ALTERNATIVES = 6
"""Graphs of one model whose way depends on conditions that are not known."""

MAX_READINGS = 12
"""Readings tried for them."""


@dataclass(frozen=True)
class Pick:
    """Which of several layers or functions is taken; `key` is equal wherever the same choice is made."""

    key: tuple[str, ...]
    names: tuple[str, ...]


Question = ast.expr | Pick


@dataclass(frozen=True)
class Assumptions:
    """Conditions by their text, taken as true or false for all of a model, and what is taken of alternatives.

    `values` and `excluded` hold what an expression is compared with, so that `mode == "a"` and `mode == "b"` are
    not taken as true together. `told` is the same in words.
    """

    truths: dict[str, bool] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    excluded: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    picks: dict[tuple[str, ...], int] = field(default_factory=dict)
    told: tuple[str, ...] = ()

    def answers(self, question: Question) -> list[Assumptions]:
        """These assumptions, and each answer to what they leave open."""
        if not isinstance(question, Pick):
            return [self.assuming(question, holds) for holds in (True, False)]
        return [
            replace(self, picks={**self.picks, question.key: n}, told=(*self.told, f"`{name}` is taken"))
            for n, name in enumerate(question.names)
        ]

    def truth(self, test: ast.expr) -> bool | None:
        """Whether the condition holds under these assumptions, None if they say nothing of it."""
        plain, negated = _plain(test)
        known = self.truths.get(ast.unparse(plain))
        if known is None:
            known = self._compared(plain)
        return known if known is None or not negated else not known

    def _compared(self, test: ast.expr) -> bool | None:
        found = _equality(test)
        if found is None:
            return None
        subject, constants, equal = found
        if subject in self.values:
            return (self.values[subject] in constants) is equal
        if all(c in self.excluded.get(subject, ()) for c in constants):
            return not equal
        return None

    def assuming(self, test: ast.expr, holds: bool) -> Assumptions:
        """These assumptions and one more."""
        plain, negated = _plain(test)
        holds = holds is not negated
        text = ast.unparse(plain)
        short = text if len(text) <= 60 else text[:57] + "..."
        made = replace(
            self,
            truths={**self.truths, text: holds},
            told=(*self.told, f"`{short}` is {'true' if holds else 'false'}"),
        )
        found = _equality(plain)
        if found is None:
            return made
        subject, constants, equal = found
        if holds is equal and len(constants) == 1:
            return replace(made, values={**self.values, subject: constants[0]})
        if holds is not equal:
            return replace(made, excluded={**self.excluded, subject: (*self.excluded.get(subject, ()), *constants)})
        return made


def _plain(test: ast.expr) -> tuple[ast.expr, bool]:
    """The condition without `not` in front of it, and whether there was an odd number of them."""
    negated = False
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, negated = test.operand, not negated
    match test:
        case ast.Compare(left=left, ops=[ast.IsNot()], comparators=right):
            return ast.Compare(left, [ast.Is()], right), not negated
    return test, negated


def _equality(test: ast.expr) -> tuple[str, tuple[Any, ...], bool] | None:
    """(text, constants, whether equality is meant) of `x == c`, `x != c`, `x in (c, d)` and `x not in (c, d)`."""
    match test:
        case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq() as op], comparators=[ast.Constant(value=value)]):
            return ast.unparse(left), (value,), isinstance(op, ast.Eq)
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[right]) if isinstance(
            right, (ast.List, ast.Tuple, ast.Set)
        ) and all(isinstance(e, ast.Constant) for e in right.elts):
            constants = tuple(e.value for e in right.elts if isinstance(e, ast.Constant))
            return ast.unparse(left), constants, isinstance(op, ast.In)
    return None


_ASKS = {"isnan": False, "isinf": False, "isposinf": False, "isneginf": False, "isfinite": True}


def of_finite_values(test: ast.expr) -> bool | None:
    """What a condition on values that are not finite comes to while all are; None if it asks something else too."""
    match test:
        case ast.Call(func=ast.Attribute(attr="any" | "all" | "item" | "sum" | "bool", value=inner), args=[]):
            return of_finite_values(inner)
        case ast.Call(func=ast.Attribute(attr="any" | "all" | "sum") | ast.Name("any" | "all" | "bool"), args=[inner]):
            return of_finite_values(inner)
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(name)):
            return _ASKS.get(name)
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            held = of_finite_values(operand)
            return None if held is None else not held
        case ast.Compare(left=left, ops=[ast.Gt() | ast.NotEq()], comparators=[ast.Constant(0)]):
            return of_finite_values(left)
        case ast.BoolOp(op=operator, values=values):
            held_all = [of_finite_values(v) for v in values]
            decides = isinstance(operator, ast.Or)
            if decides in held_all:
                return decides
            return None if None in held_all else not decides
    return None
