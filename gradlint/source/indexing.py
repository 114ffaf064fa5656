"""The walk that makes a file's index."""

from __future__ import annotations

import ast

from gradlint.source.index import (
    Binding,
    Block,
    CallSite,
    FileIndex,
    Path,
    Position,
    Scope,
    dotted,
    end_of,
    first_parameter,
    position_of,
    terminal_name,
)
from gradlint.source.project import SourceFile
from gradlint.source.walking import child_nodes


class _Indexer:
    """Builds a FileIndex; recursion follows statements, a stack follows expressions."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.scopes: list[Scope] = []
        self.calls_by_name: dict[str, list[CallSite]] = {}
        self.scope_of: dict[int, Scope] = {}
        self.stored: set[str] = set()
        self.path: Path = ()

    def build(self) -> FileIndex:
        tree = self.file.tree
        module = self.open("module", "", tree, None)
        self.body(tree.body, module)
        return FileIndex(self.file, module, self.scopes, self.calls_by_name, self.scope_of, self.stored)

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
        block = Block(owner, branch, kind, position_of(body[0]), end_of(body[-1]), test)
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
                else:
                    self.stored.add(target.attr)
                key = dotted(target)
                if key is None:
                    return
                binding = Binding(key, kind, node, at, self.path, value, unpack, span, scope)
                scope.stores.setdefault(key, []).append(binding)
                root, _, rest = key.partition(".")
                first = scope.owner_class and first_parameter(scope)
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
                for child in child_nodes(node):
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
                case ast.Call(func=function, args=arguments, keywords=keywords):
                    site = CallSite(current, scope, self.path, terminal_name(function))
                    scope.calls.append(site)
                    if site.name:
                        self.calls_by_name.setdefault(site.name, []).append(site)
                    stack += [k.value for k in reversed(keywords)]
                    stack += reversed(arguments)
                    stack.append(function)
                    continue
                case ast.Lambda():
                    self.function(current, "", current.args, scope)
                    continue
                case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                    span = (position_of(current), end_of(current))
                    for generator in current.generators:
                        self.target(generator.target, "for", current, span[0], generator.iter, scope, (), span)
                case ast.BinOp(op=ast.Pow()):
                    scope.words.add("**")
                case ast.NamedExpr():
                    self.target(current.target, "assign", current, end_of(current), current.value, scope)
            stack += reversed(child_nodes(current))


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
