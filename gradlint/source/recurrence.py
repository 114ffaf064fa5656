"""Recurrence written by hand: a hidden state that a class feeds back through its own weights."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence, Set

from gradlint.location import Location
from gradlint.source.evaluate import Evaluator
from gradlint.source.index import Scope, first_parameter, location
from gradlint.source.model_names import is_module_base
from gradlint.source.things import ClassThing, FunctionThing, Instance, Member, Thing, external_name
from gradlint.source.walking import child_nodes, walk

_HIDDEN = re.compile(
    r"^(h|hx|hid|hidden\w*|h_\w+|state|prev_?(h|hidden|state)\w*|hidden_state|last_hidden|s_prev|h\d)$"
)

_STATE = re.compile(r"(^|_)(h[nstxy]?|hid|hidden|states?|prev|memory)(_|\d|$)")
"""Names of what a time step hands on, wherever the word stands; told apart from a depth that shares its layers."""

_WEIGHTS = (
    "torch.nn.Linear",
    "torch.nn.Parameter",
    "torch.nn.parameter.Parameter",
    "torch.nn.Conv",
    "torch.nn.Bilinear",
    "torch.nn.Sequential",
)

_LOOKED_UP = "<looked up>"
"""Stands for the modules that a class registers by `setattr` or `add_module` and gets by `getattr(self, name)`."""

_LISTS = ("torch.nn.ModuleList", "torch.nn.ModuleDict")

_PASSES = frozenset({"zip", "enumerate", "items", "values", "list", "reversed", "chunk", "split", "t", "getattr"})
"""Calls that hand a weight on as it is."""


def handwritten(evaluator: Evaluator, cls: Scope) -> Location | None:
    """Where a class feeds a hidden state back through its own weights, or None."""
    forward = cls.method("forward")
    if forward is None or not isinstance(forward.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return None
    weights, parts = _weight_attributes(evaluator, cls)
    if not weights and not parts:
        return None
    me = first_parameter(forward) or "self"
    loops = [n for n in walk(forward.node) if isinstance(n, (ast.For, ast.While))]
    if loops:
        parts |= _weighing_methods(cls, weights, me)
        aliases = _aliases(forward.node, weights, me)
        handles = _aliases(forward.node, parts, me)
        for loop in loops:
            place = _loop(loop, (weights, aliases), (parts, handles), me)
            if place is not None:
                return location(cls.file, place)
    return _step_cell(forward, cls, weights, me) or _over_a_tree(cls, weights, me)


def _weight_attributes(evaluator: Evaluator, cls: Scope) -> tuple[set[str], set[str]]:
    """The attributes that hold weights, and those that hold modules of the project, alone or in a list."""
    found, parts = set(), set()
    for name, bindings in cls.attributes.items():
        for binding in bindings:
            if isinstance(binding.value, ast.Call) and binding.scope is not None:
                for thing in _makers(evaluator, binding.value, binding.scope):
                    qualified = external_name(thing) or ""
                    if qualified.startswith(_WEIGHTS):
                        found.add(name)
                    elif qualified.startswith(_LISTS) or _is_part(evaluator, thing, cls):
                        parts.add(name)
            elif isinstance(binding.value, ast.List) and _collects_parts(evaluator, cls, name):
                parts.add(name)
    if any(s.words & {"setattr", "add_module", "register_module"} for s in cls.children):
        parts.add(_LOOKED_UP)
    return found, parts


def _makers(evaluator: Evaluator, call: ast.Call, scope: Scope) -> list[Thing]:
    """What a call constructs: the class that it names, or that which a method of the class returns."""
    made: list[Thing] = []
    for thing in evaluator.ask(call.func, scope):
        if isinstance(thing, (FunctionThing, Member)):
            made += [t.cls for t in evaluator.ask(call, scope) if isinstance(t, Instance)]
        else:
            made.append(thing)
    return made


def _is_part(evaluator: Evaluator, thing: Thing, cls: Scope) -> bool:
    return (
        isinstance(thing, ClassThing)
        and thing.scope is not cls
        and any(map(is_module_base, evaluator.base_names(thing.scope)))
    )


def _collects_parts(evaluator: Evaluator, cls: Scope, name: str) -> bool:
    """Whether modules are appended to a plain list `self.name`."""
    for method in cls.children:
        for site in method.calls:
            match site.node:
                case ast.Call(func=ast.Attribute(value=ast.Attribute(attr=attr), attr="append"), args=[element]) if (
                    attr == name
                ):
                    things = evaluator.ask(element, method)
                    if any(isinstance(t, Instance) and _is_part(evaluator, t.cls, cls) for t in things):
                        return True
    return False


def _weighing_methods(cls: Scope, weights: set[str], me: str) -> set[str]:
    """The methods beside `forward` that put something through an own weight: `self.step(x_t, h)`."""
    return {
        m.name
        for m in cls.children
        if m.kind == "function" and m.name not in {"forward", "__init__"} and _weight_uses(m.node, weights, me)
    }


def _aliases(forward: ast.AST, weights: set[str], me: str) -> set[str]:
    """Local names for weights: `w = self.w`, `w_x, w_h = self.ws`, `for w in self.ws.values()`."""
    found: set[str] = set()
    pairs: list[tuple[ast.expr, ast.expr]] = []
    for node in walk(forward):
        match node:
            case ast.Assign(targets=targets, value=value):
                pairs += [(t, value) for t in targets]
            case ast.For(target=target, iter=value) if not isinstance(value, ast.Attribute):
                pairs.append((target, value))
    for _ in range(3):
        before = len(found)
        for target, value in pairs:
            if _hands_on(value, weights, me, found):
                found |= {n.id for n in walk(target) if isinstance(n, ast.Name)}
        if len(found) == before:
            break
    return found


def _hands_on(value: ast.expr, weights: set[str], me: str, aliases: set[str]) -> bool:
    match value:
        case ast.Name(id=name):
            return name in aliases
        case ast.Attribute(value=ast.Name(id=owner), attr=attr) if owner == me:
            return attr in weights
        case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id=owner), _]) if owner == me:
            return _LOOKED_UP in weights
        case ast.Attribute(value=inner, attr="T" | "data" | "weight") | ast.Subscript(value=inner):
            return _hands_on(inner, weights, me, aliases)
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return bool(elements) and all(_hands_on(e, weights, me, aliases) for e in elements)
        case ast.Call(func=ast.Name(id=name), args=args) if name in _PASSES:
            return any(_hands_on(a, weights, me, aliases) for a in args)
        case ast.Call(func=ast.Attribute(value=inner, attr=name)) if name in _PASSES:
            return _hands_on(inner, weights, me, aliases)
    return False


_Named = tuple[set[str], set[str]]
"""Attributes of `self`, and the local names for them."""


def _loop(loop: ast.For | ast.While, weights: _Named, parts: _Named, me: str) -> ast.AST | None:
    """A loop over time: a variable is made from itself through the same weight in every turn."""
    indices = {n.id for n in walk(loop.target) if isinstance(n, ast.Name)} if isinstance(loop, ast.For) else set()
    if isinstance(loop, ast.For) and _is_over_modules(loop.iter, me):
        return None
    body = [n for s in loop.body for n in walk(s)]
    reads_time = isinstance(loop, ast.While) or any(
        isinstance(n, ast.Name) and n.id in indices and isinstance(n.ctx, ast.Load) for n in body
    )
    if not reads_time or not _takes_input(loop, indices, me):
        return None
    flows: dict[str, set[str]] = {}
    weighted: dict[str, set[str]] = {}
    places: dict[str, ast.AST] = {}
    for statement in body:
        if not isinstance(statement, ast.Assign):
            continue
        read = {n.id for n in walk(statement.value) if isinstance(n, ast.Name)}
        through = {n for use in _weight_uses(statement.value, weights[0], me, weights[1]) for n in use}
        uses = _weight_uses(statement.value, parts[0], me, parts[1])
        through |= {n for use in uses for n in use if _STATE.search(n)}
        for target in statement.targets:
            for name in (n.id for n in walk(target) if isinstance(n, ast.Name)):
                flows.setdefault(name, set()).update(read)
                weighted.setdefault(name, set()).update(through)
                places.setdefault(name, statement)
    carried, _ = _carried(loop.body, indices)
    for name, read_by in flows.items():
        if name not in carried:
            continue
        seen, queue, through_weight = {name}, [(r, r in weighted[name]) for r in read_by], False
        while queue:
            current, by_weight = queue.pop()
            if current == name:
                through_weight = through_weight or by_weight
                continue
            if current in seen or current not in flows:
                continue
            seen.add(current)
            queue += [(r, by_weight or r in weighted[current]) for r in flows[current]]
        if through_weight:
            return places[name]
    return None


def _carried(statements: Sequence[ast.stmt], written: Set[str]) -> tuple[set[str], set[str]]:
    """The variables that a turn may find as the turn before left them, and those that are surely written at its end.

    They are read before they are written, where `written` are the variables that are so at the beginning.
    """
    carried: set[str] = set()
    written = set(written)

    def enter(inner: Sequence[ast.stmt], before: Set[str] = frozenset()) -> set[str]:
        read, after = _carried(inner, written | before)
        carried.update(read)
        return after

    for statement in statements:
        blocks = [b for name in ("body", "orelse", "finalbody") if (b := getattr(statement, name, None))]
        heads = (
            [n for n in child_nodes(statement) if isinstance(n, (ast.expr, ast.withitem))] if blocks else [statement]
        )
        names = [n for head in heads for n in walk(head) if isinstance(n, ast.Name)]
        new = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            read.add(statement.target.id)
        carried |= read - written
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                pass
            case ast.If(body=body, orelse=orelse):
                written |= enter(body) & enter(orelse)
            case ast.For() | ast.AsyncFor() | ast.While():
                for block in blocks:
                    enter(block, new)
            case ast.With() | ast.AsyncWith():
                written |= new
                written |= enter(statement.body)
            case ast.Try():
                for handler in statement.handlers:
                    enter(handler.body)
                for block in blocks:
                    written |= enter(block)
            case _:
                written |= new
    return carried, written


def _weight_uses(
    value: ast.AST, weights: set[str], me: str, aliases: set[str] | frozenset[str] = frozenset()
) -> list[set[str]]:
    """The names that go through an own weight inside an expression."""
    found = []
    for node in walk(value):
        if not isinstance(node, (ast.Call, ast.BinOp)):
            continue
        parts: list[ast.expr] = []
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=attr), args=args) if (
                owner == me and attr in weights
            ):
                parts = list(args)
            case ast.Call(func=ast.Subscript(value=ast.Attribute(value=ast.Name(id=owner), attr=attr)), args=args) if (
                owner == me and attr in weights
            ):
                parts = list(args)
            case ast.Call(func=ast.Name(id=name), args=args) if name in aliases:
                parts = list(args)
            case ast.Call(func=ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id=owner), _]), args=args) if (
                owner == me and _LOOKED_UP in weights
            ):
                parts = list(args)
            case ast.Call(func=ast.Name() | ast.Attribute(), args=args) if any(
                _is_weight(a, weights, me, aliases) for a in args
            ):
                parts = list(args)
            case ast.BinOp(left=left, op=ast.MatMult() | ast.Mult(), right=right) if any(
                _is_weight(x, weights, me, aliases) for x in (left, right)
            ):
                parts = [left, right]
        if parts:
            found.append({n.id for p in parts for n in walk(p) if isinstance(n, ast.Name)} - {me})
    return found


def _is_weight(node: ast.expr, weights: set[str], me: str, aliases: set[str] | frozenset[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in aliases
        case ast.Attribute(value=ast.Name(id=owner), attr=attr) if owner == me:
            return attr in weights
        case ast.Attribute(value=inner, attr="T" | "weight" | "data"):
            return _is_weight(inner, weights, me, aliases)
        case ast.Call(func=ast.Attribute(value=inner, attr="t")):
            return _is_weight(inner, weights, me, aliases)
        case ast.Subscript(value=inner):
            return _is_weight(inner, weights, me, aliases)
    return False


def _is_over_modules(iterable: ast.expr, me: str) -> bool:
    """`for layer in self.layers`, `enumerate(self.blocks)`, `zip(self.a, self.b)`."""
    return any(
        isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == me
        for n in walk(iterable)
        if not isinstance(getattr(n, "ctx", None), ast.Store)
    ) and not any(isinstance(n, ast.Name) and n.id == "range" for n in walk(iterable))


def _takes_input(loop: ast.For | ast.While, indices: set[str], me: str) -> bool:
    """Whether each turn reads its own element of a sequence, and not its own module of a list."""
    takes = isinstance(loop, ast.For) and not any(isinstance(n, ast.Name) and n.id == "range" for n in walk(loop.iter))
    for statement in loop.body:
        for node in walk(statement):
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                used = {n.id for n in walk(node.slice) if isinstance(n, ast.Name)}
                if used & indices or (isinstance(loop, ast.While) and used):
                    if any(isinstance(n, ast.Name) and n.id == me for n in walk(node.value)):
                        return False
                    takes = True
    return takes


def _step_cell(forward: Scope, cls: Scope, weights: set[str], me: str) -> Location | None:
    """One step of a recurrence, `forward(x, hidden)`, that makes the next hidden state with an own weight.

    The loop stands in the training script; the class shows it by a parameter that it takes and gives back, and by
    the method that makes the first state.
    """
    arguments = forward.parameters
    assert arguments is not None
    states = [a.arg for a in arguments.args[1:] if _HIDDEN.match(a.arg)]
    starts = any(re.search(r"init_?hidden|init_?state|initial_state", c.name, re.IGNORECASE) for c in cls.children)
    if not states or not starts:
        return None
    assert isinstance(forward.node, (ast.FunctionDef, ast.AsyncFunctionDef))
    carried = set(states)
    for node in walk(forward.node):
        if isinstance(node, ast.Assign):
            read = {n.id for n in walk(node.value) if isinstance(n, ast.Name)}
            if not read & carried:
                continue
            weighted = any(use & carried for use in _weight_uses(node.value, weights, me))
            names = {n.id for t in node.targets for n in walk(t) if isinstance(n, ast.Name)}
            if weighted and any(_HIDDEN.match(n) for n in names):
                return location(cls.file, node)
            carried |= names
    return None


_BELOW = re.compile(r"^(children|child\w*|left|right|lchild|rchild|left_child|right_child|branches|kids)$")


def _over_a_tree(cls: Scope, weights: set[str], me: str) -> Location | None:
    """A method that calls itself on the children of a node: the state of a node goes through its ancestors' weights.

    It runs in `forward`, and puts something through a weight itself or in a method that it calls.
    """
    methods = {m.name: m for m in cls.children if m.kind == "function"}
    for name in _reached(methods, "forward"):
        for site in methods[name].calls:
            match site.node.func:
                case ast.Attribute(value=ast.Name(id=owner), attr=called) if owner == me and called == name:
                    pass
                case ast.Name(id=owner) if owner == me and name == "forward":
                    pass
                case _:
                    continue
            named = {n.attr for a in site.node.args for n in walk(a) if isinstance(n, ast.Attribute)}
            named |= {a.id for a in site.node.args if isinstance(a, ast.Name)}
            if any(map(_BELOW.match, named)) and any(
                _weight_uses(methods[m].node, weights, me) for m in _reached(methods, name)
            ):
                return location(cls.file, site.node)
    return None


def _reached(methods: Mapping[str, Scope], start: str) -> dict[str, None]:
    """The methods that run where one of them does: those that it names, and so on, itself first."""
    found = {start: None}
    waiting = [start]
    while waiting:
        method = methods.get(waiting.pop())
        following = [n for n in methods if method is not None and n in method.words and n not in found]
        found |= dict.fromkeys(following)
        waiting += following
    return found
