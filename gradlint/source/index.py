"""What a file binds and calls, scope by scope."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from gradlint.location import Location
from gradlint.source.project import SourceFile
from gradlint.source.walking import walk

Position = tuple[int, int]
"""Line and byte column, as `ast` counts them."""


END: Position = (1 << 60, 0)
"""After everything: where a function that is called later sees its module."""


CONDITIONAL = frozenset({"if", "case", "handler", "loop-else"})
"""Blocks that may not run; a loop's body and a `try` are taken to run."""


@dataclass(eq=False, slots=True)
class Block:
    """A branch of a compound statement: `branch` counts from 0 within `owner`; `test` is an `if`'s condition.

    `sibling_exits`: the other branch ends in raise, return, continue, break or sys.exit.
    """

    owner: ast.AST
    branch: int
    kind: str
    start: Position
    end: Position
    test: ast.expr | None = None
    sibling_exits: bool = False


Path = tuple[Block, ...]


@dataclass(eq=False, slots=True)
class Binding:
    """One place that gives a name (or a dotted or subscripted target) a value.

    `kind`: assign, augment, for, with, import, from, function, class, parameter, except. `value` is the expression;
    `unpack` the indices that lead from it to the name in `a, (b, c) = value`. `span` limits a comprehension's variable.
    """

    name: str
    kind: str
    node: ast.AST
    position: Position
    path: Path
    value: ast.expr | None = None
    unpack: tuple[int, ...] = ()
    span: tuple[Position, Position] | None = None
    scope: Scope | None = None


@dataclass(eq=False, slots=True)
class CallSite:
    """A call, the scope it stands in, the branches around it, and the last name of its callee, "" if it has none."""

    node: ast.Call
    scope: Scope
    path: Path
    name: str


@dataclass(eq=False, slots=True)
class Scope:
    """A module, class, function or lambda, and what it binds.

    `words` are the names and attributes that it reads, and "**" where it takes a power.
    """

    kind: str
    name: str
    node: ast.AST
    file: SourceFile
    parent: Scope | None = None
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    stores: dict[str, list[Binding]] = field(default_factory=dict)
    attributes: dict[str, list[Binding]] = field(default_factory=dict)
    stars: list[tuple[str, int]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    calls: list[CallSite] = field(default_factory=list)
    children: list[Scope] = field(default_factory=list)
    returns: list[tuple[ast.expr, Path]] = field(default_factory=list)
    globals: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    _holders: dict[int, list[str]] | None = None
    _all_calls: list[CallSite] | None = None
    _filled: set[str] | None = None

    @property
    def qualified_name(self) -> str:
        """`Class.method` within the file; "" for the module."""
        if self.parent is None:
            return ""
        outer = self.parent.qualified_name
        return f"{outer}.{self.name}" if outer else self.name

    @property
    def owner_class(self) -> Scope | None:
        """The class whose method this function is."""
        return self.parent if self.kind == "function" and self.parent and self.parent.kind == "class" else None

    @property
    def parameters(self) -> ast.arguments | None:
        """The parameters of a function or lambda."""
        return self.node.args if isinstance(self.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) else None

    @property
    def is_static(self) -> bool:
        """A `@staticmethod`."""
        decorators = getattr(self.node, "decorator_list", ())
        return any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in decorators)

    def path_at(self, position: Position) -> Path:
        """The blocks of this scope around a position, outermost first."""
        found = []
        for block in self.blocks:
            if block.start > position:
                break
            if position < block.end:
                found.append(block)
        return tuple(found)

    def path_around(self, position: Position, bindings: list[Binding]) -> Path:
        """`path_at`, as far as it bears on which of the bindings reach the position."""
        for binding in bindings:
            if binding.path:
                return self.path_at(position)
        return ()

    def holders(self, value: ast.expr) -> list[str]:
        """The names, then the attributes and subscripts, that this very expression is assigned to in this scope."""
        if self._holders is None:
            self._holders = {}
            for table in (self.bindings, self.stores):
                for name, bindings in table.items():
                    for held in dict.fromkeys(id(b.value) for b in bindings if b.value is not None):
                        self._holders.setdefault(held, []).append(name)
        return self._holders.get(id(value), [])

    def sees_module(self, name: str) -> bool:
        """Whether a name means, wherever it stands in this function, what the module calls so once it has run."""
        if self.kind in {"module", "class"}:
            return False
        scope: Scope | None = self
        while scope is not None and scope.kind != "module":
            if name in scope.bindings and name not in scope.globals and scope.kind != "class":
                return False
            scope = scope.parent
        return True

    def method(self, name: str) -> Scope | None:
        """The function of that name defined directly in this scope (the last one wins)."""
        return next((c for c in reversed(self.children) if c.kind == "function" and c.name == name), None)

    def all_calls(self) -> list[CallSite]:
        """The calls here and in every scope inside, gathered at the first question."""
        if self._all_calls is None:
            self._all_calls = [*self.calls, *(s for child in self.children for s in child.all_calls())]
        return self._all_calls

    def filled(self) -> set[str]:
        """The variables that are written to in place, gathered at the first question."""
        if self._filled is None:
            self._filled = {name for node in walk(self.node) if (name := _filled_by(node))}
        return self._filled

    def imports(self) -> Iterator[tuple[str, int]]:
        """The modules that the imports of this scope may mean, with the number of leading dots."""
        yield from self.stars
        for binding in (b for bindings in self.bindings.values() for b in bindings):
            match binding.node:
                case ast.alias(name=name) if binding.kind == "import":
                    yield name, 0
                case ast.ImportFrom(module=module, names=names, level=level):
                    name = names[binding.unpack[0]].name
                    yield module or "", level
                    yield (f"{module}.{name}" if module else name), level


