"""Which names a statement reads, binds and changes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint.source.walking import child_nodes, walk

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_OWN_SCOPE = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a chain of attributes; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def place(node: ast.AST) -> str:
    """What a change of this expression changes: "net" for `net.fc.weight[0]`, "self.net" for `self.net.fc`."""
    attribute = ""
    while True:
        match node:
            case ast.Attribute(value=value, attr=attr):
                node, attribute = value, attr
            case ast.Subscript(value=value) | ast.Starred(value=value):
                node = value
            case ast.Call(func=ast.Attribute(value=value)):
                node = value
            case ast.Name(id="self"):
                return f"self.{attribute}" if attribute else "self"
            case ast.Name(id=name):
                return name
            case _:
                return ""


def names_read(node: ast.AST | None) -> set[str]:
    """The names of the surrounding scope that evaluating or running a node may read; "self.x" for attributes.

    Those that the bodies of functions read when they are called are included, their own local names are not.
    """
    found: set[str] = set()
    stack = [node] if node is not None else []
    while stack:
        inner = stack.pop()
        match inner:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                found |= _free_names(inner)
                continue
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                found |= _free_in_comprehension(inner)
                continue
            case ast.Attribute(value=ast.Name(id="self"), attr=attr):
                found.add(f"self.{attr}")
            case ast.Name(id=name, ctx=ast.Load()):
                found.add(name)
        stack.extend(child_nodes(inner))
    return found


def _free_names(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    parameters += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    body = function.body if isinstance(function.body, list) else [function.body]
    local = {p.arg for p in parameters}.union(*(names_bound(s) for s in body))
    for statement in body:
        for inner in walk(statement):
            if isinstance(inner, (ast.Global, ast.Nonlocal)):
                local -= set(inner.names)
    free = set().union(*(names_read(s) for s in body)) - local
    if "self" in local:
        free = {name for name in free if not name.startswith("self.")}
    outside: list[ast.AST] = [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]
    outside += [p.annotation for p in parameters if p.annotation is not None]
    if not isinstance(function, ast.Lambda):
        outside += [*function.decorator_list, *([function.returns] if function.returns is not None else [])]
    return free.union(*(names_read(o) for o in outside))


def _free_in_comprehension(node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> set[str]:
    targets = [n.id for g in node.generators for n in walk(g.target) if isinstance(n, ast.Name)]
    return set().union(*(names_read(child) for child in child_nodes(node))) - set(targets)


def names_bound(statement: ast.AST) -> set[str]:
    """The places that a statement binds: names, and "self.x"; those of the statements inside it included."""
    found: set[str] = set()
    stack: list[ast.AST] = [statement]
    while stack:
        node = stack.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
                continue
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found.update((a.asname or a.name).partition(".")[0] for a in names)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=attr, ctx=ast.Store()):
                found.add(f"self.{attr}")
            case _ if isinstance(node, _OWN_SCOPE):
                continue
        stack.extend(child_nodes(node))
    return found


def targets_of(statement: ast.stmt) -> list[ast.expr]:
    """What an assignment assigns to, tuples taken apart."""
    flat: list[ast.expr]
    match statement:
        case ast.Assign(targets=targets):
            flat = list(targets)
        case ast.AnnAssign(target=target, value=value) if value is not None:
            flat = [target]
        case ast.AugAssign(target=target):
            flat = [target]
        case _:
            return []
    found: list[ast.expr] = []
    while flat:
        first = flat.pop(0)
        if isinstance(first, (ast.Tuple, ast.List)):
            flat = [*first.elts, *flat]
        else:
            found.append(first)
    return found


def blocks_of(statement: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks inside a compound statement, in order."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(statement, name, None)
        if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
            yield block
    for clause in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
        yield clause.body


def header_of(statement: ast.stmt) -> list[ast.AST]:
    """What a compound statement evaluates besides its blocks."""
    match statement:
        case ast.If(test=test) | ast.While(test=test):
            return [test]
        case ast.For(iter=iterated) | ast.AsyncFor(iter=iterated):
            return [iterated]
        case ast.With(items=items) | ast.AsyncWith(items=items):
            return list(items)
        case ast.Match(subject=subject, cases=cases):
            return [subject, *(c.pattern for c in cases), *(c.guard for c in cases if c.guard)]
        case ast.Try(handlers=handlers):
            return [h.type for h in handlers if h.type is not None]
    return []


def is_compound(statement: ast.stmt) -> bool:
    """Whether a statement holds blocks that run in the same scope."""
    return isinstance(
        statement, (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
    ) or (statement.__class__.__name__ == "TryStar")


def flat_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements of a scope in source order, without those of nested functions and classes."""
    for statement in body:
        yield statement
        if is_compound(statement):
            for block in blocks_of(statement):
                yield from flat_statements(block)
