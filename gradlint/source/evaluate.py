"""The evaluator: which things an expression can stand for, followed through names, calls and files."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product

from gradlint.location import Location
from gradlint.source import arithmetic
from gradlint.source.arguments import attribute_of_arguments, parameter_option
from gradlint.source.callers import Importers
from gradlint.source.index import (
    END,
    Binding,
    CallSite,
    FileIndex,
    Path,
    Position,
    Scope,
    dotted,
    first_parameter,
    location,
    position_of,
    reaching,
    terminal_name,
)
from gradlint.source.known_calls import call_external, call_member
from gradlint.source.project import Project, SourceFile
from gradlint.source.things import (
    Budget,
    ClassThing,
    External,
    Frame,
    FunctionThing,
    Group,
    Instance,
    Items,
    Member,
    ModuleThing,
    Plain,
    Thing,
    Things,
    Unknown,
    external_name,
)
from gradlint.source.value import Value

MAX_CANDIDATES = 12
"""More candidates than this for one expression help nobody."""

MAX_STACK = 120
"""How many expressions may wait for one another."""

MAX_STEPS = 120_000
"""How many expressions are looked at for one script; scripts by hand need a tenth of it."""

NO_CYCLE = 1 << 30

MAX_DEPTH = 7
"""How many project calls are followed into one another."""

MAX_CALLERS = 12
"""How many call sites of a function are looked at for one parameter."""


class Evaluator:
    """Answers what an expression stands for. One evaluator serves one script; its memo lives as long."""

    def __init__(self, project: Project, importers: Importers) -> None:
        self.project = project
        self.importers = importers
        self.files: dict[str, None] = {}
        self._indexes: dict[str, FileIndex] = {}
        self._memo: dict[tuple[int, int], Things] = {}
        self._active: dict[tuple[int, int], int] = {}
        self._cycle = NO_CYCLE
        self._spent = 0
        self._importing: set[tuple[str, str]] = set()
        self._sites: dict[int, list[CallSite]] = {}
        self.budget = Budget()

    # -- files ---------------------------------------------------------------------------------------------

    def index(self, file: SourceFile) -> FileIndex:
        """The index of a file of the project, built once."""
        found = self._indexes.get(file.path)
        if found is None:
            found = self._indexes[file.path] = self.importers.index(file)
            self.files[file.path] = None
        return found

    def index_of(self, scope: Scope) -> FileIndex:
        """The index that a scope belongs to."""
        return self.index(scope.file)

    @property
    def known_files(self) -> list[SourceFile]:
        """The files that have been looked into so far."""
        return [i.file for i in self._indexes.values()]

    # -- expressions ---------------------------------------------------------------------------------------

    @contextmanager
    def question(self, steps: int = 2000) -> Iterator[None]:
        """Bound the work spent inside the block."""
        outer, self.budget = self.budget, Budget(steps)
        try:
            yield
        finally:
            self.budget = outer

    def ask(self, expression: ast.expr, scope: Scope, frame: Frame | None = None) -> Things:
        """`evaluate` with a budget of its own."""
        with self.question():
            return self.evaluate(expression, scope, frame)

    def evaluate(self, expression: ast.expr, scope: Scope, frame: Frame | None = None) -> Things:
        """Everything that the expression can stand for; never empty."""
        key = (id(expression), id(frame))
        known = self._memo.get(key)
        if known is not None:
            return known
        if key in self._active:
            self._cycle = min(self._cycle, self._active[key])
            return (Unknown("it depends on itself"),)
        self._spent += 1
        if not self.budget.spend() or len(self._active) > MAX_STACK or self._spent > MAX_STEPS:
            self._cycle = -1
            return (Unknown("it takes too many steps to follow"),)
        depth = self._active[key] = len(self._active)
        outer, self._cycle = self._cycle, NO_CYCLE
        try:
            things = _distinct(self._evaluate(expression, scope, frame))
        finally:
            del self._active[key]
        # What was cut short by an expression further out holds only for this question.
        if self._cycle >= depth:
            self._memo[key] = things
            self._cycle = outer
        else:
            self._cycle = min(outer, self._cycle)
        self._keep.append((expression, frame))
        return things

    @property
    def _keep(self) -> list[object]:
        # The memo is keyed by identity: what it is keyed by must stay alive.
        kept: list[object] = self.__dict__.setdefault("_kept", [])
        return kept

    def _evaluate(self, node: ast.expr, scope: Scope, frame: Frame | None) -> Things:
        match node:
            case ast.Constant(value=value):
                return (self.plain(value, node, scope),)
            case ast.Name(id=name):
                return self.name(name, scope, position_of(node), frame)
            case ast.Attribute():
                return self._attribute_expression(node, scope, frame)
            case ast.Call():
                return self._call_expression(node, scope, frame)
            case ast.Subscript():
                return self._subscript(node, scope, frame)
            case ast.List() | ast.Tuple() | ast.Set() | ast.Dict():
                return (Items(node, scope, frame),)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return (Items(node, scope, frame),)
            case ast.BinOp(left=left, op=operator, right=right):
                return self._combine(
                    lambda a, b: arithmetic.binary(operator, a, b), node, [left, right], scope, frame
                ) or self._concatenation(node, scope, frame)
            case ast.UnaryOp(op=sign, operand=operand):
                if isinstance(sign, ast.Not):
                    truth = self.truth(operand, scope, frame)
                    return (
                        Unknown("its condition is not known") if truth is None else self.plain(not truth, node, scope),
                    )
                return self._combine(lambda a: arithmetic.unary(sign, a), node, [operand], scope, frame) or (
                    Unknown("it is computed at run time"),
                )
            case ast.IfExp(test=test, body=body, orelse=orelse):
                match self.truth(test, scope, frame):
                    case True:
                        return self.evaluate(body, scope, frame)
                    case False:
                        return self.evaluate(orelse, scope, frame)
                both = (*self.evaluate(body, scope, frame), *self.evaluate(orelse, scope, frame))
                return tuple(conditional(t) for t in both)
            case ast.BoolOp(op=op, values=values):
                return self._boolean(op, values, scope, frame)
            case ast.Compare():
                truth = self._compare(node, scope, frame)
                return (Unknown("it is decided at run time") if truth is None else self.plain(truth, node, scope),)
            case ast.JoinedStr():
                parts = [p.value if isinstance(p, ast.FormattedValue) else p for p in node.values]
                return self._combine(arithmetic.joined, node, parts, scope, frame) or (
                    Unknown("the text is put together at run time"),
                )
            case ast.Lambda():
                inner = self.index_of(scope).scope_of.get(id(node))
                return (FunctionThing(inner, None, frame),) if inner else (Unknown("a lambda out of reach"),)
            case ast.NamedExpr(value=value) | ast.Await(value=value) | ast.Starred(value=value):
                return self.evaluate(value, scope, frame)
        return (Unknown("it is computed at run time"),)

    def plain(self, value: object, node: ast.AST, scope: Scope, *way: str, overridable: bool = False) -> Plain:
        """A plain value that is written at `node`."""
        return Plain(Value(value, location(scope.file, node), way, overridable=overridable))

    def _combine(
        self,
        function: Callable[..., object],
        node: ast.expr,
        operands: list[ast.expr],
        scope: Scope,
        frame: Frame | None,
    ) -> Things:
        """`function` over every combination of plain operands; empty when an operand is not plain."""
        choices: list[list[Value]] = []
        for operand in operands:
            values = [t.value for t in self.evaluate(operand, scope, frame) if isinstance(t, Plain)]
            if not values:
                return ()
            choices.append(values)
        found: list[Thing] = []
        for combination in list(product(*choices))[:MAX_CANDIDATES]:
            try:
                result = function(*(v.value for v in combination))
            except arithmetic.NotComputable:
                continue
            decisive = next((v for v in combination if v.way or v.overridable), combination[0])
            found.append(
                Plain(
                    Value(
                        result,
                        decisive.origin,
                        tuple(w for v in combination for w in v.way),
                        any(v.conditional for v in combination),
                        any(v.overridable for v in combination),
                    )
                )
            )
        return tuple(found)

    def _concatenation(self, node: ast.BinOp, scope: Scope, frame: Frame | None) -> Things:
        """`list(a) + list(b)`, kept as an expression of both."""
        if isinstance(node.op, ast.Add):
            sides = [*self.evaluate(node.left, scope, frame), *self.evaluate(node.right, scope, frame)]
            if any(isinstance(s, (Items, Group)) or _is_parameters(s) for s in sides):
                return (Group(tuple((s,) for s in sides)),)
        return (Unknown("it is computed at run time"),)

    def _boolean(self, op: ast.boolop, values: list[ast.expr], scope: Scope, frame: Frame | None) -> Things:
        found: list[Thing] = []
        for i, value in enumerate(values):
            truth = self.truth(value, scope, frame)
            last = i == len(values) - 1
            if not last and truth is isinstance(op, ast.And):
                continue
            found.extend(self.evaluate(value, scope, frame))
            if truth is not None:
                break
        return tuple(found) if len(found) <= 1 else tuple(conditional(t) for t in found)

    def truth(self, test: ast.expr, scope: Scope, frame: Frame | None = None) -> bool | None:
        """Whether a condition holds under the defaults that the source gives, or None."""
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.truth(operand, scope, frame)
                return None if inner is None else not inner
            case ast.BoolOp(op=op, values=values):
                truths = [self.truth(v, scope, frame) for v in values]
                decisive = isinstance(op, ast.Or)
                if decisive in truths:
                    return decisive
                return None if None in truths else not decisive
            case ast.Compare():
                return self._compare(test, scope, frame)
        found = {self.truth_of(t) for t in self.evaluate(test, scope, frame)}
        return found.pop() if len(found) == 1 else None

    def truth_of(self, thing: Thing) -> bool | None:
        """The truth value of a thing, or None."""
        match thing:
            case Plain(value=Value(value=value)):
                return bool(value)
            case Items(node=ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements)):
                return bool(elements)
            case Items(node=ast.Dict(keys=keys)):
                return bool(keys)
            case ClassThing() | FunctionThing():
                return True
            case Instance(cls=ClassThing() | External()) if not _may_be_anything(thing):
                return True
        return None

    def _compare(self, node: ast.Compare, scope: Scope, frame: Frame | None) -> bool | None:
        if len(node.ops) != 1:
            return None
        op, right = node.ops[0], node.comparators[0]
        if isinstance(right, ast.Constant) and right.value is None and isinstance(op, (ast.Is, ast.IsNot)):
            lefts = {_is_none(t) for t in self.evaluate(node.left, scope, frame)}
            if len(lefts) != 1 or None in lefts:
                return None
            return lefts.pop() is isinstance(op, ast.Is)
        lefts_plain = self.plains(self.evaluate(node.left, scope, frame), scope, frame)
        rights_plain = self.plains(self.evaluate(right, scope, frame), scope, frame)
        if lefts_plain is None or rights_plain is None:
            return None
        try:
            truths = {arithmetic.compare(op, a, b) for a in lefts_plain for b in rights_plain}
        except arithmetic.NotComputable:
            return None
        return truths.pop() if len(truths) == 1 else None

    def plains(self, things: Things, scope: Scope, frame: Frame | None) -> list[object] | None:
        """The plain Python values of things, containers of plain values included; None if one is not plain."""
        found = []
        for thing in things:
            value = self.plain_of(thing)
            if value is arithmetic.MISSING:
                return None
            found.append(value)
        return found

    def plain_of(self, thing: Thing, depth: int = 0) -> object:
        """A thing as a plain Python value, or `arithmetic.MISSING`."""
        match thing:
            case Plain(value=value):
                return value.value
            case Items(node=ast.Dict(keys=keys, values=values), scope=scope, frame=frame) if depth < 4:
                table = {}
                for key, node in zip(keys, values, strict=True):
                    k = self.single(key, scope, frame, depth) if key is not None else arithmetic.MISSING
                    v = self.single(node, scope, frame, depth)
                    if k is arithmetic.MISSING or v is arithmetic.MISSING or not isinstance(k, (str, int, float)):
                        return arithmetic.MISSING
                    table[k] = v
                return table
            case Items(node=ast.List(elts=e) | ast.Tuple(elts=e) | ast.Set(elts=e), scope=scope, frame=frame) if (
                depth < 4
            ):
                values_ = [self.single(x, scope, frame, depth) for x in e]
                if any(v is arithmetic.MISSING for v in values_):
                    return arithmetic.MISSING
                return values_ if isinstance(thing.node, ast.List) else tuple(values_)
        return arithmetic.MISSING

    def single(self, node: ast.expr, scope: Scope, frame: Frame | None, depth: int = 0) -> object:
        """The one plain value of an expression, or `arithmetic.MISSING`."""
        things = self.evaluate(node, scope, frame)
        return self.plain_of(things[0], depth + 1) if len(things) == 1 else arithmetic.MISSING

    # -- names ---------------------------------------------------------------------------------------------

    def name(self, name: str, scope: Scope, position: Position, frame: Frame | None) -> Things:
        """What a name means at a position of a scope."""
        current: Scope | None = scope
        at = position
        inner = scope
        while current is not None:
            visible = current is scope or current.kind != "class"
            bindings = current.bindings.get(name) if visible and name not in current.globals else None
            if bindings:
                in_frame = self._frame_of(current, frame)
                path = current.path_at(at) if current is scope else ()
                found = reaching(bindings, at, path)
                if not found and current is scope and current.kind != "class":
                    found = reaching(bindings, END, path)
                things = self._bound(found, current, in_frame)
                if things:
                    return things
            if current.kind == "module" and current.stars:
                things = self._from_stars(name, current)
                if things:
                    return things
            inner, current = current, current.parent
            at = END
            if current is not None and current.kind == "module" and inner.kind == "class":
                at = position
        if name in _BUILTINS:
            return (External(f"builtins.{name}"),)
        return (Unknown(f"`{name}` is not defined in the project"),)

    def _frame_of(self, scope: Scope, frame: Frame | None) -> Frame | None:
        while frame is not None and frame.function is not scope:
            frame = frame.outer if scope.kind != "module" else None
        return frame

    def _bound(self, found: list[tuple[Binding, Path]], scope: Scope, frame: Frame | None) -> Things:
        things: list[Thing] = []
        live = [(b, p) for b, p in found if not self.dead(p, scope, frame)]
        for binding, only_on in live or found:
            values = self.binding(binding, scope, frame)
            sure = not only_on or self.taken(only_on, scope, frame)
            things.extend(values if sure else (conditional(v) for v in values))
            if sure:
                break
        return tuple(things)

    def taken(self, path: Path, scope: Scope, frame: Frame | None = None) -> bool:
        """Whether all of these branches are surely taken under the defaults that the source gives."""
        return all(
            b.kind == "if" and b.test is not None and self.truth(b.test, scope, frame) is (b.branch == 0) for b in path
        )

    def dead(self, path: Path, scope: Scope, frame: Frame | None = None) -> bool:
        """Whether these branches are not taken under the defaults that the source gives."""
        for block in path:
            if block.kind == "if" and block.test is not None:
                truth = self.truth(block.test, scope, frame)
                if truth is not None and truth is (block.branch == 1):
                    return True
        return False

    def binding(self, binding: Binding, scope: Scope, frame: Frame | None) -> Things:
        """What a binding gives its name."""
        match binding.kind:
            case "assign" | "with":
                if binding.value is None:
                    return (Unknown(f"`{binding.name}` is declared but not given a value"),)
                return self.unpacked(self.evaluate(binding.value, scope, frame), binding.unpack)
            case "for":
                if binding.value is None:
                    return (Unknown("a loop variable"),)
                things = self.evaluate(binding.value, scope, frame)
                return self.unpacked(tuple(e for t in things for e in self.elements(t)), binding.unpack)
            case "augment":
                return self._augmented(binding, scope, frame)
            case "import":
                return self._import(binding, scope)
            case "from":
                return self._import_from(binding, scope)
            case "function":
                inner = self.index_of(scope).scope_of[id(binding.node)]
                receiver = None
                return (FunctionThing(inner, receiver, frame),)
            case "class":
                return (ClassThing(self.index_of(scope).scope_of[id(binding.node)]),)
            case "parameter":
                return self.parameter(binding, scope, frame)
        return (Unknown(f"`{binding.name}` is set at run time"),)

    def _augmented(self, binding: Binding, scope: Scope, frame: Frame | None) -> Things:
        statement = binding.node
        assert isinstance(statement, ast.AugAssign)
        table = scope.bindings if isinstance(statement.target, ast.Name) else scope.stores
        before = [b for b in table.get(binding.name, []) if b.position < binding.position and b.kind != "augment"]
        found = reaching(before, position_of(statement), binding.path)
        olds = self._bound(found, scope, frame)
        adds = self.evaluate(statement.value, scope, frame)
        results: list[Thing] = []
        for old, add in list(product(olds, adds))[:MAX_CANDIDATES]:
            match old, add:
                case Plain(value=a), Plain(value=b):
                    try:
                        result = arithmetic.binary(statement.op, a.value, b.value)
                    except arithmetic.NotComputable:
                        continue
                    results.append(Plain(Value(result, a.origin, (*a.way, *b.way), a.conditional, a.overridable)))
                case (Items() | Group(), _) | (Instance(), _):
                    results.append(Group(((old,), (add,))))
        if any(b.kind == "loop" for b in binding.path) and any(isinstance(r, Plain) for r in results):
            return olds
        return tuple(results) or (Unknown(f"`{binding.name}` is updated at run time"),)

    def unpacked(self, things: Things, indices: tuple[int, ...]) -> Things:
        """The elements at `indices` of tuples, lists and the like."""
        for index in indices:
            things = tuple(e for t in things for e in self.item(t, index))
        return things

    def _import(self, binding: Binding, scope: Scope) -> Things:
        alias = binding.node
        assert isinstance(alias, ast.alias)
        wanted = alias.name if alias.asname else alias.name.partition(".")[0]
        file = self.project.module(wanted, scope.file)
        if file is not None and file.path != scope.file.path:
            return (ModuleThing(file),)
        return (External(wanted),)

    def _import_from(self, binding: Binding, scope: Scope) -> Things:
        statement = binding.node
        assert isinstance(statement, ast.ImportFrom)
        alias = statement.names[binding.unpack[0]]
        return self.imported(statement.module or "", alias.name, statement.level, scope)

    def imported(self, module: str, name: str, level: int, scope: Scope) -> Things:
        """What `from <level dots>module import name` gives in a file."""
        file = self.project.module(module, scope.file, level)
        if file is not None and file.path != scope.file.path:
            found = self.exported(file, name)
            if found:
                return found
        submodule = self.project.module(f"{module}.{name}" if module else name, scope.file, level)
        if submodule is not None and submodule.path != scope.file.path:
            return (ModuleThing(submodule),)
        if file is not None or level:
            return (Unknown(f"`{name}` is not found in `{'.' * level}{module}`"),)
        return (External(f"{module}.{name}"),)

    def exported(self, file: SourceFile, name: str) -> Things:
        """What a module of the project calls `name` once it has run; empty if nothing."""
        module = self.index(file).module
        if name in module.bindings or module.stars:
            things = self.name(name, module, END, None)
            if not (len(things) == 1 and isinstance(things[0], (Unknown, External)) and name not in module.bindings):
                return things
        return ()

    def _from_stars(self, name: str, scope: Scope) -> Things:
        for module, level in scope.stars:
            file = self.project.module(module, scope.file, level)
            if file is None:
                if module in _STAR_EXPORTS and not level and name in _STAR_EXPORTS[module]:
                    return (External(f"{module}.{name}"),)
                continue
            if file.path == scope.file.path:
                continue
            key = (file.path, name)
            if key in self._importing:
                continue
            self._importing.add(key)
            try:
                found = self.exported(file, name)
            finally:
                self._importing.discard(key)
            if found:
                return found
        return ()

    # -- parameters and callers ----------------------------------------------------------------------------

    def parameter(self, binding: Binding, scope: Scope, frame: Frame | None) -> Things:
        """What a parameter stands for: the argument of the call in `frame`, else of every known call."""
        name = binding.name
        owner = scope.owner_class
        if owner is not None and name == first_parameter(scope) and not scope.is_static:
            if frame is not None and frame.receiver is not None:
                return (frame.receiver,)
            return (Instance(ClassThing(owner), None, owner),)
        if frame is not None and frame.function is scope:
            return self._argument(name, scope, frame.call, frame.scope, frame.outer)
        option = parameter_option(self, name, scope)
        if option:
            return option
        sites = self.call_sites(scope)[:MAX_CALLERS]
        found: list[Thing] = []
        for site in sites:
            if self.dead(site.path, site.scope):
                continue
            found.extend(self._argument(name, scope, site.node, site.scope, None))
        if found:
            return tuple(found)
        default = parameter_default(scope, name)
        if default is None:
            return (Unknown(f"nobody in the project passes `{name}` to `{scope.qualified_name or 'lambda'}`"),)
        outer = scope.parent or scope
        return tuple(with_way(t, f"default of parameter `{name}`") for t in self.evaluate(default, outer, None))

    def _argument(
        self, name: str, scope: Scope, call: ast.Call | None, caller: Scope | None, frame: Frame | None
    ) -> Things:
        if call is not None and caller is not None:
            given = argument(call, scope, name)
            if given is not None:
                return self.evaluate(given, caller, frame)
            spread = [k.value for k in call.keywords if k.arg is None]
            for value in spread:
                things = self.evaluate(value, caller, frame)
                found = tuple(e for t in things for e in self.item(t, name) if not isinstance(e, Unknown))
                if found:
                    return found
        default = parameter_default(scope, name)
        if default is not None:
            things = self.evaluate(default, scope.parent or scope, None)
            return tuple(with_way(t, f"default of parameter `{name}`") for t in things)
        return (Unknown(f"`{name}` is not passed in a way that can be read"),)

    def call_sites(self, function: Scope) -> list[CallSite]:
        """The calls in the project that surely run this function (a class's calls for its `__init__`)."""
        known = self._sites.get(id(function))
        if known is not None:
            return known
        self._sites[id(function)] = []
        owner = function.owner_class
        name = owner.name if owner is not None and function.name in {"__init__", "__new__"} else function.name
        if owner is not None and function.name in {"__call__", "forward"}:
            return []
        files = [function.file, *self.importers.of(function.file, name)]
        found: list[CallSite] = []
        for file in files:
            index = self.index(file)
            sites = [*index.calls_by_name.get(name, [])]
            if owner is not None and function.name == "__init__":
                sites += [s for s in index.calls_by_name.get("__init__", []) if _is_super_call(s, owner)]
                sites += [
                    s
                    for n, b in index.module.bindings.items()
                    if n != name and _aliases(b, name)
                    for s in index.calls_by_name.get(n, [])
                ]
            found.extend(s for s in sites if s.scope is not function and self._calls(s, function, owner))
            if len(found) >= MAX_CALLERS:
                break
        self._sites[id(function)] = found
        return found

    def _calls(self, site: CallSite, function: Scope, owner: Scope | None) -> bool:
        if owner is not None and function.name == "__init__" and _is_super_call(site, owner):
            return True
        for thing in self.evaluate(site.node.func, site.scope):
            match thing:
                case FunctionThing(scope=scope) if scope is function:
                    return True
                case ClassThing(scope=scope) if owner is not None and self.is_subclass(scope, owner):
                    return True
        return False

    # -- attributes and items ------------------------------------------------------------------------------

    def _attribute_expression(self, node: ast.Attribute, scope: Scope, frame: Frame | None) -> Things:
        stored = self._stored(node, scope, frame)
        things, certain = stored
        if certain:
            return things
        below = tuple(a for t in self.evaluate(node.value, scope, frame) for a in self.attribute(t, node.attr))
        if not things:
            return below
        return (*things, *(conditional(b) for b in below if not isinstance(b, Unknown)))

    def _stored(self, node: ast.expr, scope: Scope, frame: Frame | None) -> tuple[Things, bool]:
        """What an assignment to this very attribute or subscript gave it, and whether that is all."""
        key = dotted(node)
        if key is None:
            return (), False
        root = key.partition(".")[0].partition("[")[0]
        at, current = position_of(node), scope
        while True:
            if root in current.bindings or current.kind == "module":
                break
            if current.parent is None:
                break
            current = current.parent
        bindings = scope.stores.get(key)
        if bindings is None and current is not scope:
            bindings, at, scope = current.stores.get(key), END, current
        if not bindings:
            return (), False
        if scope.owner_class is not None and root == first_parameter(scope):
            return (), False
        frame = self._frame_of(scope, frame)
        found = reaching(bindings, at, scope.path_at(at) if at != END else ())
        found = [(b, p) for b, p in found if not self.dead(p, scope, frame)]
        if not found:
            return (), False
        return self._bound(found, scope, frame), not found[-1][1]

    def attribute(self, thing: Thing, name: str) -> Things:
        """What `thing.name` stands for."""
        match thing:
            case Unknown():
                return (thing,)
            case ModuleThing(file):
                found = self.exported(file, name)
                if found:
                    return found
                sub = self.project.module(name, file, 1) if file.path.endswith("__init__.py") else None
                if name == "__dict__":
                    return (Member(thing, name),)
                return (ModuleThing(sub),) if sub else (Unknown(f"`{name}` is not found in `{file.module}`"),)
            case External(module):
                return (External(f"{module}.{name}"),)
            case ClassThing(scope):
                return self._class_attribute(scope, name, None)
            case Instance(cls=ClassThing(scope)):
                return self._instance_attribute(thing, scope, name)
            case Instance():
                return attribute_of_arguments(self, thing, name) or (Member(thing, name),)
            case Items(node=ast.Dict()) if name not in _DICT_METHODS:
                return self.item(thing, name)
            case Plain(value=Value(value=dict(table))) if name not in _DICT_METHODS and name in table:
                return self.item(thing, name)
        return (Member(thing, name),)

    def _class_attribute(self, scope: Scope, name: str, receiver: Thing | None) -> Things:
        for cls in self.mro(scope):
            bindings = cls.bindings.get(name)
            if bindings:
                things = self._bound(reaching(bindings, END, ()), cls, None)
                return tuple(_bind_method(t, receiver or ClassThing(scope), receiver is not None) for t in things)
        return (Member(receiver or ClassThing(scope), name),)

    def _instance_attribute(self, instance: Instance, scope: Scope, name: str) -> Things:
        found: list[Thing] = []
        for cls in self.mro(scope):
            bindings = cls.attributes.get(name)
            if bindings:
                found.extend(self._attribute_bindings(bindings, instance, cls))
                break
        outside = self._stored_from_outside(instance, name)
        if found:
            return (*found, *outside)
        field = self._dataclass_field(instance, scope, name)
        if field:
            return field
        things = self._class_attribute(scope, name, instance)
        method = next((t for t in things if isinstance(t, FunctionThing)), None)
        if method is not None and _is_property(method.scope):
            return self.call_function(method, None, None, None)
        return (*outside, *(things if not outside or not isinstance(things[0], Member) else ()))

    def _stored_from_outside(self, instance: Instance, name: str) -> Things:
        """`model.fc = …` where the variable holds this instance, in the scope that made it."""
        if instance.call is None:
            return ()
        suffix = f".{name}"
        for key, bindings in instance.scope.stores.items():
            if not key.endswith(suffix) or key.count(".") != 1:
                continue
            root = key[: -len(suffix)]
            made = instance.scope.bindings.get(root, [])
            if any(b.value is instance.call for b in made):
                last = bindings[-1]
                return tuple(conditional(t) for t in self.binding(last, instance.scope, instance.frame))
        return ()

    def _attribute_bindings(self, bindings: list[Binding], instance: Instance, cls: Scope) -> Things:
        """`self.x = …`: those of `__init__` first; others (setup, build) only where `__init__` says None or nothing."""
        found: list[Thing] = []
        by_method: dict[int, list[Binding]] = {}
        for binding in bindings:
            by_method.setdefault(id(binding.scope), []).append(binding)
        groups = sorted(by_method.values(), key=lambda g: g[0].scope is None or g[0].scope.name != "__init__")
        for group in groups:
            scope = group[0].scope
            assert scope is not None
            frame = self.frame_for(instance, scope, cls)
            if scope.name != "__init__":
                reached = reaching([b for b in group if b.kind != "augment"], END, ())
            else:
                reached = reaching(group, END, ())
            values = self._bound(reached, scope, frame)
            found.extend(v for v in values if not (isinstance(v, Plain) and v.value.value is None and len(groups) > 1))
            if scope.name == "__init__" and any(
                not isinstance(v, Unknown) and not (isinstance(v, Plain) and v.value.value is None) for v in values
            ):
                break
        return tuple(found)

    def frame_for(self, instance: Instance, method: Scope, cls: Scope) -> Frame | None:
        """The frame in which a method of this instance runs; `__init__` knows its arguments."""
        if method.name != "__init__" or instance.call is None:
            return None
        made = instance.cls.scope if isinstance(instance.cls, ClassThing) else cls
        if made is cls or not made.method("__init__"):
            return self._frames(method, instance.call, instance.scope, instance.frame, instance)
        return None

    def _frames(
        self, function: Scope, call: ast.Call, scope: Scope, outer: Frame | None, receiver: Thing | None
    ) -> Frame:
        table: dict[tuple[int, int, int], Frame] = self.__dict__.setdefault("_frame_table", {})
        key = (id(function), id(call), id(outer))
        if key not in table:
            depth = outer.depth + 1 if outer else 1
            table[key] = Frame(function, call, scope, outer, receiver, depth)
        return table[key]

    def _dataclass_field(self, instance: Instance, scope: Scope, name: str) -> Things:
        if instance.call is None or (instance.call is not None and scope.method("__init__")):
            return ()
        fields = [
            n
            for cls in reversed(self.mro(scope))
            for n, b in cls.bindings.items()
            if any(isinstance(x.node, ast.AnnAssign) for x in b)
        ]
        if name not in fields:
            return ()
        for keyword in instance.call.keywords:
            if keyword.arg == name:
                return self.evaluate(keyword.value, instance.scope, instance.frame)
        position = list(dict.fromkeys(fields)).index(name)
        if position < len(instance.call.args) and not isinstance(instance.call.args[position], ast.Starred):
            return self.evaluate(instance.call.args[position], instance.scope, instance.frame)
        for cls in self.mro(scope):
            for binding in cls.bindings.get(name, []):
                if binding.value is not None:
                    default = self._field_default(binding.value, cls)
                    return tuple(with_way(t, f"default of `{scope.name}.{name}`") for t in default)
        return ()

    def _field_default(self, value: ast.expr, scope: Scope) -> Things:
        if isinstance(value, ast.Call) and terminal_name(value.func) in {"field", "Field", "ib", "attrib"}:
            for keyword in value.keywords:
                if keyword.arg == "default":
                    return self.evaluate(keyword.value, scope, None)
                if keyword.arg in {"default_factory", "factory"} and isinstance(keyword.value, ast.Lambda):
                    return self.evaluate(keyword.value.body, scope, None)
            if value.args:
                return self.evaluate(value.args[0], scope, None)
            return (Unknown("the field has no default"),)
        return self.evaluate(value, scope, None)

    def mro(self, scope: Scope) -> list[Scope]:
        """The class and its bases within the project, nearest first."""
        found: list[Scope] = []
        queue = [scope]
        while queue and len(found) < 12:
            cls = queue.pop(0)
            if cls in found:
                continue
            found.append(cls)
            node = cls.node
            assert isinstance(node, ast.ClassDef)
            for base in node.bases:
                things = self.evaluate(base, cls.parent or cls)
                queue.extend(t.scope for t in things if isinstance(t, ClassThing))
        return found

    def base_names(self, scope: Scope) -> list[str]:
        """The qualified names of all bases from outside the project."""
        names = []
        for cls in self.mro(scope):
            assert isinstance(cls.node, ast.ClassDef)
            for base in cls.node.bases:
                names += [t.name for t in self.evaluate(base, cls.parent or cls) if isinstance(t, External)]
        return list(dict.fromkeys(names))

    def is_subclass(self, scope: Scope, base: Scope) -> bool:
        """Whether a project class is another or derives from it without an `__init__` of its own."""
        for cls in self.mro(scope):
            if cls is base:
                return True
            if cls.method("__init__"):
                return False
        return False

    def _subscript(self, node: ast.Subscript, scope: Scope, frame: Frame | None) -> Things:
        things, certain = self._stored(node, scope, frame)
        if certain:
            return things
        found = list(things)
        bases = self.evaluate(node.value, scope, frame)
        if isinstance(node.slice, ast.Slice):
            return bases
        keys = [self.plain_of(t) for t in self.evaluate(node.slice, scope, frame)]
        for base in bases:
            for key in keys:
                found.extend(self.item(base, key))
        return tuple(found)

    def item(self, thing: Thing, key: object) -> Things:
        """What `thing[key]` stands for; `arithmetic.MISSING` is a key that is not known: every element."""
        missing = key is arithmetic.MISSING
        match thing:
            case Items(node=ast.Dict(keys=keys, values=values), scope=scope, frame=frame):
                found: list[Thing] = []
                for k, v in zip(keys, values, strict=True):
                    if k is None:
                        spread = self.evaluate(v, scope, frame)
                        inner = [e for t in spread for e in self.item(t, key) if not isinstance(e, Unknown)]
                        if inner and not missing:
                            return tuple(inner)
                        found.extend(inner)
                    elif missing or self.single(k, scope, frame) == key:
                        found.extend(self.evaluate(v, scope, frame))
                        if not missing:
                            return tuple(found)
                return tuple(conditional(f) for f in found) or (Unknown(f"there is no key {key!r}"),)
            case Items(node=ast.List(elts=e) | ast.Tuple(elts=e), scope=scope, frame=frame):
                if isinstance(key, int) and not isinstance(key, bool) and -len(e) <= key < len(e):
                    return self.evaluate(e[key], scope, frame)
                if missing:
                    return tuple(conditional(t) for x in e[:MAX_CANDIDATES] for t in self.evaluate(x, scope, frame))
            case Items(node=ast.DictComp(value=v), scope=scope, frame=frame):
                return self.evaluate(v, scope, frame)
            case Group(elements):
                if isinstance(key, int) and -len(elements) <= key < len(elements):
                    return elements[key]
            case Plain(value=value) if isinstance(value.value, (dict, list, tuple, str)):
                return self._plain_item(value, key)
            case Member(owner=External() | ModuleThing() as owner, name="__dict__") if isinstance(key, str):
                return self.attribute(owner, key)
            case External(name) if name.endswith(".__dict__") and isinstance(key, str):
                return (External(name.removesuffix("__dict__") + key),)
            case Instance(cls=cls) if isinstance(key, str) and external_name(cls) is not None:
                found_ = attribute_of_arguments(self, thing, key)
                return found_ or (Member(thing, f"[{key!r}]"),)
            case Instance() | Member():
                return (Member(thing, f"[{key!r}]" if not missing else "[]"),)
        return (Unknown("an element that is not known"),)

    def _plain_item(self, value: Value, key: object) -> Things:
        if key is arithmetic.MISSING:
            return (Unknown("its key is not known"),)
        try:
            element = value.value[key]
        except (KeyError, IndexError, TypeError):
            return (Unknown(f"there is no {key!r}"),)
        origin = value.origin
        return (Plain(Value(element, origin, (*value.way, f"key `{key}`"), value.conditional, value.overridable)),)

    def elements(self, thing: Thing) -> Things:
        """What a loop over a thing yields."""
        match thing:
            case Items(node=ast.List(elts=e) | ast.Tuple(elts=e) | ast.Set(elts=e), scope=scope, frame=frame):
                return tuple(t for x in e[:MAX_CANDIDATES] for t in self.evaluate(x, scope, frame))
            case Items(node=ast.ListComp(elt=e) | ast.GeneratorExp(elt=e) | ast.SetComp(elt=e), scope=scope, frame=f):
                return self.evaluate(e, scope, f)
            case Group(elements):
                return tuple(t for e in elements for t in e)
            case Plain(value=value) if isinstance(value.value, (list, tuple)):
                return tuple(Plain(Value(v, value.origin, value.way, True)) for v in value.value[:MAX_CANDIDATES])
            case Unknown():
                return (thing,)
        return (Member(thing, "[]"),)

    # -- calls ---------------------------------------------------------------------------------------------

    def _call_expression(self, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            owner = scope.owner_class
            if owner is not None:
                bases = [c for c in self.mro(owner) if c is not owner]
                return (Instance(ClassThing(bases[0]), None, bases[0]),) if bases else (Unknown("a base class"),)
        callees = self.evaluate(node.func, scope, frame)
        return tuple(r for c in callees for r in self.call(c, node, scope, frame))

    def call(self, callee: Thing, node: ast.Call, scope: Scope, frame: Frame | None) -> Things:
        """What a call of this callee returns."""
        match callee:
            case Unknown():
                return (callee,)
            case ClassThing():
                return (Instance(callee, node, scope, frame),)
            case FunctionThing():
                return self.call_function(callee, node, scope, frame)
            case External(name):
                return call_external(self, name, node, scope, frame)
            case Member(owner, name):
                return call_member(self, owner, name, node, scope, frame)
        return (Instance(callee, node, scope, frame),)

    def call_function(
        self, function: FunctionThing, node: ast.Call | None, scope: Scope | None, frame: Frame | None
    ) -> Things:
        """What a project function returns for this call."""
        inner = function.scope
        outer = frame
        if outer is not None and outer.depth >= MAX_DEPTH:
            return (Unknown("calls are nested too deep"),)
        called: Frame | None
        if node is not None and scope is not None:
            called = self._frames(inner, node, scope, outer, function.receiver)
        else:
            called = None
        live = [(e, p) for e, p in inner.returns if not self.dead(p, inner, called)]
        found: list[Thing] = []
        for expression, path in live or inner.returns:
            values = self.evaluate(expression, inner, called)
            only_on = [b for b in path if b.kind in {"if", "case", "handler"}]
            found.extend(conditional(v) for v in values) if only_on and len(live) > 1 else found.extend(values)
        return tuple(found) or (self.plain(None, inner.node, inner),)


def _identity(thing: Thing, depth: int = 0) -> object:
    """Equal for things that are the same candidate."""
    match thing:
        case Plain(value=value):
            return ("plain", repr(value.value), value.origin, value.conditional)
        case Instance(cls=cls) if depth < 6:
            return ("instance", thing.key, id(thing.frame), _identity(cls, depth + 1))
        case Member(owner=owner, name=name) if depth < 6:
            return ("member", name, _identity(owner, depth + 1))
        case ClassThing(scope) | FunctionThing(scope=scope, receiver=None):
            return ("scope", id(scope))
        case FunctionThing(scope=scope, receiver=receiver) if receiver is not None and depth < 6:
            return ("method", id(scope), _identity(receiver, depth + 1))
        case Unknown(reason):
            return ("unknown", reason)
        case External(name):
            return ("external", name)
        case ModuleThing(file):
            return ("module", file.path)
        case Items(node=node, frame=frame):
            return ("items", id(node), id(frame))
    return id(thing)


def _distinct(things: Things) -> Things:
    seen: dict[object, Thing] = {}
    for thing in things:
        seen.setdefault(_identity(thing), thing)
    found = tuple(seen.values())
    if len(found) > MAX_CANDIDATES:
        return (*found[:MAX_CANDIDATES], Unknown("there are too many candidates"))
    return found or (Unknown("nothing reaches it"),)


def conditional(thing: Thing) -> Thing:
    """The thing, marked as holding on some branch only."""
    match thing:
        case Plain(value=v) if not v.conditional:
            return Plain(Value(v.value, v.origin, v.way, True, v.overridable))
        case Instance(cls=cls, call=call, scope=scope, frame=frame, conditional=False):
            return Instance(cls, call, scope, frame, True)
    return thing


def with_way(thing: Thing, step: str) -> Thing:
    """A plain value with one more step on its way."""
    match thing:
        case Plain(value=v):
            return Plain(Value(v.value, v.origin, (step, *v.way), v.conditional, v.overridable))
    return thing


def argument(call: ast.Call, function: Scope, name: str) -> ast.expr | None:
    """The expression that a call passes for a parameter of a project function, or None."""
    arguments = function.parameters
    if arguments is None:
        return None
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if name not in names:
        return None
    shift = 1 if function.owner_class is not None and not function.is_static else 0
    position = names.index(name) - shift
    given = call.args[: position + 1]
    if position < 0 or len(given) <= position or any(isinstance(a, ast.Starred) for a in given):
        return None
    return given[position]


def parameter_default(function: Scope, name: str) -> ast.expr | None:
    """The default expression of a parameter, or None."""
    arguments = function.parameters
    if arguments is None:
        return None
    positional = [*arguments.posonlyargs, *arguments.args]
    offset = len(positional) - len(arguments.defaults)
    for i, parameter in enumerate(positional):
        if parameter.arg == name:
            return arguments.defaults[i - offset] if i >= offset else None
    for parameter, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if parameter.arg == name:
            return default
    return None


def _bind_method(thing: Thing, receiver: Thing, is_instance: bool) -> Thing:
    match thing:
        case FunctionThing(scope=scope, receiver=None, frame=frame) if scope.owner_class is not None:
            if scope.is_static:
                return thing
            if is_instance or _is_classmethod(scope):
                return FunctionThing(scope, receiver, frame)
    return thing


def _is_classmethod(scope: Scope) -> bool:
    decorators = getattr(scope.node, "decorator_list", ())
    return any(isinstance(d, ast.Name) and d.id == "classmethod" for d in decorators)


def _is_property(scope: Scope) -> bool:
    decorators = getattr(scope.node, "decorator_list", ())
    return any(terminal_name(d) in {"property", "cached_property"} for d in decorators)


def _is_super_call(site: CallSite, owner: Scope) -> bool:
    function = site.node.func
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Call)):
        return False
    if terminal_name(function.value.func) != "super" or site.scope.owner_class is None:
        return False
    node = site.scope.owner_class.node
    return isinstance(node, ast.ClassDef) and any(terminal_name(b) == owner.name for b in node.bases)