@dataclass(eq=False, slots=True)
class FileIndex:
    """A file's scopes (module first), its calls by the last name of their callee, and which attributes it stores."""

    file: SourceFile
    module: Scope
    scopes: list[Scope]
    calls_by_name: dict[str, list[CallSite]]
    scope_of: dict[int, Scope]
    stored: set[str]
    flags: dict[str, list[CallSite]] | None = None
    _twins: dict[tuple[str, ...], tuple[ast.Attribute, Scope]] = field(default_factory=dict)
    _imports: list[tuple[str, int]] | None = None
    _import_names: dict[str, set[str]] | None = None

    @property
    def classes(self) -> list[Scope]:
        """All classes, in source order."""
        return [s for s in self.scopes if s.kind == "class"]

    def twin(self, node: ast.Attribute, scope: Scope) -> tuple[ast.Attribute, Scope] | None:
        """The first such attribute of the file, where all that are written so mean the same: `nn.Linear`.

        None where they may not: it belongs to no name of the module, or something stores an attribute of that name.
        """
        key: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            if inner.attr in self.stored:
                return None
            key.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name) or not scope.sees_module(inner.id):
            return None
        return self._twins.setdefault((*key, inner.id), (node, scope))

    def imports(self) -> list[tuple[str, int]]:
        """The modules that the file's imports may mean, each once, with the number of leading dots."""
        if self._imports is None:
            self._imports = list(dict.fromkeys(i for s in self.scopes for i in s.imports()))
        return self._imports

    def import_names(self, name: str) -> set[str]:
        """The names under which the file's `from` imports bind something that is called `name` where it comes from."""
        if self._import_names is None:
            self._import_names = {}
            bound = ((n, b) for s in self.scopes for n, bindings in s.bindings.items() for b in bindings)
            for local, binding in bound:
                if binding.kind == "from" and isinstance(binding.node, ast.ImportFrom):
                    own = binding.node.names[binding.unpack[0]].name
                    self._import_names.setdefault(own, set()).add(local)
        return self._import_names.get(name, set())


def dotted(node: ast.AST) -> str | None:
    """`a.b["c"].d` as a key, or None for anything else."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            base = dotted(node.value)
            return f"{base}.{node.attr}" if base else None
        case ast.Subscript(slice=ast.Constant(value=value)) if isinstance(value, (str, int)):
            base = dotted(node.value)
            return f"{base}[{value!r}]" if base else None
    return None


def _filled_by(node: ast.AST) -> str | None:
    """The variable that a node writes to in place: `x[i].y = …`, `x.clamp_(0)`."""
    match node:
        case ast.Subscript(ctx=ast.Store()):
            inner: ast.expr = node.value
            while isinstance(inner, (ast.Subscript, ast.Attribute)):
                inner = inner.value
            return inner.id if isinstance(inner, ast.Name) else None
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if attr.endswith("_"):
            return name if attr != "requires_grad_" else None
    return None


def terminal_name(node: ast.AST) -> str:
    """The last name of a callee: `step` of `self.opt.step`, "" if it has none."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return node.attr
    return ""


def position_of(node: ast.AST) -> Position:
    """Where a node begins."""
    return (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))


def end_of(node: ast.AST) -> Position:
    """Where a node ends."""
    return (getattr(node, "end_lineno", 0) or 0, getattr(node, "end_col_offset", 0) or 0)


def location(file: SourceFile, node: ast.AST) -> Location:
    """The span of a node in characters."""
    line, offset = position_of(node)
    end_line, end_offset = end_of(node)
    if not line:
        return Location(file.path, 1)
    return Location(file.path, line, file.column(line, offset), end_line, file.column(end_line, end_offset))


def source_of(file: SourceFile, node: ast.AST) -> str:
    """The text of a node as written."""
    (line, start), (last, end) = position_of(node), end_of(node)
    lines = file.lines[line - 1 : last]
    if not lines:
        return ""
    lines[-1] = lines[-1][: file.column(last, end) - 1]
    lines[0] = lines[0][file.column(line, start) - 1 :]
    return "\n".join(lines)


def first_parameter(scope: Scope) -> str | None:
    """The name of a function's first parameter (`self`), or None."""
    arguments = scope.parameters
    if arguments is None:
        return None
    named = (*arguments.posonlyargs, *arguments.args)
    return named[0].arg if named else None
