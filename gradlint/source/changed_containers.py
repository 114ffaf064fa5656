"""Whether a container holds something else later than what it was written with."""

from __future__ import annotations

import ast

from gradlint.source.index import Scope, terminal_name
from gradlint.source.project import SourceFile
from gradlint.source.things import Instance
from gradlint.source.walking import walk

CHANGES = frozenset(["append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort", "update", "add_module"])
"""Methods by which a list, a dict or a container of modules comes to hold something else."""


def is_changed_by_a_method(name: str, scope: Scope) -> bool:
    """Whether such a method of a variable is called in its function: `outputs.update(…)`."""
    return any(_changes(site.node, frozenset([name])) for site in scope.calls)


def is_rebuilt(container: Instance, user: SourceFile | None) -> bool:
    """Whether parts of a module are exchanged, added or removed, in its own file or in that of its user.

    `net[-1] = …`, `net.append(…)` and `del net[1]` count for everything of that name.
    """
    held = container.scope.holders(container.call) if container.call is not None else []
    names = frozenset(name.rpartition(".")[2] for name in held)
    files = {file.path: file for file in (container.scope.file, user) if file is not None}
    for node in (n for file in files.values() for n in walk(file.tree)):
        match node:
            case ast.Subscript(value=value, ctx=ast.Store() | ast.Del()) if terminal_name(value) in names:
                return True
            case ast.Call() if _changes(node, names):
                return True
    return False


def _changes(call: ast.Call, names: frozenset[str]) -> bool:
    match call.func:
        case ast.Attribute(value=value, attr=attr):
            return attr in CHANGES and terminal_name(value) in names
    return False
