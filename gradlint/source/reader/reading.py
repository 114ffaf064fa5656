"""Which models a file holds: its statements in order, then what nothing in it calls."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

from gradlint.graph.model import ModelGraph
from gradlint.location import Location
from gradlint.source.project import Project, SourceFile
from gradlint.source.reader.machine import MAX_STEPS, FileScope
from gradlint.source.reader.statements import Statements
from gradlint.source.reader.tracing import Tracer, is_model
from gradlint.source.reader.values import (
    Bound,
    Frame,
    Function,
    Instance,
    OutOfStepsError,
    Unknown,
    UserClass,
    is_plain,
    site_of,
)
from gradlint.source.walking import walk

MAX_MODELS = 48
"""Graphs of one file; a file with more models is a zoo whose further members are left out."""

MAX_FORKS = 16
"""Modules tried where `importlib.import_module` gets a name that is only partly known."""

RECURSION = 8_000

CONFIGURATIONS = frozenset(["config", "cfg", "conf", "configs", "params", "hparams", "model_args", "args"])
"""Argument names under which people pass the one configuration class of a file."""

CONFIGURATION_CLASSES = ("Config", "Args", "Configuration", "Params", "Hyperparameters", "Hparams", "Settings")
"""How such a class is called."""

MAX_OPERATIONS = 12_000
"""Operations in all graphs of one file; further models are named and left unread."""

MAX_LITERALS = 4


def read_models(file: SourceFile, project: Project, strict: bool = False) -> list[ModelGraph]:
    """One graph for each model that the file makes, and for each nn.Module class in it that nothing makes.

    Deterministic; never raises for what the user wrote (with `strict`, faults of the reader itself are raised).
    """
    graphs: list[ModelGraph] = []
    seen: dict[object, list[ModelGraph]] = {}
    with _deep_recursion():
        decisions: list[dict[tuple[str, int], int]] = [{}]
        for n, decision in enumerate(decisions):
            reading = _Reading(file, project, decision, strict)
            for graph in reading.graphs():
                alike = seen.setdefault((graph.location, graph.name, len(graph.nodes)), [])
                if len(graphs) < MAX_MODELS and not any(_same(graph, g) for g in alike):
                    alike.append(graph)
                    graphs.append(graph)
            if n == 0:
                for site, count in sorted(reading.machine.forks.items()):
                    decisions += [{site: i} for i in range(1, min(count, MAX_FORKS))]
    return graphs


def _same(a: ModelGraph, b: ModelGraph) -> bool:
    return a.nodes == b.nodes and a.parameters == b.parameters


def read_model(file: SourceFile, project: Project, wanted: Location | str) -> ModelGraph | None:
    """The graph of the model that is constructed at a location, or of a class by its name; None if there is none."""
    graphs = read_models(file, project)
    if isinstance(wanted, str):
        named = [g for g in graphs if wanted in (g.class_name, g.name)]
        return named[0] if named else None
    here = [g for g in graphs if g.location is not None and g.location.path == wanted.path]
    exact = [g for g in here if g.location and (g.location.line, g.location.column) == (wanted.line, wanted.column)]
    near = [g for g in here if g.location and g.location.line <= wanted.line <= g.location.end_line]
    return next(iter(exact or near), None)


@contextmanager
def _deep_recursion() -> Iterator[None]:
    """Nested modules of the user's code are nested calls here."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class _Reading:
    """One pass over a file under one set of decisions."""

    def __init__(self, file: SourceFile, project: Project, decisions: dict[tuple[str, int], int], strict: bool) -> None:
        self.file = file
        self.strict = strict
        self.machine = Statements(project)
        self.machine.home = file.path
        self.machine.decisions = decisions
        self.frame = Frame(file, {"__name__": "__main__", "__file__": file.path}, scope=FileScope())
        self.machine.frames[file.path] = self.frame
        self.training_phases: set[int] = set()

    @cached_property
    def loads(self) -> list[tuple[ast.stmt, set[str]]]:
        """The names that each top-level statement reads."""
        return _loaded_names(self.file.tree)

    def graphs(self) -> list[ModelGraph]:
        """Run everything, then trace every model that was made, in the order of making."""
        self._guarded(lambda: self.machine.execute(self.file.tree.body, self.frame))
        self._explore_functions()
        self._explore_classes()
        self._explore_models()
        self._settle_resumed()
        tracer = Tracer(self.machine, self.strict)
        found: list[ModelGraph] = []
        for module in list(self.machine.modules):
            if is_model(module) and len(found) < MAX_MODELS:
                self.machine.phase = module.phase
                tracer.room = MAX_OPERATIONS - sum(len(g.nodes) for g in found)
                found += tracer.trace(module)
        return found + self._from_defaults(tracer, found)

    def _settle_resumed(self) -> None:
        """A model that is loaded if its file is there, in a run that trains nothing, holds what another run trained.

        Where only one model of the class is made, it may as well be trained by code that is not read here; but not
        where the load is tried and its failure passed over, which programs that only run a model do as well.
        """
        resumed = {id(m) for m, _, _ in self.machine.resumed}
        anew = {id(m.cls) for m in self.machine.modules if id(m) not in resumed and not m.inner}
        for module, site, tried in self.machine.resumed:
            if module.phase not in self.training_phases and (tried or id(module.cls) in anew):
                self.machine.take_checkpoint(module, site)

    def _from_defaults(self, tracer: Tracer, found: list[ModelGraph]) -> list[ModelGraph]:
        """Classes of this file of which no instance could be read to the end, built from the defaults they declare."""
        added: list[ModelGraph] = []
        for cls in self._own(UserClass):
            mine = [g for g in found if g.class_name == cls.name]
            init = cls.find("__init__") if cls.is_module else None
            if not mine or not all(g.stopped_at for g in mine) or not isinstance(init, Function):
                continue
            spec = init.node.args
            if not init.defaults or len(init.defaults) < len([*spec.posonlyargs, *spec.args]) - 1:
                continue
            count = len(self.machine.modules)
            self._construct(cls)
            for module in self.machine.modules[count:]:
                if is_model(module):
                    made = tracer.trace(module)
                    note = "built from the defaults of the class, for the arguments of its calls are not known"
                    added += [replace(g, notes=(*g.notes, note)) for g in made if g.stopped_at is None]
        return added

    def _guarded(self, action: Any) -> None:
        machine = self.machine
        machine.steps, machine.limit = 0, MAX_STEPS
        machine.depth = machine.regions = machine.attempts = machine.uncertain = machine.rounds = machine.building = 0
        machine.branches = machine.doubtful = 0
        machine.running = {}
        machine.writes, machine.conditions = [], []
        machine.trained = False
        try:
            action()
        except (OutOfStepsError, RecursionError):
            return
        except Exception:
            if self.strict:
                raise
        finally:
            if machine.trained:
                self.training_phases.add(machine.phase)

    def _own(self, kind: type) -> list[Any]:
        names = self.frame.names.items()
        return [v for _, v in names if isinstance(v, kind) and getattr(v, "frame", self.frame) is self.frame]

    def _next_phase(self) -> None:
        self.machine.phase += 1

    def _explore_functions(self) -> None:
        """Call what nothing calls; first what nothing even mentions, for it calls the others with real arguments."""
        functions = [f for f in self._own(Function) if not f.called and not f.name.startswith("<")]
        mentioned = _mentioned_names(self.loads) if functions else set()
        for function in [*(f for f in functions if f.name not in mentioned), *functions]:
            if not function.called:
                self._next_phase()
                site = site_of(self.file, function.node)
                self._guarded(lambda f=function, s=site: self.machine.call(f, self._arguments(f), {}, s))

    def _explore_classes(self) -> None:
        for cls in self._own(UserClass):
            if not cls.is_module and not cls.instantiated:
                self._next_phase()
                site = site_of(self.file, cls.node)
                made: list[Any] = []
                self._guarded(lambda c=cls, s=site, m=made: m.append(self.machine.construct(c, [], {}, s)))
                if made and isinstance(made[0], Instance):
                    self._call_methods(made[0], cls)

    def _call_methods(self, instance: Instance, cls: UserClass) -> None:
        for name, member in list(cls.members.items()):
            if (
                isinstance(member, Function)
                and not member.called
                and not name.startswith("__")
                and member.role == "plain"
            ):
                self._next_phase()
                site = site_of(self.file, member.node)
                self._guarded(lambda m=member, s=site: self.machine.call(Bound(m, instance), [], {}, s))

    def _explore_models(self) -> None:
        classes = [c for c in self._own(UserClass) if c.is_module and not c.instantiated]
        used = {name: _names_used_by_others(name, self.loads) for name in (c.name for c in classes)}
        for cls in classes:
            if not cls.instantiated and not used[cls.name]:
                self._construct(cls)
        for cls in classes:
            if not cls.instantiated and used[cls.name] == {"function"}:
                self._construct(cls)

    def _construct(self, cls: UserClass) -> None:
        """An instance from the class's own defaults; one for each value of a `Literal` argument."""
        site = site_of(self.file, cls.node)
        init = cls.find("__init__")
        arguments = self._arguments(init, 1) if isinstance(init, Function) else []
        for values in _literal_alternatives(init, arguments) if isinstance(init, Function) else [arguments]:
            self._next_phase()
            self._guarded(lambda v=values: self.machine.construct_module(cls, v, {}, site))

    def _arguments(self, function: Function, skip: int = 0) -> list[Any]:
        """What is declared for required arguments: the configuration class of the file for `config`, else Unknown."""
        spec = function.node.args
        names = [*spec.posonlyargs, *spec.args][skip:]
        required = names[: len(names) - len(function.defaults)] if function.defaults else names
        return [self._declared(a, function) for a in required]

    def _declared(self, argument: ast.arg, function: Function) -> Any:
        annotated = argument.annotation
        wanted = ast.unparse(annotated).strip("'\"").rpartition(".")[2] if annotated is not None else ""
        named = [c for c in self._configurations() if c.name == wanted]
        if not named and argument.arg in CONFIGURATIONS and not wanted:
            named = [c for c in self._configurations() if c.name.endswith(CONFIGURATION_CLASSES)]
        if len(named) != 1:
            return Unknown(f"the argument `{argument.arg}` of `{function.name}` is not known")
        return self.machine.construct(named[0], [], {}, site_of(self.file, argument))

    def _configurations(self) -> list[UserClass]:
        """The classes of settings that the file defines or imports: those that need no arguments."""
        names = self.frame.names.values()
        classes = {id(c): c for c in names if isinstance(c, UserClass) and not c.is_module}
        return [c for c in classes.values() if c.is_record or _holds_settings(c)]


