"""Runs the steps of a slice in their scopes and evaluates what they lead to."""

from __future__ import annotations

import ast
import builtins
import importlib
import io
import json
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlint.graph.frames import is_user_file
from gradlint.graph.stubs import Configuration, Unknown
from gradlint.location import Location
from gradlint.worker.protocol import Slice, SliceStep

_BLOCKS = ("body", "orelse", "finalbody")


class Execution:
    """One run of a slice.

    `failures` maps names to why the statement that binds them failed; `notes` are the statements that
    failed without binding anything, `ignored` what they raised; `placeholders` name what had to be invented.
    """

    def __init__(self, sliced: Slice) -> None:
        self.sliced = sliced
        self.failures: dict[str, tuple[BaseException, Location]] = {}
        self.notes: list[str] = []
        self.ignored: list[BaseException] = []
        self.placeholders: list[str] = list(sliced.placeholders)
        self._trees: dict[str, ast.Module] = {}
        self._scopes: dict[int, dict[str, Any]] = {}
        self._shared: dict[int, set[str]] = {}

    def run(self) -> Any:
        """Run the steps; the value of the target. What a step raises is kept for the report, not raised."""
        _search_here_first(self.sliced)
        _open_relative_to(self.sliced)
        module = types.ModuleType("__main__")
        module.__file__ = self.sliced.path
        module.__package__ = _package(self.sliced.path)
        sys.modules["__main__"] = module
        sys.argv = [self.sliced.path, *self.sliced.argv]
        self._scopes = {0: module.__dict__}
        if self.sliced.prelude:
            exec(compile(self.sliced.prelude, "<gradlint>", "exec"), module.__dict__)
        if self.sliced.steps:
            for step in self.sliced.steps:
                self._take(step)
        else:
            self._run_spans()
        target = compile(ast.parse(self.sliced.target.strip(), mode="eval"), "<target>", "eval")
        return eval(target, self._scope(self.sliced.scope))

    def _run_spans(self) -> None:
        spans = self.sliced.keep
        if not spans:
            self._scopes[0]["__name__"] = Path(self.sliced.path).stem
        for statement in self._tree("").body:
            if not spans or any(a <= statement.lineno <= b for a, b in spans):
                self._execute(statement, 0, self.sliced.path)

    def _take(self, step: SliceStep) -> None:
        match step.action:
            case "run":
                statement = self._statement(step)
                if statement is not None:
                    self._execute(statement, step.scope, step.path or self.sliced.path)
            case "bind":
                self._bind(step)
            case "scope":
                self._enter(step)
            case "share":
                self._shared.setdefault(step.scope, set()).add(step.name)
            case "instance":
                self._scope(step.scope)[step.name] = self._instance(step)
            case "option":
                self._scope(step.scope)[step.name] = self._option(step)
            case "configuration":
                self._scope(step.scope)[step.name] = json.loads(step.expression, object_hook=Configuration)
            case "unknown":
                self._scope(step.scope)[step.name] = Unknown(step.expression or step.name)
                self._invent(step.expression or step.name)

    def _scope(self, number: int) -> dict[str, Any]:
        if number not in self._scopes:
            self._scopes[number] = dict(self._scopes[0])
        return self._scopes[number]

    def _enter(self, step: SliceStep) -> None:
        """A function's scope sees the names of the module it is in; those of another file are imported first."""
        if step.path and step.path != self.sliced.path:
            module = _imported(step.path, step.name)
            self._scopes[step.scope] = dict(vars(module))
        else:
            self._scopes[step.scope] = dict(self._scopes[0])

    def _bind(self, step: SliceStep) -> None:
        namespace = self._scope(step.scope)
        try:
            code = compile(ast.parse(step.expression.strip(), mode="eval"), "<argument>", "eval")
            namespace[step.name] = eval(code, self._scope(step.source))
        except (Exception, SystemExit) as error:
            self._fail(step.name, error, Location(step.path or self.sliced.path, max(1, step.line)))
            namespace[step.name] = Unknown(step.name)
            self._invent(step.name)

    def _instance(self, step: SliceStep) -> Any:
        from torch import nn

        cls: Any = self._scope(step.source).get(step.expression)
        if not isinstance(cls, type):
            return types.SimpleNamespace()
        try:
            made: Any = object.__new__(cls)
            if isinstance(made, nn.Module):
                nn.Module.__init__(made)
        except (Exception, SystemExit):
            return types.SimpleNamespace()
        return made

    def _option(self, step: SliceStep) -> Any:
        """A default declared by click and its like; `--name value` of the command line wins."""
        options = {step.name, step.name.replace("_", "-")}
        words = [w for o in options for w in _values_of(f"--{o}", self.sliced.argv)]
        default = eval(compile(ast.parse(step.expression or "None", mode="eval"), "<option>", "eval"), self._scopes[0])
        if not words:
            if default is None and not step.expression:
                self._invent(step.name)
                return Unknown(step.name)
            return default
        try:
            return type(default)(words[-1]) if default is not None else ast.literal_eval(words[-1])
        except (ValueError, TypeError, SyntaxError):
            return words[-1]

    def _tree(self, path: str) -> ast.Module:
        if path not in self._trees:
            text = self.sliced.text if path in ("", self.sliced.path) else Path(path).read_text("utf-8", "replace")
            self._trees[path] = ast.parse(text, path or self.sliced.path)
        return self._trees[path]

    def _statement(self, step: SliceStep) -> ast.stmt | None:
        for node in ast.walk(self._tree(step.path)):
            if isinstance(node, ast.stmt) and (node.lineno, node.col_offset) == (step.line, step.column):
                return filtered(node, set(step.keep)) if step.keep else node
        return None

    def _execute(self, statement: ast.stmt, scope: int, path: str) -> None:
        if isinstance(statement, ast.If):
            self._execute_branch(statement, scope, path)
            return
        namespace = self._scope(scope)
        try:
            code = compile(ast.Module([_without_returns(statement)], []), path, "exec")
            exec(code, namespace)
        except (Exception, SystemExit) as error:
            self._recover(statement, error, namespace, path)
        for name in self._shared.get(scope, ()):
            if name in namespace:
                self._scopes[0][name] = namespace[name]

    def _execute_branch(self, statement: ast.If, scope: int, path: str) -> None:
        """An `if`, its statements one by one, so that one that fails does not take the others with it."""
        namespace = self._scope(scope)
        try:
            holds = bool(eval(compile(ast.Expression(statement.test), path, "eval"), namespace))
        except (Exception, SystemExit) as error:
            self._recover(statement, error, namespace, path)
            return
        for inner in statement.body if holds else statement.orelse:
            self._execute(inner, scope, path)
        for name in bound_names(statement):
            if name in namespace or hasattr(builtins, name):
                continue
            # No branch binds it under these arguments: a constant of another branch, else an invented value.
            constant = _constant_for(name, statement)
            namespace[name] = Unknown(name) if constant is None else constant
            self._invent(name)

    def _recover(self, statement: ast.stmt, error: BaseException, namespace: dict[str, Any], path: str) -> None:
        location = _location_in(error, path, statement)
        names = [n for n in bound_names(statement) if n not in namespace]
        rebound = [n for n in bound_names(statement) if n in namespace]
        why = f"{type(error).__name__}: {error}"
        for name in (*names, *rebound):
            self._fail(name, error, location)
        for name in names:
            namespace[name] = Unknown(name)
            self._invent(name)
        self.ignored.append(error)
        if not names:
            self.notes.append(f"line {location.line} was left out: {' '.join(why.split())[:160]}")

    def _fail(self, name: str, error: BaseException, location: Location) -> None:
        self.failures.setdefault(name, (error, location))

    def _invent(self, name: str) -> None:
        if name not in self.placeholders:
            self.placeholders.append(name)


