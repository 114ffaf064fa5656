"""Statements of a script as they can be run one by one, out of the blocks and functions that hold them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

_BLOCKS = ("body", "orelse", "finalbody")
ONCE = -2
"""The column under which a loop is listed that is to be run once (see `SliceStep.keep`)."""


def filtered(statement: ast.stmt, keep: set[tuple[int, int]]) -> ast.stmt:
    """A compound statement with only those of its inner statements that start at a kept place.

    A loop whose line is kept with column -2 is run once: it trains, and the model is made in it.
    """
    fields: dict[str, Any] = {name: getattr(statement, name, None) for name in statement._fields}
    for block in _BLOCKS:
        if isinstance(fields.get(block), list):
            fields[block] = _kept(fields[block], keep) or ([] if block != "body" else [_nothing(statement)])
    for clauses in ("handlers", "cases"):
        if isinstance(fields.get(clauses), list):
            fields[clauses] = [_clause(c, keep, statement) for c in fields[clauses]]
    if (statement.lineno, ONCE) in keep:
        fields["body"] = [*fields["body"], ast.copy_location(ast.Break(), statement)]
        fields["orelse"] = []
    return ast.copy_location(type(statement)(**fields), statement)


def runs_once(loop: ast.For | ast.While) -> bool:
    """Whether `filtered` made a loop one of a single round."""
    return isinstance(loop.body[-1], ast.Break) and len(loop.body) > 1


def branches_of(statement: ast.If) -> list[list[ast.stmt]]:
    """The blocks of an `if` with its `elif`s and `else`, in order."""
    rest = statement.orelse
    inner = branches_of(rest[0]) if len(rest) == 1 and isinstance(rest[0], ast.If) else [rest]
    return [statement.body, *inner]


def conditions_of(statement: ast.If) -> list[ast.expr]:
    """The conditions of an `if` and its `elif`s."""
    rest = statement.orelse
    return [statement.test, *(conditions_of(rest[0]) if len(rest) == 1 and isinstance(rest[0], ast.If) else [])]


def binding(block: Sequence[ast.stmt]) -> set[str]:
    """The names that a block binds."""
    return {name for statement in block for name in bound_names(statement)}


def operands_of(test: ast.expr) -> list[ast.expr]:
    """What a condition compares, its parts joined by `and`, `or` and `not` taken one by one."""
    match test:
        case ast.BoolOp(values=values):
            return [o for value in values for o in operands_of(value)]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return operands_of(operand)
        case ast.Compare(left=left, comparators=comparators):
            return [left, *comparators]
    return [test]


def _clause(clause: Any, keep: set[tuple[int, int]], statement: ast.stmt) -> Any:
    fields = {name: getattr(clause, name, None) for name in clause._fields}
    fields["body"] = _kept(clause.body, keep) or [_nothing(statement)]
    return ast.copy_location(type(clause)(**fields), clause)


def _kept(statements: Sequence[ast.stmt], keep: set[tuple[int, int]]) -> list[ast.stmt]:
    kept: list[ast.stmt] = []
    for inner in statements:
        if (inner.lineno, inner.col_offset) not in keep:
            continue
        compound = isinstance(inner, (ast.If, ast.For, ast.While, ast.With, ast.Try)) or inner.__class__.__name__ in (
            "Match",
            "TryStar",
        )
        kept.append(filtered(inner, keep) if compound else inner)
    return kept


def _nothing(at: ast.stmt) -> ast.stmt:
    return ast.copy_location(ast.Pass(), at)


class _Returns(ast.NodeTransformer):
    """Statements of a function body run outside of it: `return`, `global` and `nonlocal` have no meaning there."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def _drop(self, node: Any) -> ast.AST:
        return ast.copy_location(ast.Pass(), node)

    visit_Return = visit_Global = visit_Nonlocal = _drop  # noqa: N815


class _PrivateNames(ast.NodeTransformer):
    """`self.__network` inside of a class means `self._Net__network`, and `super()` is that of the class."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.prefix = f"_{owner.lstrip('_')}"

    def _mangled(self, name: str) -> str:
        return self.prefix + name if name.startswith("__") and not name.endswith("__") else name

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(ast.Attribute(node.value, self._mangled(node.attr), node.ctx), node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            places = [ast.Name(self.owner, ast.Load()), ast.Name("self", ast.Load())]
            return ast.fix_missing_locations(ast.copy_location(ast.Call(node.func, list(places), []), node))
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(self._mangled(node.id), node.ctx), node)


def outside_of_function(statement: ast.stmt, owner: str = "") -> ast.stmt:
    """A statement of a function, or of a method of the class `owner`, as it can be run by itself."""
    changed: ast.stmt = _Returns().visit(statement)
    return _PrivateNames(owner).visit(changed) if owner else changed


def constant_for(name: str, statement: ast.stmt) -> Any:
    """A constant that some branch of a statement assigns to a name, or None."""
    for node in ast.walk(statement):
        match node:
            case ast.Assign(targets=[ast.Name(id=bound)], value=ast.Constant(value=value)) if bound == name:
                return value
    return None


def bound_names(statement: ast.stmt) -> list[str]:
    """The names that a statement binds in its own scope, those of the statements inside it included."""
    found: dict[str, None] = {}
    stack: list[ast.AST] = [statement]
    while stack:
        node = stack.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = None
                continue
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                continue
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                for alias in names:
                    if alias.name != "*":
                        found[(alias.asname or alias.name).partition(".")[0]] = None
            case ast.Name(id=name, ctx=ast.Store()):
                found[name] = None
        stack.extend(ast.iter_child_nodes(node))
    return list(found)


def bound_attributes(statement: ast.stmt) -> list[str]:
    """The attributes of `self` that a statement sets, as "self.net"."""
    found = [
        f"self.{node.attr}"
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    ]
    return list(dict.fromkeys(found))
