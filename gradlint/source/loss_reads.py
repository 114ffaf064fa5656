"""Which operation makes what a training loss reads: of a model with several outputs, which of them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from gradlint.source.changed_containers import is_changed_by_a_method, is_rebuilt
from gradlint.source.computed_from import ComputedFrom, ends
from gradlint.source.index import (
    CONDITIONAL,
    Binding,
    Block,
    FileIndex,
    Path,
    Position,
    Scope,
    dotted,
    location,
    position_of,
    terminal_name,
)
from gradlint.source.models import Models
from gradlint.source.project import SourceFile
from gradlint.source.reaching import reaching
from gradlint.source.script import LossRead
from gradlint.source.signatures import argument
from gradlint.source.singularities import VIEWS
from gradlint.source.things import (
    ClassThing,
    External,
    Frame,
    FunctionThing,
    Instance,
    Member,
    Thing,
    Unknown,
    external_name,
)
from gradlint.source.walking import walk

LOSSES = frozenset(
    {"CrossEntropyLoss", "cross_entropy", "BCEWithLogitsLoss", "binary_cross_entropy_with_logits", "NLLLoss"}
)
"""Losses of which it matters what makes their input."""

ACTIVATIONS = frozenset({"softmax", "log_softmax", "sigmoid"})
_METHODS = VIEWS | {"to", "cuda", "cpu", "double", "half", "bfloat16", "clone", "movedim", "swapaxes", "unflatten"}
_PASSED_ON = frozenset({"identity", "flatten", "unflatten"})
_JOINS = frozenset({"cat", "concat", "concatenate", "stack"})
_OPERATIONS = frozenset({"torch", "torch.nn.functional", "torch.special", "torch.Tensor"})
"""Where the functions of torch that compute something themselves stand; others call what they are given."""

_SPELLED = {"logsoftmax": "log_softmax", "softmax2d": "softmax"}

ELEMENT = None
"""The key of a part of a tensor: a slice, or an index that is not written as a number."""

Key = int | str | None
MAX_DEPTH = 32
MAX_CALLERS = 4
T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """The operation `op` (in lower case) whose result a value is, at `node`; `model` is the outermost that it is in."""

    op: str
    node: ast.expr
    scope: Scope
    model: Instance | None = None


@dataclass(frozen=True)
class _Way:
    """Where an expression stands, and the `keys` that are taken of its value, first to last.

    A key is an index, the key of a dict or the name of an attribute.
    """

    scope: Scope
    frame: Frame | None = None
    keys: tuple[Key, ...] = ()
    depth: int = 0

    def on(self, keys: tuple[Key, ...] | None = None) -> _Way:
        """One step further, with other keys where they are given."""
        return replace(self, keys=self.keys if keys is None else keys, depth=self.depth + 1)

    @property
    def of_tensor(self) -> bool:
        """Whether the keys can take a part of a tensor: numbers and slices can, words cannot."""
        return not any(isinstance(k, str) for k in self.keys)


class LossReads:
    """Follows the input of a loss back through variables, tuples, dicts, attributes and calls; None is not known."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.evaluator = models.evaluator
        self._file: SourceFile | None = None

    def of(self, index: FileIndex) -> Iterator[LossRead]:
        """What the training losses of a file read, where that is known, each loss once."""
        found: dict[int, LossRead] = {}
        self._file = index.file
        for scope in index.scopes:
            starts = list(ends(scope, self.models))
            if not starts or not any(self._loss(site.node, scope) for site in scope.calls):
                continue
            for end in starts:
                for node in ComputedFrom(scope).of(end):
                    if isinstance(node, ast.Call) and id(node) not in found and (read := self._read(node, scope)):
                        found[id(node)] = read
        yield from sorted(found.values(), key=lambda r: (r.location, r.operation))

    def _read(self, call: ast.Call, scope: Scope) -> LossRead | None:
        given = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "input"), None)
        if given is None or isinstance(given, ast.Starred):
            return None
        loss = self._loss(call, scope)
        if loss is None:
            return None
        path = scope.path_at(position_of(call))
        if self.evaluator.dead(path, scope) or any(_is_for_another(b, call.func, loss) for b in path):
            return None
        made = self._made(given, _Way(scope))
        if made is None:
            return None
        model = self.models.model(made.model) if made.model is not None else None
        at = location(made.scope.file, made.node)
        return LossRead(loss, location(scope.file, call), made.op, at, model)

    def _loss(self, call: ast.Call, scope: Scope) -> str | None:
        """The loss of torch that a call computes, or None."""
        names = {external_name(t) or "" for t in self.evaluator.ask(call.func, scope)}
        name = names.pop() if len(names) == 1 else ""
        loss = name.rpartition(".")[2]
        return loss if name.startswith("torch.") and loss in LOSSES else None

    # -- expressions ---------------------------------------------------------------------------------------

    def _made(self, node: ast.expr | None, way: _Way) -> Made | None:
        """What makes `node[keys[0]][keys[1]]…`."""
        if way.depth > MAX_DEPTH:
            return None
        match node:
            case ast.Name(id=name):
                return self._name(name, position_of(node), way)
            case ast.Attribute(value=value, attr=attr):
                return self._stored(node, way) or self._made(value, way.on((attr, *way.keys)))
            case ast.Subscript(value=value, slice=index):
                return self._stored(node, way) or self._made(value, way.on((_key(index), *way.keys)))
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                match way.keys:
                    case (int(i), *rest) if -len(elements) <= i < len(elements) and not _spreads(elements):
                        return self._made(elements[i], way.on(tuple(rest)))
            case ast.Dict(keys=names, values=values) if None not in names and way.keys:
                held = [v for k, v in zip(names, values, strict=True) if _key(k) == way.keys[0] is not ELEMENT]
                return self._made(held[-1], way.on(way.keys[1:])) if held else None
            case ast.IfExp(body=body, orelse=orelse):
                return _agreed([self._made(x, way.on()) for x in (body, orelse)])
            case ast.NamedExpr(value=value) | ast.Await(value=value):
                return self._made(value, way.on())
            case ast.Call():
                return self._call(node, way)
        return None

    def _name(self, name: str, at: Position, way: _Way) -> Made | None:
        scope = way.scope
        if way.keys and way.keys[0] is not ELEMENT:
            for key in (f"{name}[{way.keys[0]!r}]", f"{name}.{way.keys[0]}"):
                if key in scope.stores:
                    return self._reached(scope.stores[key], at, way.on(way.keys[1:]))
        if way.of_tensor and name in scope.filled():
            return None
        if way.keys and is_changed_by_a_method(name, scope):
            return None
        return self._reached(scope.bindings.get(name, []), at, way)

    def _stored(self, node: ast.expr, way: _Way) -> Made | None:
        """What was assigned to `self.x` or `out["x"]` before, in the same function."""
        return self._reached(way.scope.stores.get(dotted(node) or "", []), position_of(node), way)

    def _reached(self, bindings: list[Binding], at: Position, way: _Way) -> Made | None:
        found = self._live(reaching(bindings, at, way.scope.path_around(at, bindings)), way)
        return _agreed([self._binding(b, way) for b in found])

    def _binding(self, binding: Binding, way: _Way) -> Made | None:
        if binding.kind == "assign":
            keys = (*binding.unpack, *way.keys)
            return None if _has_rest(binding) else self._made(binding.value, way.on(keys))
        if binding.kind == "for" and not binding.unpack:
            return self._made(binding.value, way.on((ELEMENT, *way.keys)))
        if binding.kind != "parameter":
            return None
        function, frame = way.scope, way.frame
        calls: list[tuple[ast.Call | None, Scope | None, Frame | None]]
        if frame is not None and frame.function is function:
            calls = [(frame.call, frame.scope, frame.outer)]
        else:
            calls = [(s.node, s.scope, None) for s in self.evaluator.call_sites(function)]
        if len(calls) > MAX_CALLERS:
            return None
        return _agreed(
            [
                self._made(argument(call, function, binding.name), replace(way.on(), scope=caller, frame=outer))
                if call is not None and caller is not None
                else None
                for call, caller, outer in calls
            ]
        )

    # -- calls ---------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call, way: _Way) -> Made | None:
        things = self.evaluator.ask(node.func, way.scope, way.frame)
        match things:
            case (External(name),):
                return self._external(name, node, way)
            case (Instance() as module,):
                return self._applied(module, node, way)
            case (FunctionThing(scope=function, receiver=receiver),):
                frame = self.evaluator.frame(function, node, way.scope, way.frame, receiver)
                made = self._returned(function, frame, way)
                return _within(receiver, made) if function.name == "forward" else made
            case (ClassThing(scope=cls),):
                return None if self.models.is_module(cls) else self._field(node, _fields(cls), way)
        match node.func:
            case ast.Attribute(value=value, attr=op) if all(isinstance(t, (Member, Unknown)) for t in things):
                if op == "get" and node.args:
                    return self._made(value, way.on((_key(node.args[0]), *way.keys)))
                if op in _METHODS and way.of_tensor:
                    return self._made(value, way.on(()))
                if (op in ACTIVATIONS or op == "exp") and way.of_tensor:
                    return self._exponential(value, way, Made(op, node, way.scope))
        return None

    def _external(self, name: str, node: ast.Call, way: _Way) -> Made | None:
        """What a function from outside makes: records of any library, tensors of torch."""
        owner, _, last = name.rpartition(".")
        if not name.startswith("torch."):
            return self._field(node, (), way) if last[:1].isupper() or name == "builtins.dict" else None
        if not way.of_tensor or owner not in _OPERATIONS:
            return None
        if last in _METHODS:
            return self._made(node.args[0], way.on(())) if node.args else None
        if last in _JOINS:
            parts = node.args[0].elts if node.args and isinstance(node.args[0], (ast.Tuple, ast.List)) else []
            return None if _spreads(parts) else _agreed([self._made(part, way.on(())) for part in parts])
        return self._exponential(node.args[0], way, Made(last, node, way.scope)) if node.args else None

    def _exponential(self, argument: ast.expr, way: _Way, made: Made) -> Made:
        """An operation, the exponential of a log-softmax as the softmax that it is."""
        inner = self._made(argument, way.on(())) if made.op == "exp" else None
        return replace(made, op="softmax") if inner is not None and inner.op == "log_softmax" else made

    def _applied(self, module: Instance, node: ast.Call, way: _Way) -> Made | None:
        """What makes the output of a module that is called at `node`."""
        if isinstance(module.cls, ClassThing):
            match self.evaluator.attribute(module, "forward"):
                case (FunctionThing(scope=function),):
                    frame = self.evaluator.frame(function, node, way.scope, way.frame, module)
                    return _within(module, self._returned(function, frame, way))
            return None
        op = _layer(module)
        if not op or not way.of_tensor:
            return None
        if op == "sequential":
            return _within(module, self._last(module, way))
        if op in _PASSED_ON:
            return self._made(node.args[0], way.on(())) if node.args else None
        return Made(_SPELLED.get(op, op), node, way.scope)

    def _last(self, sequential: Instance, way: _Way) -> Made | None:
        """What makes the output of an `nn.Sequential(…)` whose parts are written out; its place is the part's own."""
        if is_rebuilt(sequential, self._file):
            return None
        inside = replace(way.on(()), scope=sequential.scope, frame=sequential.frame)
        for part in reversed(sequential.call.args if sequential.call is not None else []):
            match self.evaluator.ask(part, inside.scope, inside.frame):
                case (Instance() as module,) if not isinstance(part, ast.Starred):
                    if _layer(module) in _PASSED_ON:
                        continue
                    unread = ast.Call(func=part, args=[], keywords=[])  # What it is applied to is not looked into.
                    made = self._applied(module, unread, inside)
                    return replace(made, node=part) if made is not None and made.node is unread else made
            return None
        return None

    def _returned(self, function: Scope, frame: Frame, way: _Way) -> Made | None:
        inside = replace(way.on(), scope=function, frame=frame)
        return _agreed([self._made(value, inside) for value in self._live(function.returns, inside)])

    def _field(self, node: ast.Call, fields: Sequence[str], way: _Way) -> Made | None:
        """What was given for a field of a record: `Output(logits=…, probs=…)`, a NamedTuple, a dataclass."""
        if not way.keys or _spreads(node.args):
            return None
        wanted = way.keys[0]
        if isinstance(wanted, int) and -len(fields) <= wanted < len(fields):
            wanted = fields[wanted]
        given = [k.value for k in node.keywords if k.arg is not None and k.arg == wanted]
        if not given and isinstance(wanted, str) and wanted in fields[: len(node.args)]:
            given = [node.args[fields.index(wanted)]]
        return self._made(given[0], way.on(way.keys[1:])) if given else None

    # -- branches ------------------------------------------------------------------------------------------

    def _live(self, found: Iterable[tuple[T, Path]], way: _Way) -> list[T]:
        """What may hold in training, up to what surely does: branches for evaluation alone are left out."""
        kept: list[T] = []
        for item, path in found:
            truths = [self._truth(b, way) for b in path if b.kind in CONDITIONAL or b.kind == "loop"]
            if False in truths:
                continue
            kept.append(item)
            if all(truths):
                break
        return kept

    def _truth(self, block: Block, way: _Way) -> bool | None:
        """Whether a branch is taken while the model trains."""
        if block.kind != "if" or block.test is None:
            return None
        match block.test:
            case ast.Attribute(attr="training"):
                truth: bool | None = True
            case ast.UnaryOp(op=ast.Not(), operand=ast.Attribute(attr="training")):
                truth = False
            case _ if self._is_switched(block.test, way.scope):
                truth = None
            case _:
                truth = self.evaluator.truth(block.test, way.scope, way.frame)
        return truth if truth is None or block.branch == 0 else not truth

    def _is_switched(self, test: ast.expr, scope: Scope) -> bool:
        """Whether a condition reads an attribute of `self` that a method sets later than the constructor."""
        if scope.owner_class is None:
            return False
        read = {n.attr for n in walk(test) if isinstance(n, ast.Attribute)}
        stored = [b for c in self.evaluator.mro(scope.owner_class) for name in read for b in c.attributes.get(name, ())]
        return any(b.scope is not None and b.scope.name != "__init__" for b in stored)


