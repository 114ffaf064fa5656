"""Calls of a function or class by another name: an alias, a choice between classes, a table of them."""

from __future__ import annotations

import ast

from gradlint.source.index import CallSite, FileIndex, dotted, terminal_name


def calls_by_other_names(index: FileIndex, name: str) -> list[CallSite]:
    """The calls in a file of what is bound to an expression or import that speaks of `name`; some may be of another."""
    others = index.import_names(name) - {name}
    tables: set[str] = set()
    for scope in index.scopes:
        if name in scope.words:
            for table in (scope.bindings, scope.stores):
                for other, bindings in table.items():
                    if any(b.value is not None and _speaks_of(b.value, name) for b in bindings):
                        holds = any(isinstance(b.value, ast.Dict) for b in bindings)
                        (tables if holds else others).add(other)
    found = [s for other in sorted(others) for s in index.calls_by_name.get(other.rpartition(".")[2], ())]
    if tables:
        found += [s for scope in index.scopes for s in scope.calls if _table(s.node.func) in tables]
    return found


def _speaks_of(value: ast.expr, name: str) -> bool:
    match value:
        case ast.Name() | ast.Attribute():
            return terminal_name(value) == name
        case ast.IfExp(body=first, orelse=second):
            return _speaks_of(first, name) or _speaks_of(second, name)
        case ast.Dict(values=values):
            return any(_speaks_of(v, name) for v in values)
        case ast.Subscript(value=inner):
            return _speaks_of(inner, name)
    return False


def _table(callee: ast.expr) -> str | None:
    """The table that a callee is taken from: `NETS[kind]`, `NETS.get(kind)`."""
    match callee:
        case ast.Subscript(value=table) | ast.Call(func=ast.Attribute(value=table, attr="get")):
            return dotted(table)
    return None
