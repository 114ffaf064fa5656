"""From a training script to what builds its models: the statements, and the calls that lead there."""

from __future__ import annotations

import ast
import builtins
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gradlint.location import Location
from gradlint.source.project import Project, SourceFile
from gradlint.source.script import Script, Skipped
from gradlint.source.slice_configuration import hydra_configuration
from gradlint.source.slice_names import dotted, names_read, place
from gradlint.source.slice_scopes import Scope, Scopes
from gradlint.source.slice_statements import Selection, position, select
from gradlint.source.slice_targets import Target, argument_of, find_targets
from gradlint.worker.protocol import Slice, SliceStep

_EVERYTHING = sys.maxsize
_MAX_CALLS = 8


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
    target = Target(scopes.module, expression.strip(), _EVERYTHING, None, name)
    made = _slice(scopes, project, target, script_args)
    cls = scopes.classes.get(name)
    at = Location(file.path, cls.lineno, file.column(cls.lineno, cls.col_offset)) if cls is not None else None
    return replace(made, location=at)


@dataclass
class _Plan:
    """Steps in the making: `inner` holds those of functions, outermost first; module names collect in `needed`."""

    scopes: Scopes
    models: set[str] = field(default_factory=set)
    needed: set[str] = field(default_factory=set)
    stop: int = _EVERYTHING
    inner: list[SliceStep] = field(default_factory=list)
    placeholders: list[str] = field(default_factory=list)
    scope_count: int = 0
    entered: list[Scope] = field(default_factory=list)


def _slice(scopes: Scopes, project: Project, target: Target, script_args: Sequence[str]) -> Slice:
    plan = _Plan(scopes, _aliases(scopes, target))
    needed = names_read(ast.parse(target.expression, mode="eval"))
    number = _scope_steps(plan, target.scope, needed, target.stop)
    module = select(scopes, scopes.module.body, plan.needed, plan.stop, plan.models)
    steps = [*_run_steps(module, 0, plan), *plan.inner]
    spans = tuple((s.lineno, s.end_lineno or s.lineno) for s, _ in module.kept)
    return Slice(
        path=scopes.file.path,
        root=str(project.root),
        text=scopes.file.text,
        target=target.expression,
        keep=spans,
        argv=tuple(script_args),
        placeholders=tuple(dict.fromkeys(plan.placeholders)),
        stub=tuple(sorted({n.partition(".")[0] for n in scopes.imports.values() if n and not n.startswith(".")})),
        name=target.name or _name(target),
        location=target.location or _location(scopes.file, target),
        steps=tuple(steps),
        scope=number,
        models=tuple(sorted(plan.models)),
    )


def _aliases(scopes: Scopes, target: Target) -> set[str]:
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


def _run_steps(selection: Selection, scope: int, plan: _Plan) -> list[SliceStep]:
    steps = [SliceStep("share", scope=scope, name=name) for name in sorted(selection.shared)] if scope else []
    for statement, inside in selection.kept:
        at = position(statement)
        if at in selection.unknown:
            name, told = selection.unknown[at]
            steps.append(SliceStep("unknown", scope=scope, name=name, expression=name, line=at[0]))
            plan.placeholders.append(f"{name} ({told})")
        else:
            steps.append(SliceStep("run", at[0], at[1], scope, inside))
    return steps


