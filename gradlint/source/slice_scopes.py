"""The scopes of a file in which models are made, and who calls them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from gradlint.source.project import SourceFile
from gradlint.source.slice_names import FUNCTIONS, dotted, flat_statements, names_bound
from gradlint.source.walking import child_nodes, walk

_MODULE_BASES = frozenset(
    ["Module", "LightningModule", "Sequential", "PreTrainedModel", "ModuleList", "ModelMixin", "PyTorchModelHubMixin"]
)


@dataclass(frozen=True, eq=False)
class Scope:
    """The module, or a function or method of it. `owner` is a method's class."""

    body: list[ast.stmt]
    function: ast.FunctionDef | ast.AsyncFunctionDef | None = None
    owner: ast.ClassDef | None = None
    parent: Scope | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The function's name; empty for the module."""
        return self.function.name if self.function else ""

    @cached_property
    def parameters(self) -> list[str]:
        """The names of the function's parameters, positional ones first."""
        if self.function is None:
            return []
        found = self.function.args
        return [a.arg for a in (*found.posonlyargs, *found.args, *found.kwonlyargs)]

    @cached_property
    def positional(self) -> list[str]:
        """The names of the parameters that take positional arguments."""
        arguments = self.function.args if self.function else None
        return [a.arg for a in (*arguments.posonlyargs, *arguments.args)] if arguments is not None else []

    @cached_property
    def collectors(self) -> dict[str, str]:
        """What `*args` and `**kwargs` hold where nothing is passed, as expressions."""
        arguments = self.function.args if self.function else None
        found = {}
        if arguments is not None and arguments.vararg is not None:
            found[arguments.vararg.arg] = "()"
        if arguments is not None and arguments.kwarg is not None:
            found[arguments.kwarg.arg] = "{}"
        return found

    @cached_property
    def statements(self) -> list[ast.stmt]:
        """All statements, also those within `if`, `for`, `with` and `try`, in source order."""
        return list(flat_statements(self.body))

    @cached_property
    def bound(self) -> set[str]:
        """Names that are local to the scope by assignment, and attributes of self that it sets."""
        return set().union(*(names_bound(s) for s in self.body)) if self.body else set()

    def default_of(self, parameter: str) -> ast.expr | None:
        """The default expression of a parameter."""
        if self.function is None:
            return None
        arguments = self.function.args
        positional = [*arguments.posonlyargs, *arguments.args]
        with_default = dict(
            zip(
                (a.arg for a in positional[len(positional) - len(arguments.defaults) :]),
                arguments.defaults,
                strict=True,
            )
        )
        with_default.update(
            (a.arg, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None
        )
        return with_default.get(parameter)


class Scopes:
    """All scopes of a file, with its classes and imports."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.module = Scope(file.tree.body)
        self.all = [self.module, *_nested(self.module, None)]
        self.classes = {n.name: n for n in walk(file.tree) if isinstance(n, ast.ClassDef)}
        self.imports = _imports(file.tree)

    def qualified(self, node: ast.AST) -> str:
        """The dotted name of an expression with its first part replaced by what it was imported as."""
        name = dotted(node)
        first, dot, rest = name.partition(".")
        return self.imports.get(first, first) + dot + rest

    def is_module_class(self, name: str, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a class of this file is an nn.Module, also through bases in this file."""
        node = self.classes.get(name)
        if node is None or name in seen:
            return False
        bases = [dotted(b) for b in node.bases]
        return any(
            b.rpartition(".")[2] in _MODULE_BASES or self.is_module_class(b, seen | {name}) for b in bases
        ) or any(isinstance(m, FUNCTIONS) and m.name == "forward" for m in node.body)

    def function(self, name: str, owner: ast.ClassDef | None = None) -> Scope | None:
        """The scope of a top-level function, or of a method of a class."""
        return next((s for s in self.all if s.function and s.name == name and s.owner is owner), None)

    @cached_property
    def function_texts(self) -> dict[str, str]:
        """The text of every function by its name; of several of one name, that of the last."""
        return {s.name: ast.unparse(s.function) for s in self.all if s.function is not None}

    @cached_property
    def calls(self) -> list[tuple[Scope, ast.stmt, ast.Call]]:
        """Every call with the innermost simple statement and the scope that make it, in source order."""
        found = []
        for scope in self.all:
            for statement in scope.statements:
                for node in _own_expressions(statement):
                    if isinstance(node, ast.Call):
                        found.append((scope, statement, node))
        return found

    def calls_of(self, scope: Scope) -> list[tuple[Scope, ast.stmt, ast.Call]]:
        """Where the function of a scope is called; for `__init__`, where its class is."""
        wanted = scope.name
        if scope.owner is not None and wanted == "__init__":
            subclasses = {c.name for c in self.classes.values() if scope.owner.name in {dotted(b) for b in c.bases}}
            wanted_names = {scope.owner.name, *subclasses}
            return [c for c in self.calls if dotted(c[2].func) in wanted_names]
        found = [c for c in self.calls if dotted(c[2].func).rpartition(".")[2] == wanted and c[0] is not scope]
        if scope.owner is None:
            found = [c for c in found if isinstance(c[2].func, ast.Name)]
            found += self._handed_over(wanted)
        return found

    def _handed_over(self, name: str) -> list[tuple[Scope, ast.stmt, ast.Call]]:
        """Calls that run a function given to them: `mp.spawn(main_worker, args=(…))`, `fire.Fire(main)`."""
        return [c for c in self.calls if c[2].args and isinstance(c[2].args[0], ast.Name) and c[2].args[0].id == name]


def _nested(scope: Scope, owner: ast.ClassDef | None) -> Iterator[Scope]:
    for statement in scope.statements:
        if isinstance(statement, FUNCTIONS):
            inner = Scope(statement.body, statement, owner, scope)
            yield inner
            yield from _nested(inner, owner)
        elif isinstance(statement, ast.ClassDef):
            yield from (
                s for s in _nested(Scope(statement.body, None, statement, scope), statement) if s.function is not None
            )


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """Expressions of a statement that no inner statement holds."""
    stack: list[ast.AST] = child_nodes(statement)
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        stack = list(statement.decorator_list)
    while stack:
        node = stack.pop(0)
        if isinstance(node, (ast.stmt, ast.ExceptHandler)) or node.__class__.__name__ == "match_case":
            continue
        yield node
        stack = [*child_nodes(node), *stack]


def _imports(tree: ast.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or name] = name
            case ast.ImportFrom(module=module, names=names, level=level):
                base = "." * level + (module or "")
                for alias in names:
                    found[alias.asname or alias.name] = f"{base}.{alias.name}"
    return found
