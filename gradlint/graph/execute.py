"""Runs the steps of a slice in their scopes and evaluates what they lead to."""

from __future__ import annotations

import argparse
import ast
import builtins
import json
import sys
import types
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from gradlint.graph.execute_statements import (
    binding,
    bound_attributes,
    bound_names,
    branches_of,
    conditions_of,
    constant_for,
    filtered,
    operands_of,
    outside_of_function,
    runs_once,
)
from gradlint.graph.execute_surroundings import open_relative_to, package_of, search_here_first, search_in
from gradlint.graph.stubs import Configuration, InventedText, Unknown
from gradlint.location import Location
from gradlint.older_python import parse
from gradlint.worker.protocol import Slice, SliceStep

_MAX_SETTINGS = 40
"""Missing settings that are invented for one statement."""


class Execution:
    """One run of a slice.

    `failures` maps names to why the statement that binds them failed; `notes` are the statements that
    failed without binding anything, `ignored` what they raised; `placeholders` name what had to be invented.
    `elsewhere` is as `failures`, of the modules that were imported.
    """

    def __init__(self, sliced: Slice) -> None:
        self.sliced = sliced
        self.failures: dict[str, tuple[BaseException, Location]] = {}
        self.elsewhere: dict[str, tuple[BaseException, Location]] = {}
        self.notes: list[str] = []
        self.ignored: list[BaseException] = []
        self.placeholders: list[str] = list(sliced.placeholders)
        self._trees: dict[str, ast.Module] = {}
        self._scopes: dict[int, dict[str, Any]] = {}
        self._shared: dict[int, set[str]] = {}
        self._modules: dict[int, int] = {}
        self._owners: dict[int, str] = {}
        self._bare: list[Any] = []

    def run(self) -> Any:
        """Run the steps; the value of the target. What a step raises is kept for the report, not raised."""
        search_here_first(self.sliced)
        open_relative_to(self.sliced)
        module = types.ModuleType("__main__")
        module.__file__ = self.sliced.path
        module.__package__ = package_of(self.sliced.path)
        sys.modules["__main__"] = module
        sys.argv = [self.sliced.path, *self.sliced.argv]
        self._scopes = {0: module.__dict__}
        if self.sliced.steps:
            for step in self.sliced.steps:
                self._take(step)
        else:
            self._run_spans()
        target = compile(ast.parse(self.sliced.target.strip(), mode="eval"), "<target>", "eval")
        return eval(target, self._scope(self.sliced.scope))

    @property
    def bound(self) -> Collection[str]:
        """The names of the scope in which the target is evaluated."""
        scope: dict[str, Any] = self._scopes.get(self.sliced.scope, self._scopes.get(0, {}))
        return scope

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
                self._owners[step.scope] = step.expression
                self._bare.append(self._instance(step))
                self._scope(step.scope)[step.name] = self._bare[-1]
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
        """A function's scope sees the names of its module; the module of another file begins empty."""
        if step.path and step.path != self.sliced.path and not step.source:
            search_in(Path(step.path).parent)
            self._scopes[step.scope] = {
                "__name__": "__main__",
                "__file__": step.path,
                "__package__": package_of(step.path),
                "__builtins__": builtins,
            }
            return
        self._scopes[step.scope] = dict(self._scopes[step.source])
        self._modules[step.scope] = step.source

    def _bind(self, step: SliceStep) -> None:
        namespace = self._scope(step.scope)
        try:
            code = compile(ast.parse(step.expression.strip(), mode="eval"), "<argument>", "eval")
            namespace[step.name] = self._with_settings(lambda: eval(code, self._scope(step.source)))
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
        code = compile(ast.parse(step.expression or "None", mode="eval"), "<option>", "eval")
        default = eval(code, self._scope(step.source))
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
            self._trees[path] = parse(text, path or self.sliced.path)
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
        if isinstance(statement, (ast.For, ast.While)) and runs_once(statement):
            self._execute_once(statement, scope, path)
            return
        namespace = self._scope(scope)
        code = compile(ast.Module([outside_of_function(statement, self._owners.get(scope, ""))], []), path, "exec")
        try:
            self._with_settings(lambda: exec(code, namespace))
        except (Exception, SystemExit) as error:
            self._recover(statement, error, namespace, path)
        for name in self._shared.get(scope, ()):
            if name in namespace:
                self._scopes[self._modules.get(scope, 0)][name] = namespace[name]

    def _execute_once(self, loop: ast.For | ast.While, scope: int, path: str) -> None:
        """The first round of a loop, over data that may not be there."""
        if isinstance(loop, ast.For):
            first = ast.Call(
                ast.Name("next", ast.Load()), [ast.Call(ast.Name("iter", ast.Load()), [loop.iter], [])], []
            )
            start = ast.copy_location(ast.Assign([loop.target], first), loop)
            self._execute(ast.fix_missing_locations(start), scope, path)
        for inner in loop.body[:-1]:
            self._execute(inner, scope, path)

    def _execute_branch(self, statement: ast.If, scope: int, path: str) -> None:
        """An `if`, its statements one by one, so that one that fails does not take the others with it."""
        namespace = self._scope(scope)
        blocks, tests = branches_of(statement), conditions_of(statement)
        chosen = blocks[-1]
        for test, block in zip(tests, blocks, strict=False):
            code = compile(ast.Expression(test), path, "eval")
            try:
                holds = bool(self._with_settings(lambda code=code: eval(code, namespace)))  # type: ignore[misc]
            except (Exception, SystemExit) as error:
                self._recover(statement, error, namespace, path)
                return
            if holds:
                chosen = block
                break
        for inner in chosen:
            self._execute(inner, scope, path)
        unbound = [n for n in bound_names(statement) if n not in namespace and not hasattr(builtins, n)]
        if unbound and any(self._is_open(test, namespace) for test in tests):
            for inner in next((b for b in blocks if set(unbound) & binding(b)), []):
                self._execute(inner, scope, path)
        for name in unbound:
            if name in namespace:
                continue
            # No branch binds it under these arguments: a constant of another branch, else an invented value.
            constant = constant_for(name, statement)
            namespace[name] = Unknown(name) if constant is None else constant
            self._invent(name)

    def _is_open(self, test: ast.expr, namespace: dict[str, Any]) -> bool:
        """Whether a condition compares something that is invented or was left out, so that each branch may be meant."""
        for operand in operands_of(test):
            try:
                value = eval(compile(ast.Expression(operand), "<condition>", "eval"), namespace)
            except (Exception, SystemExit):
                continue
            if value is None or isinstance(value, (Unknown, InventedText)):
                return True
        return False

    def _with_settings(self, run: Callable[[], Any]) -> Any:
        """Run again where a setting is missing that what was left out would have set: it is invented.

        Settings are the attributes of a command line's namespace, of a configuration, and of an object whose
        `__init__` was run only in part: `opt.vocab_size = len(vocab)` in the function that loads the data.
        """
        for _ in range(_MAX_SETTINGS):
            try:
                return run()
            except AttributeError as error:
                holder, name = error.obj, error.name
                settings = isinstance(holder, (argparse.Namespace, types.SimpleNamespace, Configuration))
                if not (settings or any(holder is bare for bare in self._bare)) or not name or name.startswith("__"):
                    raise
                setattr(holder, name, Unknown(name))
                self._invent(name)
        return run()

    def _recover(self, statement: ast.stmt, error: BaseException, namespace: dict[str, Any], path: str) -> None:
        location = _location_in(error, path, statement)
        names = [n for n in bound_names(statement) if n not in namespace]
        rebound = [n for n in bound_names(statement) if n in namespace]
        why = f"{type(error).__name__}: {error}"
        stars = ["*"] if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*" else []
        for name in (*names, *rebound, *bound_attributes(statement), *stars):
            self._fail(name, error, location)
        # `text = ""` above the file that it is read from is no text.
        begun = [n for n in rebound if isinstance(namespace[n], (str, list, dict, set)) and not namespace[n]]
        for name in (*names, *begun):
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