def _aliases(bindings: list[Binding], name: str) -> bool:
    return any(
        b.kind == "from" and isinstance(b.node, ast.ImportFrom) and b.node.names[b.unpack[0]].name == name
        for b in bindings
    )


def _is_parameters(thing: Thing) -> bool:
    return (
        isinstance(thing, Instance)
        and isinstance(thing.cls, Member)
        and thing.cls.name
        in {
            "parameters",
            "named_parameters",
        }
    )


def _is_none(thing: Thing) -> bool | None:
    match thing:
        case Plain(value=value):
            return value.value is None
        case Items() | ClassThing() | FunctionThing() | ModuleThing() | Group():
            return False
        case Instance(cls=ClassThing()):
            return False
        case Instance(cls=External(name)) if name.startswith(_NEVER_NONE):
            return False
    return None


def _may_be_anything(thing: Instance) -> bool:
    name = external_name(thing.cls)
    return name is not None and not name.startswith(("torch.nn.", "torch.optim."))


_NEVER_NONE = (
    "torch.nn.",
    "torch.optim.",
    "torch.cuda.amp.Grad",
    "transformers.",
    "torchvision.models.",
    "timm.create",
)

_DICT_METHODS = frozenset({"get", "items", "keys", "values", "update", "pop", "copy", "setdefault", "__dict__"})

