"""The state of the abstract machine that reads source, and the names in its files."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from gradlint.source.project import Project, SourceFile
from gradlint.source.reader.assumptions import Assumptions
from gradlint.source.reader.layers import CONTAINERS, LAYERS
from gradlint.source.reader.operations import Operations
from gradlint.source.reader.resnet_library import resnet_library
from gradlint.source.reader.values import (
    External,
    Frame,
    Function,
    Jump,
    Module,
    Site,
    Unknown,
    absorbing,
    repeated,
)
from gradlint.source.walking import child_nodes, walk

MAX_STEPS = 200_000
"""Evaluated syntax nodes per file or per forward pass: about half a second."""

MISSING = object()
"""Stands for an attribute that was not there."""

MAX_DEPTH = 60
"""Nested calls; deeper recursion in model code is recursion over data."""


MAX_NAMES = 4_096
"""Dotted names whose spelling is kept; the reader meets the same few hundred over and over."""


@dataclass(eq=False)
class FileScope:
    """Which statements of a file bind a name, for files that are read on demand."""

    bindings: dict[str, list[ast.stmt]] = field(default_factory=dict)
    stars: list[Any] = field(default_factory=list)


def bound_names(statement: ast.stmt) -> set[str]:
    """The module-level names that a statement binds or changes."""
    names: set[str] = set()
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            names.add(name)
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            names.update((a.asname or a.name.split(".")[0]) for a in aliases)
        case ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.Delete():
            targets = statement.targets if isinstance(statement, (ast.Assign, ast.Delete)) else [statement.target]
            for target in targets:
                names.update(n.id for n in walk(target) if isinstance(n, ast.Name))
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            names.add(name)
        case ast.If() | ast.Try() | ast.With() | ast.For() | ast.While():
            for child in child_nodes(statement):
                if isinstance(child, ast.stmt):
                    names |= bound_names(child)
                elif isinstance(child, ast.ExceptHandler):
                    for inner in child.body:
                        names |= bound_names(inner)
            if isinstance(statement, ast.For):
                names.update(n.id for n in walk(statement.target) if isinstance(n, ast.Name))
    return names


def is_main_guard(statement: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__":`."""
    return isinstance(statement, ast.If) and any(
        isinstance(n, ast.Name) and n.id == "__name__" for n in walk(statement.test)
    )


@lru_cache(MAX_NAMES)
def canonical(name: str) -> str:
    """A dotted name as torch's documentation spells it."""
    for prefix in ("torch.nn.modules.", "torch.nn.parameter."):
        if name.startswith(prefix):
            last = name.rpartition(".")[2]
            return f"torch.nn.{last}" if last[:1].isupper() or last.startswith("_") else name
    if name.startswith("torch.functional."):
        return "torch." + name.rpartition(".")[2]
    return name


