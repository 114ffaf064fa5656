"""Rectifiers written with a mask: `x * (x > 0)`, `torch.where(x > 0, x, 0.1 * x)`."""

from __future__ import annotations

import ast

_CASTS = frozenset(["float", "double", "half", "to", "type", "type_as", "int", "long"])
_ZEROS = frozenset(["zeros_like", "zeros", "tensor"])


def passes_positive(node: ast.AST) -> bool:
    """Whether a product is of a tensor and the mask of where it is positive."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return False
    return _is_positive(node.right, node.left) or _is_positive(node.left, node.right)


def slope_below_zero(node: ast.AST) -> float | None:
    """The slope below zero of `torch.where(x > 0, x, slope * x)`, 0 for a constant 0; None for every other choice."""
    if not isinstance(node, ast.Call) or len(node.args) != 3:
        return None
    mask, above, below = node.args
    if not _is_positive(mask, above):
        return None
    match below:
        case ast.Constant(value=int() | float() as value) if value == 0:
            return 0.0
        case ast.Call(func=ast.Attribute(attr=name), args=args) if name in _ZEROS:
            return 0.0 if name != "tensor" or _is_zero(args[0] if args else None) else None
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            factor, x = (left, right) if isinstance(left, ast.Constant) else (right, left)
            if isinstance(factor, ast.Constant) and isinstance(factor.value, float) and 0 < factor.value < 1:
                return factor.value if ast.dump(x) == ast.dump(above) else None
    return None


def _is_positive(mask: ast.expr, x: ast.expr) -> bool:
    """Whether an expression is `x > 0` or `x >= 0`, perhaps as numbers."""
    if isinstance(mask, ast.Call) and isinstance(mask.func, ast.Attribute) and mask.func.attr in _CASTS:
        mask = mask.func.value
    match mask:
        case ast.Compare(left=left, ops=[ast.Gt() | ast.GtE()], comparators=[zero]):
            return _is_zero(zero) and ast.dump(left) == ast.dump(x)
    return False


def _is_zero(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, bool) and node.value == 0