def _agreed(made: Sequence[Made | None]) -> Made | None:
    """The one operation that several ways agree on, at the first of its places."""
    known = [m for m in made if m is not None]
    return known[0] if known and len(known) == len(made) and len({m.op for m in known}) == 1 else None


def _is_for_another(block: Block, criterion: ast.expr, loss: str) -> bool:
    """Whether a branch is taken for another loss alone: `isinstance(criterion, nn.MSELoss)`."""
    match block.test:
        case ast.Call(func=ast.Name(id="isinstance"), args=[tested, kind]) if dotted(tested) == dotted(criterion):
            return (terminal_name(kind) == loss) is (block.branch == 1)
    return False


def _key(node: ast.expr | None) -> Key:
    """An index or a key as written; `ELEMENT` for what is not a number or a word."""
    match node:
        case ast.Constant(value=bool()):
            return ELEMENT
        case ast.Constant(value=int() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)):
            return -value
    return ELEMENT


def _within(model: Thing | None, made: Made | None) -> Made | None:
    """What a model makes, with the outermost model that it is known to be a part of."""
    return replace(made, model=model) if made is not None and isinstance(model, Instance) else made


def _layer(module: Instance) -> str:
    """The torch.nn class of a module in lower case, "" of any other thing."""
    name = external_name(module.cls) or ""
    last = name.rpartition(".")[2]
    return last.lower() if name.startswith("torch.nn.") and last[:1].isupper() else ""


def _spreads(elements: Sequence[ast.expr]) -> bool:
    return any(isinstance(e, ast.Starred) for e in elements)


def _has_rest(binding: Binding) -> bool:
    """Whether a target takes "the rest", as in `first, *rest = …`: what stands behind it has no index of its own."""
    targets = binding.node.targets if isinstance(binding.node, ast.Assign) and binding.unpack else []
    return any(isinstance(n, ast.Starred) for t in targets for n in walk(t))


def _fields(cls: Scope) -> tuple[str, ...]:
    """The fields of a dataclass or NamedTuple, in order."""
    body = cls.node.body if isinstance(cls.node, ast.ClassDef) else []
    return tuple(s.target.id for s in body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name))