def _scope_steps(plan: _Plan, scope: Scope, needed: set[str], stop: int) -> int:
    """Append the steps that bind `needed` in a scope, its callers' first; the number of the scope."""
    if scope.function is None:
        plan.needed |= needed
        plan.stop = min(plan.stop, stop)
        return 0
    plan.entered.append(scope)
    selection = select(plan.scopes, scope.body, needed, stop, plan.models)
    reads = selection.needed
    plan.scope_count += 1
    number = plan.scope_count
    plan.needed |= {n for n in reads if not n.startswith("self.")}
    arguments: list[SliceStep] = []
    caller_number, call = _caller_steps(plan, scope, reads)
    for name in scope.parameters:
        if scope.owner is not None and name == scope.parameters[0]:
            arguments += _self_steps(plan, scope, reads, number, name)
        elif name in reads:
            arguments.append(_argument_step(plan, scope, call, name, number, caller_number))
    arguments += [
        SliceStep("option", scope=number, name=name, expression=empty)
        for name, empty in scope.collectors.items()
        if name in reads
    ]
    plan.inner.append(SliceStep("scope", scope=number))
    plan.inner += [*arguments, *_run_steps(selection, number, plan)]
    return number


def _caller_steps(plan: _Plan, scope: Scope, reads: set[str]) -> tuple[int, ast.Call | None]:
    """The steps of the first call site of a function whose arguments are needed."""
    wanted = [p for p in scope.parameters if p in reads and p not in ("self", "cls")]
    sites = [c for c in plan.scopes.calls_of(scope) if c[0] not in plan.entered]
    if len(plan.entered) > _MAX_CALLS or not sites:
        plan.stop = min(plan.stop, _EVERYTHING)
        return 0, None
    caller, statement, call = sites[0]
    passed = [a for p in wanted if (a := argument_of(scope, call, p)) is not None]
    passed_names = set().union(*(names_read(a) for a in passed)) if passed else set()
    for name in wanted:
        argument = argument_of(scope, call, name)
        if argument is not None and name in plan.models:
            plan.models |= {place(argument)}
    if not passed:
        return 0, call
    return _scope_steps(plan, caller, passed_names, statement.lineno), call


def _argument_step(plan: _Plan, scope: Scope, call: ast.Call | None, name: str, number: int, caller: int) -> SliceStep:
    argument = argument_of(scope, call, name) if call is not None else None
    if argument is not None:
        return SliceStep(
            "bind", argument.lineno, scope=number, name=name, expression=ast.unparse(argument), source=caller
        )
    default = scope.default_of(name)
    if default is not None:
        plan.needed |= names_read(default)
        return SliceStep("option", default.lineno, scope=number, name=name, expression=ast.unparse(default))
    declared = _declared_option(scope, name)
    if declared is not None:
        return SliceStep("option", declared.lineno, scope=number, name=name, expression=ast.unparse(declared))
    configured = hydra_configuration(scope, name, plan.scopes.file.path)
    if configured is not None:
        return SliceStep("configuration", scope=number, name=name, expression=json.dumps(configured))
    plan.placeholders.append(name)
    return SliceStep("unknown", scope=number, name=name, expression=name)


def _declared_option(scope: Scope, name: str) -> ast.expr | None:
    """The default of the `click.option` or `typer` decorator that passes a parameter."""
    for decorator in scope.function.decorator_list if scope.function is not None else []:
        if not isinstance(decorator, ast.Call) or not dotted(decorator.func).endswith(("option", "argument")):
            continue
        words = [a.value for a in decorator.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if name in {w.lstrip("-").replace("-", "_").partition("/")[0] for w in words}:
            return next((k.value for k in decorator.keywords if k.arg == "default"), None)
    return None


def _self_steps(plan: _Plan, scope: Scope, reads: set[str], number: int, name: str) -> list[SliceStep]:
    """Steps that bind `self`: a bare instance in `__init__`, elsewhere the one that `__init__` filled."""
    assert scope.owner is not None
    if scope.name != "__init__":
        initialise = plan.scopes.function("__init__", scope.owner)
        attributes = {n for n in reads if n.startswith("self.")}
        if initialise is not None and initialise not in plan.entered:
            source = _scope_steps(plan, initialise, attributes, _EVERYTHING)
            return [SliceStep("bind", scope=number, name=name, expression="self", source=source)]
    plan.needed.add(scope.owner.name)
    return [SliceStep("instance", scope=number, name=name, expression=scope.owner.name, source=0)]