class _Methods(dict[type[ast.AST], Callable[[Any, Frame], Any]]):
    """A machine's method for each kind of syntax node, `_of_KIND` or `_run_KIND`, looked up once a kind."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def __missing__(self, kind: type[ast.AST]) -> Callable[[Any, Frame], Any]:
        verb = "_run" if issubclass(kind, ast.stmt) else "_of"
        other = getattr(self._machine, f"{verb}_other")
        found: Callable[[Any, Frame], Any] = getattr(self._machine, f"{verb}_{kind.__name__.lower()}", other)
        self[kind] = found
        return found


class Machine(ABC):
    """State shared by everything that evaluates: budgets, files, the modules made so far, the graph if any."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.home = ""
        self.frames: dict[str, Frame] = {}
        self.operations: Operations | None = None
        self.methods = _Methods(self)
        self.modules: list[Module] = []
        self.steps = 0
        self.limit = MAX_STEPS
        self.depth = 0
        self.building = 0
        self.phase = 0
        self.events = 0
        self.trained = False
        self.attempts = 0
        self.resumed: list[tuple[Module, Site, int]] = []
        self.assumptions = Assumptions()
        self.uncertain = 0
        self.rounds = 0
        self.conditions: list[tuple[ast.expr, bool]] = []
        self.containers: dict[int, tuple[Any, int, int]] = {}
        self.regions = 0
        self.branches = 0
        self.doubtful = 0
        self.doubt_began = 0
        self.most_doubtful = 0
        self.running: dict[ast.AST, int] = {}
        self.writes: list[list[tuple[dict[str, Any], str, Any]]] = []
        self.decisions: dict[tuple[str, int], int] = {}
        self.forks: dict[tuple[str, int], int] = {}

    @abstractmethod
    def evaluate(self, node: ast.expr, frame: Frame) -> Any:
        """The value of an expression."""

    @abstractmethod
    def execute(self, statements: list[ast.stmt], frame: Frame) -> Jump | None:
        """Run statements; None, or the Jump that ended them."""

    @abstractmethod
    def call(self, callee: Any, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """Call a value."""

    @abstractmethod
    def attribute(self, value: Any, name: str, site: Site) -> Any:
        """value.name."""

    @abstractmethod
    def items(self, value: Any, site: Site) -> list[Any] | None:
        """The elements of an iterable, None if they are not known."""

    @abstractmethod
    def truth(self, value: Any) -> bool | None:
        """Whether a value is true, None if that is not known."""

    @abstractmethod
    def call_function(
        self, function: Function, args: list[Any], kwargs: dict[str, Any], site: Site, receiver: Any = None
    ) -> Any:
        """Call a function of the project."""

    def write(self, table: dict[str, Any], name: str, value: Any) -> None:
        """Set table[name], remembering the old value while the condition for it is not known."""
        if self.writes:
            self.writes[-1].append((table, name, table.get(name, MISSING)))
        table[name] = value

    def made(self, container: Any) -> Any:
        """A new container, remembered with the unknown conditions and loops around it where there are any."""
        if self.uncertain or self.rounds:
            self.containers[id(container)] = (container, self.uncertain, self.rounds)
        return container

    def around(self, container: Any) -> tuple[int, int]:
        """How many unknown conditions, and loops of unknown length, stand between a container and this place."""
        _, uncertain, rounds = self.containers.get(id(container), (None, 0, 0))
        return self.uncertain - uncertain, self.rounds - rounds

    def placed(self, value: Any, container: Any) -> Any:
        """A layer as a container holds it, where it may not be sure that it is there, or how often."""
        conditions, loops = self.around(container)
        if conditions > 0:
            return absorbing(value, *(self.conditions[-1] if conditions == 1 and self.conditions else ()))
        return repeated(value) if loops > 0 else value

    # -- files ---------------------------------------------------------------------------------------------------

    def file_frame(self, file: SourceFile) -> Frame:
        """The names of a file of the project, read on demand."""
        frame = self.frames.get(file.path)
        if frame is None:
            scope = FileScope()
            for statement in file.tree.body:
                if is_main_guard(statement):
                    continue
                if isinstance(statement, ast.ImportFrom) and any(a.name == "*" for a in statement.names):
                    scope.stars.append(statement)
                    continue
                for name in bound_names(statement):
                    scope.bindings.setdefault(name, []).append(statement)
            frame = self.frames[file.path] = Frame(file, {"__name__": file.module or "module"}, scope=scope)
            frame.names["__file__"] = file.path
        return frame

    def in_file(self, frame: Frame, name: str) -> Any:
        """The module-level name of a file, or None if the file does not bind it."""
        if name in frame.names:
            return frame.names[name]
        scope: FileScope = frame.scope
        statements = scope.bindings.pop(name, None)
        if statements is not None:
            kept, self.operations = self.operations, None
            building, self.building = self.building, 0
            try:
                for statement in statements:
                    self.execute([statement], frame)
            finally:
                self.operations, self.building = kept, building
            if name in frame.names:
                return frame.names[name]
        for star in scope.stars:
            found = self._through_star(star, frame, name)
            if found is not None:
                return found
        return None

    def _through_star(self, star: ast.ImportFrom, frame: Frame, name: str) -> Any:
        source = self.project.module(star.module or "", frame.file, star.level)
        if source is not None and source is not frame.file:
            if name.startswith("_"):
                return None
            frame.scope.stars.remove(star)
            try:
                return self.in_file(self.file_frame(source), name)
            finally:
                frame.scope.stars.append(star)
        module = canonical(star.module or "")
        if star.level == 0 and (
            (
                module == "torch.nn"
                and (name in LAYERS or name in CONTAINERS or name in ("Module", "Parameter", "functional", "init"))
            )
            or (module == "torch.nn.functional" and name.islower())
            or (module == "torch" and name in ("nn", "optim", "randn", "cat", "tanh", "sigmoid", "relu"))
            or (module == "math" and name in ("sqrt", "log", "pi", "floor", "ceil"))
            or (module.startswith("torch.nn.init") and name.endswith("_"))
        ):
            return External(canonical(f"{module}.{name}"))
        return None

    def import_module(self, name: str, frame: Frame, level: int = 0) -> Any:
        """What `import name` means: a file's frame or something outside."""
        file = self.project.module(name, frame.file, level)
        if file is not None and not (name.split(".", maxsplit=1)[0] in ("torch", "numpy", "math") and level == 0):
            return self.file_frame(file)
        return External(canonical(name))

    def import_from(self, module: str, name: str, frame: Frame, level: int) -> Any:
        """What `from module import name` means."""
        source = self.import_module(module, frame, level)
        if isinstance(source, Frame):
            if source is not frame or name in source.names:
                found = self.in_file(source, name)
                if found is not None:
                    return found
            inner = self.project.module(f"{module}.{name}" if module else name, frame.file, level)
            return self.file_frame(inner) if inner else Unknown(f"`{module or '.'}` has no `{name}`")
        dotted = f"{module}.{name}" if module else name
        inner = self.project.module(dotted, frame.file, level)
        if inner is not None:
            return self.file_frame(inner)
        return Unknown(f"`{name}` is not in the project") if level else self.outside(canonical(dotted))

    def outside(self, name: str) -> Any:
        """What a dotted name from outside the project means: what is written in the library, or only its name."""
        source = resnet_library(name)
        found = self.in_file(self.file_frame(source), name.rpartition(".")[2]) if source is not None else None
        return External(name) if found is None else found

    def submodules(self, prefix: str, frame: Frame) -> list[str]:
        """The dotted names of the files that a partly known module name can mean."""
        package = prefix.rpartition(".")[0]
        if not package or prefix != package + ".":
            return []
        folder = Path(*package.split("."))
        for base in (Path(frame.file.path).parent, self.project.root):
            names = self.project.names_in(base / folder)
            if names:
                stems = [n.removesuffix(".py") for n in sorted(names) if n.endswith(".py")][:32]
                return [f"{package}.{stem}" for stem in stems if not stem.startswith("_")]
        return []

    # -- names ---------------------------------------------------------------------------------------------------

    def lookup(self, name: str, frame: Frame) -> Any:
        """The value of a name where it is used; None if it is bound nowhere."""
        current: Frame | None = frame.outward.get(name, frame)
        while current is not None:
            if name in current.names:
                return current.names[name]
            if current.scope is not None:
                return self.in_file(current, name)
            current = current.outer
        return None
