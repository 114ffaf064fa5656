"""The steps that bind what a model is made from, in the functions on the way to it and in those that call them."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gradlint.source.callers import importers_of
from gradlint.source.project import Project
from gradlint.source.slice_configuration import hydra_configuration
from gradlint.source.slice_names import dotted, names_read, place
from gradlint.source.slice_scopes import Scope, Scopes
from gradlint.source.slice_statements import Selection, is_definition, position, select
from gradlint.source.slice_targets import argument_of
from gradlint.worker.protocol import SliceStep

EVERYTHING = sys.maxsize
"""A line behind all others."""
_MAX_CALLS = 8

_Site = tuple[Scope, ast.stmt, ast.Call]


@dataclass
class Plan:
    """Steps in the making, in one file: `inner` are those of functions, outermost first.

    The names of the module that are needed collect in `needed`, up to the line `stop`. `module` is the number of the
    module's scope; `numbers` counts the scopes of all files, `entered` holds those that were followed.
    """

    scopes: Scopes
    project: Project
    models: set[str] = field(default_factory=set)
    needed: set[str] = field(default_factory=set)
    stop: int = EVERYTHING
    inner: list[SliceStep] = field(default_factory=list)
    placeholders: list[str] = field(default_factory=list)
    module: int = 0
    numbers: list[int] = field(default_factory=lambda: [0])
    entered: list[Scope] = field(default_factory=list)

    def next_number(self) -> int:
        """The number of a new scope."""
        self.numbers[0] += 1
        return self.numbers[0]


def run_steps(selection: Selection, scope: int, plan: Plan) -> list[SliceStep]:
    """The steps that run what was selected of a scope."""
    shared = sorted(selection.shared) if scope != plan.module else []
    steps = [SliceStep("share", scope=scope, name=name) for name in shared]
    # A script that was a notebook may define below what it uses above.
    late = [k for k in selection.kept if scope == plan.module and k[0].lineno >= plan.stop and is_definition(k[0])]
    for statement, inside in [*late, *(k for k in selection.kept if k not in late)]:
        at = position(statement)
        if at in selection.unknown:
            names, told = selection.unknown[at]
            steps += [SliceStep("unknown", scope=scope, name=name, expression=name, line=at[0]) for name in names]
            plan.placeholders += [f"{name} ({told})" for name in names]
        else:
            steps.append(SliceStep("run", at[0], at[1], scope, inside))
    return steps


def scope_steps(plan: Plan, scope: Scope, needed: set[str], stop: int) -> int:
    """Append the steps that bind `needed` in a scope, its callers' first; the number of the scope."""
    if scope.function is None:
        plan.needed |= needed
        plan.stop = min(plan.stop, stop)
        return plan.module
    plan.entered.append(scope)
    selection = select(plan.scopes, scope.body, needed, stop, plan.models)
    reads = selection.needed
    number = plan.next_number()
    plan.needed |= {n for n in reads if not n.startswith("self.")}
    arguments: list[SliceStep] = []
    caller_number, call = _caller_steps(plan, scope, reads)
    for name in scope.parameters:
        if scope.owner is not None and name == scope.parameters[0]:
            arguments += _self_steps(plan, scope, reads, number, name)
        elif name in reads:
            arguments.append(_argument_step(plan, scope, call, name, number, caller_number))
    arguments += [
        _collector_step(scope, call, name, empty, number, caller_number)
        for name, empty in scope.collectors.items()
        if name in reads
    ]
    plan.inner.append(SliceStep("scope", scope=number, source=plan.module))
    plan.inner += [*arguments, *run_steps(selection, number, plan)]
    return number


def _caller_steps(plan: Plan, scope: Scope, reads: set[str]) -> tuple[int, ast.Call | None]:
    """The steps of the first call site of a function whose arguments are needed: in its file, else in another."""
    wanted = [p for p in scope.parameters if p in reads and p not in ("self", "cls")]
    wanted += [name for name in scope.collectors if name in reads]
    if len(plan.entered) > _MAX_CALLS:
        return plan.module, None
    site = next((c for c in plan.scopes.calls_of(scope) if c[0] not in plan.entered), None)
    if site is not None:
        return _site_steps(plan, scope, site, wanted)
    other = next(_calls_elsewhere(plan, scope), None) if wanted else None
    if other is None:
        return plan.module, None
    scopes, site = other
    there = Plan(scopes, plan.project, module=plan.next_number(), numbers=plan.numbers, entered=plan.entered)
    if any(p in plan.models for p in wanted):
        there.models = {place(a) for p in wanted if p in plan.models and (a := argument_of(scope, site[2], p))}
    caller, call = _site_steps(there, scope, site, wanted)
    module = select(scopes, scopes.module.body, there.needed, there.stop, there.models)
    steps = [SliceStep("scope", scope=there.module), *run_steps(module, there.module, there), *there.inner]
    plan.inner += [replace(step, path=scopes.file.path) for step in steps]
    plan.placeholders += there.placeholders
    return caller, call


