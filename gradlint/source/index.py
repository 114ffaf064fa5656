"""One walk over a file's tree: its scopes, what each binds, and its calls by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from gradlint.location import Location
from gradlint.source.project import SourceFile

Position = tuple[int, int]
"""Line and byte column, as `ast` counts them."""

END: Position = (1 << 60, 0)
"""After everything: where a function that is called later sees its module."""

CONDITIONAL = frozenset({"if", "case", "handler", "loop-else"})
"""Blocks that may not run; a loop's body and a `try` are taken to run."""


@dataclass(eq=False, slots=True)
class Block:
    """A branch of a compound statement: `branch` counts from 0 within `owner`; `test` is an `if`'s condition.

    `exits`: it ends in raise, return, continue, break or sys.exit; `sibling_exits`: the other branch does.
    """

    owner: ast.AST
    branch: int
    kind: str
    start: Position
    end: Position
    test: ast.expr | None = None
    exits: bool = False
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
    """A call, the scope it stands in and the branches around it."""

    node: ast.Call
    scope: Scope
    path: Path


@dataclass(eq=False, slots=True)
class Scope:
    """A module, class, function or lambda, and what it binds."""

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
        return tuple(b for b in self.blocks if b.start <= position < b.end)

    def method(self, name: str) -> Scope | None:
        """The function of that name defined directly in this scope (the last one wins)."""
        return next((c for c in reversed(self.children) if c.kind == "function" and c.name == name), None)

    def all_calls(self) -> Iterator[CallSite]:
        """The calls here and in every scope inside."""
        yield from self.calls
        for child in self.children:
            yield from child.all_calls()


@dataclass(eq=False, slots=True)
class FileIndex:
    """A file's scopes (module first) and its calls by the last name of their callee."""

    file: SourceFile
    module: Scope
    scopes: list[Scope]
    calls_by_name: dict[str, list[CallSite]]
    scope_of: dict[int, Scope]

    @property
    def classes(self) -> list[Scope]:
        """All classes, in source order."""
        return [s for s in self.scopes if s.kind == "class"]


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