_BUILTINS = frozenset(
    [
        "abs",
        "all",
        "any",
        "bool",
        "callable",
        "dict",
        "enumerate",
        "eval",
        "filter",
        "float",
        "frozenset",
        "getattr",
        "hasattr",
        "int",
        "isinstance",
        "iter",
        "len",
        "list",
        "locals",
        "globals",
        "map",
        "max",
        "min",
        "next",
        "object",
        "open",
        "range",
        "repr",
        "reversed",
        "round",
        "set",
        "setattr",
        "sorted",
        "str",
        "sum",
        "super",
        "tuple",
        "type",
        "vars",
        "zip",
        "print",
    ]
)

_STAR_EXPORTS: dict[str, frozenset[str]] = {
    "torch.nn": frozenset(
        [
            "Module",
            "Sequential",
            "ModuleList",
            "ModuleDict",
            "Parameter",
            "Linear",
            "Conv1d",
            "Conv2d",
            "Conv3d",
            "RNN",
            "LSTM",
            "GRU",
            "RNNCell",
            "LSTMCell",
            "GRUCell",
            "Embedding",
            "Dropout",
            "ReLU",
            "Tanh",
            "Sigmoid",
            "BatchNorm1d",
            "BatchNorm2d",
            "LayerNorm",
            "CrossEntropyLoss",
            "MSELoss",
            "BCELoss",
            "NLLLoss",
            "DataParallel",
            "init",
            "utils",
            "functional",
        ]
    ),
    "torch.optim": frozenset(
        ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "LBFGS", "lr_scheduler"]
    ),
    "torchvision.models": frozenset(
        [
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
            "vgg11",
            "vgg16",
            "vgg19",
            "alexnet",
            "densenet121",
            "inception_v3",
            "mobilenet_v2",
            "efficientnet_b0",
            "googlenet",
            "squeezenet1_0",
        ]
    ),
    "transformers": frozenset(
        [
            "AutoModel",
            "AutoTokenizer",
            "AutoModelForSequenceClassification",
            "BertModel",
            "BertTokenizer",
            "BertConfig",
            "BertForSequenceClassification",
            "AdamW",
            "Trainer",
            "TrainingArguments",
            "get_linear_schedule_with_warmup",
            "RobertaModel",
        ]
    ),
    "torch": frozenset(["nn", "optim", "cuda", "utils", "autograd", "tensor", "no_grad"]),
    "torchvision": frozenset(["models", "datasets", "transforms"]),
}


def origin_of(thing: Thing) -> Location | None:
    """Where an instance was constructed."""
    match thing:
        case Instance(call=call, scope=scope):
            return location(scope.file, call if call is not None else scope.node)
    return None