def filtered(statement: ast.stmt, keep: set[tuple[int, int]]) -> ast.stmt:
    """A compound statement with only those of its inner statements that start at a kept place."""
    fields: dict[str, Any] = {name: getattr(statement, name, None) for name in statement._fields}
    for block in _BLOCKS:
        if isinstance(fields.get(block), list):
            fields[block] = _kept(fields[block], keep) or ([] if block != "body" else [_nothing(statement)])
    for clauses in ("handlers", "cases"):
        if isinstance(fields.get(clauses), list):
            fields[clauses] = [_clause(c, keep, statement) for c in fields[clauses]]
    return ast.copy_location(type(statement)(**fields), statement)


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


def _without_returns(statement: ast.stmt) -> ast.stmt:
    changed: ast.stmt = _Returns().visit(statement)
    return changed


def _constant_for(name: str, statement: ast.stmt) -> Any:
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


def _location_in(error: BaseException, path: str, statement: ast.stmt) -> Location:
    step, line = error.__traceback__, statement.lineno
    while step is not None:
        if step.tb_frame.f_code.co_filename == path:
            line = step.tb_lineno
        step = step.tb_next
    return Location(path, line)


def _values_of(option: str, argv: Sequence[str]) -> list[str]:
    found = []
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            found.append(argv[i + 1])
        elif word.startswith(option + "="):
            found.append(word.partition("=")[2])
    return found


def _search_here_first(sliced: Slice) -> None:
    folder = str(Path(sliced.path).parent)
    wanted = [folder, sliced.root, str(Path(sliced.root) / "src")]
    sys.path[:0] = [p for p in dict.fromkeys(wanted) if p not in sys.path]
    # A package of a project within the project: the script is meant to be run from a folder in between.
    between = [str(p) for p in Path(sliced.path).parents if Path(sliced.root) in p.parents]
    sys.path += [p for b in between for p in (b, str(Path(b) / "src")) if p not in sys.path]


def _package(path: str) -> str | None:
    """The package that a file is in, for its relative imports; its top is made importable. None outside of any."""
    folder, names = Path(path).resolve().parent, []
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.append(folder.name)
        folder = folder.parent
    if names and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return ".".join(reversed(names)) or None


_plain_open = io.open


def _open_relative_to(sliced: Slice) -> None:
    """Let `open("config.yaml")` find the script's own files, though the working directory is a scratch folder."""
    bases = list(dict.fromkeys([str(Path(sliced.path).parent), sliced.root]))

    def opened(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        if isinstance(file, (str, os.PathLike)) and not any(c in mode for c in "wax+"):
            name = os.fspath(file)
            if isinstance(name, str) and not os.path.isabs(name) and not os.path.exists(name):  # noqa: PTH110, PTH117
                found = (p for b in bases if os.path.isfile(p := os.path.join(b, name)))  # noqa: PTH113, PTH118
                file = next(found, file)
        return _plain_open(file, mode, *arguments, **keywords)

    builtins.open = opened
    io.open = opened


def _imported(path: str, name: str) -> types.ModuleType:
    real = os.path.realpath(path)
    for module in list(sys.modules.values()):
        if os.path.realpath(getattr(module, "__file__", None) or "") == real and is_user_file(real):
            return module
    return importlib.import_module(name)