class _Indexer:
    """Builds a FileIndex; recursion follows statements, a stack follows expressions."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.scopes: list[Scope] = []
        self.calls_by_name: dict[str, list[CallSite]] = {}
        self.scope_of: dict[int, Scope] = {}
        self.path: Path = ()

    def build(self) -> FileIndex:
        tree = self.file.tree
        module = self.open("module", "", tree, None)
        self.body(tree.body, module)
        return FileIndex(self.file, module, self.scopes, self.calls_by_name, self.scope_of)

    def open(self, kind: str, name: str, node: ast.AST, parent: Scope | None) -> Scope:
        scope = Scope(kind, name, node, self.file, parent)
        self.scopes.append(scope)
        self.scope_of[id(node)] = scope
        if parent is not None:
            parent.children.append(scope)
        return scope

    def body(self, statements: list[ast.stmt], scope: Scope) -> None:
        for statement in statements:
            self.statement(statement, scope)

    def block(
        self,
        owner: ast.AST,
        branch: int,
        kind: str,
        body: list[ast.stmt],
        scope: Scope,
        test: ast.expr | None = None,
    ) -> None:
        if not body:
            return
        block = Block(owner, branch, kind, position_of(body[0]), end_of(body[-1]), test, _exits(body))
        if isinstance(owner, ast.If):
            block.sibling_exits = _exits(owner.orelse if branch == 0 else owner.body)
        scope.blocks.append(block)
        outer, self.path = self.path, (*self.path, block)
        self.body(body, scope)
        self.path = outer

    def bind(self, scope: Scope, binding: Binding) -> None:
        binding.scope = scope
        scope.bindings.setdefault(binding.name, []).append(binding)

    def target(
        self,
        target: ast.expr,
        kind: str,
        node: ast.AST,
        at: Position,
        value: ast.expr | None,
        scope: Scope,
        unpack: tuple[int, ...] = (),
        span: tuple[Position, Position] | None = None,
    ) -> None:
        match target:
            case ast.Name():
                self.bind(scope, Binding(target.id, kind, node, at, self.path, value, unpack, span))
            case ast.Tuple() | ast.List():
                literal = value.elts if isinstance(value, (ast.Tuple, ast.List)) and kind == "assign" else None
                for i, element in enumerate(target.elts):
                    if isinstance(element, ast.Starred):
                        self.target(element.value, "except", node, at, None, scope)
                    elif literal is not None and len(literal) == len(target.elts) and not unpack:
                        self.target(element, kind, node, at, literal[i], scope, (), span)
                    else:
                        self.target(element, kind, node, at, value, scope, (*unpack, i), span)
            case ast.Attribute() | ast.Subscript():
                self.expression(target.value, scope)
                if isinstance(target, ast.Subscript):
                    self.expression(target.slice, scope)
                key = dotted(target)
                if key is None:
                    return
                binding = Binding(key, kind, node, at, self.path, value, unpack, span, scope)
                scope.stores.setdefault(key, []).append(binding)
                root, _, rest = key.partition(".")
                first = scope.owner_class and scope.parameters and _first_parameter(scope.parameters)
                if rest and first == root and "." not in rest and "[" not in rest and scope.owner_class:
                    scope.owner_class.attributes.setdefault(rest, []).append(binding)

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        match node:
            case ast.Expr():
                self.expression(node.value, scope)
            case ast.Assign():
                self.expression(node.value, scope)
                for target in node.targets:
                    self.target(target, "assign", node, end_of(node), node.value, scope)
            case ast.AnnAssign():
                if node.value is not None:
                    self.expression(node.value, scope)
                self.target(node.target, "assign", node, end_of(node), node.value, scope)
            case ast.AugAssign():
                self.expression(node.value, scope)
                self.target(node.target, "augment", node, end_of(node), node.value, scope)
            case ast.Return():
                if node.value is not None:
                    self.expression(node.value, scope)
                    scope.returns.append((node.value, self.path))
            case ast.If():
                self.expression(node.test, scope)
                kind = "main" if _is_main_guard(node.test) else "if"
                self.block(node, 0, kind, node.body, scope, node.test)
                self.block(node, 1, "if", node.orelse, scope, node.test)
            case ast.For() | ast.AsyncFor():
                self.expression(node.iter, scope)
                self.target(node.target, "for", node, end_of(node.iter), node.iter, scope)
                self.block(node, 0, "loop", node.body, scope)
                self.block(node, 1, "loop-else", node.orelse, scope)
            case ast.While():
                self.expression(node.test, scope)
                self.block(node, 0, "loop", node.body, scope)
                self.block(node, 1, "loop-else", node.orelse, scope)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self.expression(item.context_expr, scope)
                    if item.optional_vars is not None:
                        at = end_of(item.context_expr)
                        self.target(item.optional_vars, "with", node, at, item.context_expr, scope)
                self.block(node, 0, "with", node.body, scope)
            case ast.Try():
                self.block(node, 0, "try", node.body, scope)
                for i, handler in enumerate(node.handlers):
                    self.block(node, i + 1, "handler", handler.body, scope)
                self.block(node, 0, "try", node.orelse, scope)
                self.block(node, -1, "finally", node.finalbody, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for default in (*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)):
                    self.expression(default, scope)
                self.bind(scope, Binding(node.name, "function", node, position_of(node), self.path))
                self.function(node, node.name, node.args, scope)
            case ast.ClassDef():
                for part in (*node.decorator_list, *node.bases, *(k.value for k in node.keywords)):
                    self.expression(part, scope)
                self.bind(scope, Binding(node.name, "class", node, position_of(node), self.path))
                outer, self.path = self.path, ()
                self.body(node.body, self.open("class", node.name, node, scope))
                self.path = outer
            case ast.Import():
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    self.bind(scope, Binding(name, "import", alias, end_of(node), self.path))
            case ast.ImportFrom():
                for alias in node.names:
                    if alias.name == "*":
                        scope.stars.append((node.module or "", node.level))
                    else:
                        name = alias.asname or alias.name
                        binding = Binding(name, "from", node, end_of(node), self.path)
                        binding.unpack = (node.names.index(alias),)
                        self.bind(scope, binding)
            case ast.Global() | ast.Nonlocal():
                scope.globals.update(node.names)
            case ast.Match():
                self.expression(node.subject, scope)
                for i, case in enumerate(node.cases):
                    self.block(node, i, "case", case.body, scope)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.expression(child, scope)
                    elif isinstance(child, ast.stmt):
                        self.statement(child, scope)

    def function(self, node: ast.AST, name: str, arguments: ast.arguments, scope: Scope) -> None:
        inner = self.open("function" if name else "lambda", name or "<lambda>", node, scope)
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self.bind(inner, Binding(argument.arg, "parameter", argument, (0, 0), ()))
        for rest in (arguments.vararg, arguments.kwarg):
            if rest is not None:
                self.bind(inner, Binding(rest.arg, "rest", rest, (0, 0), ()))
        outer, self.path = self.path, ()
        if isinstance(node, ast.Lambda):
            self.expression(node.body, inner)
            inner.returns.append((node.body, ()))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.body(node.body, inner)
        self.path = outer

    def expression(self, node: ast.expr, scope: Scope) -> None:
        stack: list[ast.AST] = [node]
        while stack:
            current = stack.pop()
            match current:
                case ast.Constant():
                    continue
                case ast.Name():
                    scope.words.add(current.id)
                    continue
                case ast.Attribute():
                    scope.words.add(current.attr)
                    stack.append(current.value)
                    continue
                case ast.Call():
                    site = CallSite(current, scope, self.path)
                    scope.calls.append(site)
                    name = terminal_name(current.func)
                    if name:
                        self.calls_by_name.setdefault(name, []).append(site)
                case ast.Lambda():
                    self.function(current, "", current.args, scope)
                    continue
                case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                    span = (position_of(current), end_of(current))
                    for generator in current.generators:
                        self.target(generator.target, "for", current, span[0], generator.iter, scope, (), span)
                case ast.NamedExpr():
                    self.target(current.target, "assign", current, end_of(current), current.value, scope)
            children = list(ast.iter_child_nodes(current))
            stack.extend(reversed(children))


def _first_parameter(arguments: ast.arguments) -> str | None:
    named = (*arguments.posonlyargs, *arguments.args)
    return named[0].arg if named else None


def first_parameter(scope: Scope) -> str | None:
    """The name of a function's first parameter (`self`), or None."""
    return _first_parameter(scope.parameters) if scope.parameters is not None else None