def _holds_settings(cls: UserClass) -> bool:
    """Whether a class can be made without arguments and declares values of its own."""
    init = cls.find("__init__")
    if isinstance(init, Function):
        spec = init.node.args
        return len(init.defaults) >= len([*spec.posonlyargs, *spec.args]) - 1
    return any(is_plain(v) for n, v in cls.members.items() if not n.startswith("__"))


def _names_used_by_others(name: str, loads: list[tuple[ast.stmt, set[str]]]) -> set[str]:
    """Whether the name is read in another "class" or in a "function" of the file."""
    found: set[str] = set()
    for statement, names in loads:
        if name in names and not (isinstance(statement, ast.ClassDef) and statement.name == name):
            found.add("class" if isinstance(statement, ast.ClassDef) else "function")
    return found


def _mentioned_names(loads: list[tuple[ast.stmt, set[str]]]) -> set[str]:
    """Functions that the file mentions outside their own bodies."""
    found: set[str] = set()
    for statement, names in loads:
        own = statement.name if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) else None
        found |= names - {own}
    return found


def _loaded_names(tree: ast.Module) -> list[tuple[ast.stmt, set[str]]]:
    """The names that each top-level statement reads."""
    return [(s, {n.id for n in walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}) for s in tree.body]


def _literal_alternatives(init: Function, arguments: list[Any]) -> list[list[Any]]:
    """The argument lists for each value of the first argument that is annotated `Literal[...]`."""
    spec = init.node.args
    for index, argument in enumerate([*spec.posonlyargs, *spec.args][1 : 1 + len(arguments)]):
        match argument.annotation:
            case ast.Subscript(value=ast.Name(id="Literal") | ast.Attribute(attr="Literal"), slice=values):
                options = values.elts if isinstance(values, ast.Tuple) else [values]
                constants = [o.value for o in options if isinstance(o, ast.Constant)][:MAX_LITERALS]
                return [[*arguments[:index], c, *arguments[index + 1 :]] for c in constants] or [arguments]
    return [arguments]
