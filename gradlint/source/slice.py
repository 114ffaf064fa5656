"""From a training script to what builds its models: the statements, and the calls that lead there."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Sequence
from dataclasses import replace

from gradlint.location import Location
from gradlint.source.project import Project, SourceFile
from gradlint.source.script import Script, Skipped
from gradlint.source.slice_names import dotted, names_read, place
from gradlint.source.slice_plan import EVERYTHING, Plan, run_steps, scope_steps
from gradlint.source.slice_scopes import Scopes
from gradlint.source.slice_statements import select
from gradlint.source.slice_targets import Target, find_targets
from gradlint.worker.protocol import Slice


def slice_models(
    file: SourceFile, project: Project, script: Script | None = None, script_args: Sequence[str] = ()
) -> list[Slice | Skipped]:
    """A slice for every model instance of a script; classes that nothing constructs are skipped with the reason.

    `script_args` are the command-line arguments that the script would get. Nothing is run.
    """
    scopes = Scopes(file)
    targets = find_targets(scopes, script)
    found: list[Slice | Skipped] = [_slice(scopes, project, target, script_args) for target in targets]
    if not found:
        for node in scopes.module.body:
            if isinstance(node, ast.ClassDef) and scopes.is_module_class(node.name):
                at = Location(file.path, node.lineno, file.column(node.lineno, node.col_offset))
                qualified = f"{file.module}.{node.name}"
                found.append(Skipped(at, f"`{node.name}` is defined but not constructed here", qualified))
    return found


def slice_expression(
    expression: str, project: Project, path: str | None = None, script_args: Sequence[str] = ()
) -> Slice | Skipped:
    """The slice of `--model FILE.py:EXPR` (`path` and `expression`) or of `--model module:attr` (no `path`)."""
    if path is None:
        module, _, attribute = expression.partition(":")
        parts = [*module.split("."), *attribute.split(".")]
        if not attribute or not all(p.rstrip("()").isidentifier() for p in parts):
            return Skipped(Location(expression, 1), "`module:attribute` expected")
        text = f"import {module}\n"
        return Slice(
            path=str(project.root / "<model>"),
            root=str(project.root),
            text=text,
            target=f"{module}.{attribute}",
            keep=((1, 1),),
            name=attribute,
        )
    file = project.file(path)
    if file is None:
        return Skipped(Location(path, 1), "the file cannot be read or does not parse")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        return Skipped(Location(path, 1), f"`{expression}` is not a Python expression: {error.msg}")
    scopes = Scopes(file)
    reads = names_read(tree)
    known = scopes.module.bound | set(scopes.imports) | set(vars(builtins))
    missing = sorted(n for n in reads if n not in known and not n.startswith("self."))
    if missing:
        return Skipped(Location(path, 1), f"`{missing[0]}` is not defined in this file")
    called = tree.body.func if isinstance(tree.body, ast.Call) else tree.body
    name = dotted(called).rpartition(".")[2]
    target = Target(scopes.module, expression.strip(), EVERYTHING, None, name)
    made = _slice(scopes, project, target, script_args)
    cls = scopes.classes.get(name)
    at = Location(file.path, cls.lineno, file.column(cls.lineno, cls.col_offset)) if cls is not None else None
    return replace(made, location=at)


def slice_defaults(name: str, file: SourceFile, project: Project, script_args: Sequence[str] = ()) -> Slice | None:
    """The slice of a module class with the defaults of its constructor; None where that needs to be given more."""
    cls = Scopes(file).classes.get(name)
    if cls is None or not _takes_nothing(cls):
        return None
    made = slice_expression(f"{name}()", project, file.path, script_args)
    return made if isinstance(made, Slice) else None


def _takes_nothing(cls: ast.ClassDef) -> bool:
    """Whether the constructor that stands in the class has a default for each of its parameters."""
    for statement in cls.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            given = statement.args
            required = len(given.posonlyargs) + len(given.args) - len(given.defaults)
            return required <= 1 and all(default is not None for default in given.kw_defaults)
    return False


def _slice(scopes: Scopes, project: Project, target: Target, script_args: Sequence[str]) -> Slice:
    plan = Plan(scopes, project, _aliases(target))
    needed = names_read(ast.parse(target.expression, mode="eval"))
    number = scope_steps(plan, target.scope, needed, target.stop)
    module = select(scopes, scopes.module.body, plan.needed, plan.stop, plan.models)
    steps = [*run_steps(module, 0, plan), *plan.inner]
    spans = tuple((s.lineno, s.end_lineno or s.lineno) for s, _ in module.kept)
    return Slice(
        path=scopes.file.path,
        root=str(project.root),
        text=scopes.file.text,
        target=target.expression,
        keep=spans,
        argv=tuple(script_args),
        placeholders=tuple(dict.fromkeys(plan.placeholders)),
        name=target.name or _name(target),
        location=target.location or _location(scopes.file, target),
        steps=tuple(steps),
        scope=number,
        models=tuple(sorted(plan.models)),
    )


def _aliases(target: Target) -> set[str]:
    root = place(ast.parse(target.expression, mode="eval").body)
    return {root} if root else set()


def _name(target: Target) -> str:
    called = dotted(target.call.func).split(".") if target.call is not None else []
    classes = [part for part in called if part[:1].isupper() and part != "Sequential"]
    return classes[-1] if classes else target.expression.partition("(")[0]


def _location(file: SourceFile, target: Target) -> Location | None:
    call = target.call
    if call is None:
        return None
    end = call.end_lineno or call.lineno
    return Location(
        file.path,
        call.lineno,
        file.column(call.lineno, call.col_offset),
        end,
        file.column(end, call.end_col_offset or 0),
    )