def _exits(body: list[ast.stmt]) -> bool:
    match body[-1] if body else None:
        case ast.Raise() | ast.Return() | ast.Continue() | ast.Break():
            return True
        case ast.Expr(value=ast.Call(func=function)):
            return terminal_name(function) in {"exit", "_exit", "quit"}
        case ast.If(body=first, orelse=second):
            return _exits(first) and _exits(second)
    return False


def _is_main_guard(test: ast.expr) -> bool:
    match test:
        case ast.Compare(left=ast.Name(id="__name__")):
            return True
        case ast.Compare(comparators=[ast.Name(id="__name__")]):
            return True
    return False


def build_index(file: SourceFile) -> FileIndex:
    """The index of a file. Raises SyntaxError where the file does not parse."""
    return _Indexer(file).build()


def reaching(bindings: list[Binding], position: Position, path: Path) -> list[tuple[Binding, Path]]:
    """The bindings that can reach a use, latest first, each with the branches on which alone it holds.

    A binding is killed by a later one on every path to the use; branches of one `if` exclude each other.
    """
    found: list[tuple[Binding, Path]] = []
    covered: dict[int, set[int]] = {}
    owners = {id(b.owner): b.branch for b in path if b.kind in CONDITIONAL}
    for binding in sorted(bindings, key=lambda b: b.position, reverse=True):
        if binding.span is not None:
            if binding.span[0] <= position < binding.span[1]:
                return [(binding, ())]
            continue
        if binding.position > position:
            continue
        if any(owners.get(id(b.owner), b.branch) != b.branch for b in binding.path if b.kind in CONDITIONAL):
            continue
        only_on = tuple(b for b in binding.path if b.kind in CONDITIONAL and b not in path)
        found.append((binding, only_on))
        if not only_on:
            return found
        if _covers(only_on, covered):
            return found
    return found


def _covers(only_on: Path, covered: dict[int, set[int]]) -> bool:
    """Whether these branches, with those seen before, leave no way around."""
    for block in reversed(only_on):
        if block.kind != "if":
            return False
        branches = covered.setdefault(id(block.owner), set())
        branches.add(block.branch)
        if len(branches) < 2 and not block.sibling_exits:
            return False
    return True