def _site_steps(plan: Plan, scope: Scope, site: _Site, wanted: list[str]) -> tuple[int, ast.Call]:
    caller, statement, call = site
    passed = [a for p in wanted if (a := argument_of(scope, call, p)) is not None]
    packed: list[ast.expr] = [k.value for k in call.keywords if k.arg is None]
    packed += [a.value for a in call.args if isinstance(a, ast.Starred)]
    if set(scope.collectors) & set(wanted):
        packed += [*call.args, *(k.value for k in call.keywords)]
    for name in wanted:
        argument = argument_of(scope, call, name)
        if argument is not None and name in plan.models:
            plan.models |= {place(argument)}
    if not passed and not packed:
        return plan.module, call
    names = set().union(*(names_read(a) for a in (*passed, *packed)))
    return scope_steps(plan, caller, names, statement.lineno), call


def _calls_elsewhere(plan: Plan, scope: Scope) -> Iterator[tuple[Scopes, _Site]]:
    """Where other files of the project call a function, or construct its class."""
    if scope.owner is not None and scope.name != "__init__":
        return
    name = scope.owner.name if scope.owner is not None else scope.name
    for file in importers_of(plan.project).of(plan.scopes.file, name):
        scopes = Scopes(file)
        imported = {local for local, full in scopes.imports.items() if full.rpartition(".")[2] == name} | {name}
        for site in scopes.calls:
            called = dotted(site[2].func)
            if called in imported or called.endswith(f".{name}"):
                yield scopes, site
                break


def _collector_step(scope: Scope, call: ast.Call | None, name: str, empty: str, number: int, caller: int) -> SliceStep:
    """What `*args` or `**kwargs` is bound to: what a call passes beyond the named parameters."""
    if call is None:
        return SliceStep("option", scope=number, name=name, expression=empty)
    if empty == "()":
        beyond = call.args[len([p for p in scope.positional if p not in ("self", "cls")]) :]
        expression = f"({''.join(ast.unparse(a) + ', ' for a in beyond)})"
    else:
        kept = [k for k in call.keywords if k.arg is None or k.arg not in scope.parameters]
        expression = f"dict({', '.join(ast.unparse(k) for k in kept)})"
    return SliceStep("bind", call.lineno, scope=number, name=name, expression=expression, source=caller)


def _argument_step(plan: Plan, scope: Scope, call: ast.Call | None, name: str, number: int, caller: int) -> SliceStep:
    argument = argument_of(scope, call, name) if call is not None else None
    if argument is not None:
        return SliceStep(
            "bind", argument.lineno, scope=number, name=name, expression=ast.unparse(argument), source=caller
        )
    default = scope.default_of(name)
    packed = next((k.value for k in call.keywords if k.arg is None), None) if call is not None else None
    if packed is not None and (default is None or isinstance(default, ast.Constant)):
        expression = f"dict({ast.unparse(packed)})" + (
            f"[{name!r}]" if default is None else f".get({name!r}, {ast.unparse(default)})"
        )
        return SliceStep("bind", packed.lineno, scope=number, name=name, expression=expression, source=caller)
    if default is not None:
        plan.needed |= names_read(default)
        expression = ast.unparse(default)
        return SliceStep("option", default.lineno, scope=number, name=name, expression=expression, source=plan.module)
    declared = _declared_option(scope, name)
    if declared is not None:
        expression = ast.unparse(declared)
        return SliceStep("option", declared.lineno, scope=number, name=name, expression=expression, source=plan.module)
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


def _self_steps(plan: Plan, scope: Scope, reads: set[str], number: int, name: str) -> list[SliceStep]:
    """Steps that bind `self`: a bare instance in `__init__`, elsewhere the one that `__init__` filled."""
    assert scope.owner is not None
    if scope.name != "__init__":
        initialise = plan.scopes.function("__init__", scope.owner)
        attributes = {n for n in reads if n.startswith("self.")}
        if initialise is not None and initialise not in plan.entered:
            source = scope_steps(plan, initialise, attributes, EVERYTHING)
            return [SliceStep("bind", scope=number, name=name, expression="self", source=source)]
    plan.needed.add(scope.owner.name)
    return [SliceStep("instance", scope=number, name=name, expression=scope.owner.name, source=plan.module)]
