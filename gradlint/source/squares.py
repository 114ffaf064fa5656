"""Norms that are written out: expressions that are sums of squares, or linear in squares, and 0 where those are."""

from __future__ import annotations

import ast
from collections.abc import Callable

Applied = Callable[[ast.expr], tuple[str, ast.expr | None]]
"""The tensor operation that an expression is, in lower case, and what it is applied to; ("", None) if not known."""

_SUMS = frozenset({"sum", "mean"})
_LINEAR = frozenset({"matmul", "mm", "bmm", "mv"})
_MAX_DEPTH = 6


def is_of_squares(node: ast.expr, applied: Applied, resolved: Callable[[ast.expr], ast.expr], depth: int = 0) -> bool:
    """Whether an expression is a sum of squares, or linear in squares alone: its root has no slope where they are 0.

    The squares of a difference are not among them: these are errors, and distances of points.
    """
    node = resolved(node)
    if depth > _MAX_DEPTH:
        return False
    match node:
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            return ast.dump(left) == ast.dump(right) and not _is_number(left) and not _is_difference(resolved(left))
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return all(is_of_squares(x, applied, resolved, depth + 1) for x in (left, right))
    op, argument = applied(node)
    if op == "square" and argument is not None:
        return not _is_number(argument) and not _is_difference(resolved(argument))
    if op in _SUMS and argument is not None:
        return is_of_squares(argument, applied, resolved, depth + 1)
    if op in _LINEAR and isinstance(node, ast.Call):
        factors = [*node.args, *([argument] if argument is not None and argument not in node.args else [])]
        return any(is_of_squares(x, applied, resolved, depth + 1) for x in factors)
    return False


def is_masked_sum_of_exponentials(node: ast.expr, applied: Applied, resolved: Callable[[ast.expr], ast.expr]) -> bool:
    """Whether an expression is `(exp(x) * mask).sum(…)`: it is 0 where the mask leaves nothing, or what rounds to 0."""
    op, argument = applied(node)
    if op != "sum" or argument is None:
        return False
    match resolved(argument):
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            sides = [resolved(left), resolved(right)]
            named = [x for x in (left, right) if "mask" in ast.unparse(x).lower()]
            return bool(named) and any(applied(x)[0] == "exp" for x in sides)
    return False


def complement(node: ast.expr) -> ast.expr | None:
    """`p` of `1 - p`."""
    match node:
        case ast.BinOp(left=ast.Constant(value=1 | 1.0), op=ast.Sub(), right=right):
            return right
    return None


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant)


def _is_difference(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)
