"""Whether a value in a function can still carry a gradient, or was cut from its graph on the way."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from gradlint.source.frozen import call_is_under_no_grad
from gradlint.source.index import Binding, CallSite, Scope, dotted, position_of
from gradlint.source.models import Models
from gradlint.source.reaching import reaching
from gradlint.source.things import ClassThing, External, FunctionThing, Instance, Thing, Things, Unknown, external_name

CUTTING_METHODS = frozenset({"detach", "item", "numpy", "tolist", "argmax", "argmin", "argsort"})
_CUTTING_FUNCTIONS = frozenset(
    [
        *("torch.tensor", "torch.Tensor", "torch.FloatTensor", "torch.LongTensor", "torch.cuda.FloatTensor"),
        *("torch.from_numpy", "torch.autograd.Variable", "torch.argmax", "torch.argmin", "torch.argsort"),
        *("builtins.float", "builtins.int"),
    ]
)
_WITH_INDICES = frozenset({"max", "min", "topk", "sort", "median", "mode", "kthvalue", "cummax"})
"""Functions whose second result are indices."""

_JOINING = frozenset(
    {"builtins.sum", "builtins.max", "builtins.min", "builtins.list", "builtins.tuple", "builtins.abs"}
)
_TENSOR_METHODS = frozenset(
    [
        *("view", "reshape", "squeeze", "unsqueeze", "flatten", "permute", "transpose", "contiguous", "t", "expand"),
        *("to", "cuda", "cpu", "float", "double", "half", "long", "int", "clone", "mean", "sum", "max", "min", "abs"),
        *("pow", "exp", "log", "sqrt", "softmax", "log_softmax", "sigmoid", "tanh", "clamp", "gather", "norm", "std"),
        *("type", "type_as", "mul", "add", "sub", "div", "neg", "masked_select", "index_select", "size", "backward"),
    ]
)
_DATA = re.compile(
    r"^(x|y|X|Y|y_true|data|inputs?|targets?|labels?|images?|imgs?|batch\w*|masks?|\w*_?(loader|dataset|iter))$",
    re.IGNORECASE,
)
"""Names of parameters that are batches and targets."""

_MODEL = re.compile(r"(^|\.)(model|\w*_model|net|\w*net|encoder|decoder|classifier|generator|policy_net)(\.forward)?$")
"""Names that only models are called by."""

_TRAINER = re.compile(
    r"(^|[._])(self|autograd|engine|model|module|trainer|strategy|plugin|booster|amp|ddp|net)\d*$|accelerator|fabric|optim"
    r"|scaler",
    re.IGNORECASE,
)
"""Names of what runs a backward from the loss that it is given; tensors run it from themselves."""

MAX_STEPS = 400
MAX_DEPTH = 24


@dataclass(frozen=True)
class Flow:
    """What is known of a value: `live` (it may carry a gradient), else whether it surely did, and which `cut` ended it.

    `made` is True for what a model surely made; what is not understood may be live, but is no evidence of a cut.
    """

    live: bool = False
    made: bool = False
    cut: ast.expr | None = None


MADE, LIVE, DATA = Flow(True, True), Flow(True), Flow()


class GradientFlow:
    """Follows values back through one function; whatever is not understood counts as live."""

    def __init__(self, models: Models, scope: Scope) -> None:
        self.models = models
        self.evaluator = models.evaluator
        self.scope = scope
        self._sites = {id(s.node): s for s in scope.calls}
        self._left = MAX_STEPS

    def of(self, node: ast.expr, depth: int = 0) -> Flow:
        """The flow of an expression of this function."""
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            return LIVE
        match node:
            case ast.Constant() | ast.JoinedStr() | ast.Lambda():
                return DATA
            case ast.Name():
                return self._name(node, depth)
            case ast.Attribute(value=value, attr=attr):
                return self._attribute(node, value, attr, depth)
            case ast.Call():
                return self._call(node, depth)
            case ast.Compare(left=left, comparators=others):
                return _cut(self._all([left, *others], depth), node)
            case ast.BinOp(left=left, right=right):
                return self._all([left, right], depth)
            case ast.UnaryOp(operand=value) | ast.Starred(value=value) | ast.Subscript(value=value):
                return self.of(value, depth + 1)
            case ast.IfExp(body=body, orelse=orelse):
                return self._all([body, orelse], depth)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return self._all(elements, depth)
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
                return self.of(element, depth + 1)
        return LIVE

    def _all(self, nodes: list[ast.expr], depth: int) -> Flow:
        return _together([self.of(n, depth + 1) for n in nodes])

    # -- names ---------------------------------------------------------------------------------------------

    def _name(self, node: ast.Name, depth: int) -> Flow:
        if node.id in self.scope.filled():
            return LIVE
        bindings = self.scope.bindings.get(node.id)
        if not bindings or node.id in self.scope.globals:
            return self._outer(node)
        return self._bound(node.id, bindings, position_of(node), depth)

    def _bound(self, name: str, bindings: list[Binding], at: tuple[int, int], depth: int) -> Flow:
        path = self.scope.path_around(at, bindings)
        found = [self._binding(b, depth) for b, _ in reaching(bindings, at, path)]
        later = [b for b in bindings if b.position > at and any(p.kind == "loop" and p in path for p in b.path)]
        if later and not found:
            return LIVE
        appended = [
            self.of(a, depth + 1)
            for s in self.scope.calls
            if isinstance(s.node.func, ast.Attribute)
            and s.node.func.attr in {"append", "extend"}
            and dotted(s.node.func.value) == name
            for a in s.node.args
        ]
        return _together([*found, *appended]) if found else LIVE

    def _binding(self, binding: Binding, depth: int) -> Flow:
        value = binding.value
        match binding.kind:
            case "assign" if value is not None:
                flow = self.of(value, depth + 1)
                if binding.unpack == (1,) and _gives_indices(value):
                    return _cut(flow, value)
                return flow
            case "augment" if value is not None:
                before = [b for b in self.scope.bindings[binding.name] if b.position < binding.position]
                old = self._bound(binding.name, before, binding.position, depth + 1) if before else LIVE
                return _together([old, self.of(value, depth + 1)])
            case "for" if value is not None:
                return self._items(value, depth)
            case "parameter":
                return DATA if _DATA.match(binding.name) else LIVE
        return LIVE

    def _items(self, iterable: ast.expr, depth: int) -> Flow:
        """The flow of what a loop runs over: batches carry none, lists what was put into them."""
        match iterable:
            case ast.Call(func=ast.Name(id="enumerate" | "zip" | "tqdm" | "reversed" | "range"), args=args):
                return _together([self._items(a, depth + 1) for a in args])
            case ast.Name(id=name):
                known = self.scope.bindings.get(name, [])
                lists = [b for b in known if isinstance(b.value, (ast.List, ast.ListComp, ast.Tuple))]
                return self._name(iterable, depth + 1) if lists or any(b.kind == "augment" for b in known) else DATA
            case ast.List() | ast.Tuple() | ast.ListComp():
                return self.of(iterable, depth + 1)
        return DATA

    def _outer(self, node: ast.Name) -> Flow:
        """A name of the module: a plain value or a module of Python carries nothing."""
        things = self.evaluator.ask(node, self.scope)
        return LIVE if not things or any(isinstance(t, (Instance, Unknown)) for t in things) else DATA

    def _attribute(self, node: ast.Attribute, value: ast.expr, attr: str, depth: int) -> Flow:
        if attr == "data":
            return _cut(self.of(value, depth + 1), node)
        if attr in {"shape", "device", "dtype", "ndim"}:
            return DATA
        if isinstance(value, ast.Name) and value.id not in {"self", "cls"}:
            return self.of(value, depth + 1)
        return LIVE

    # -- calls ---------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call, depth: int) -> Flow:
        flow = self._called(node, depth)
        site = self._sites.get(id(node))
        return _cut(flow, node) if site is not None and call_is_under_no_grad(site) else flow

    def _called(self, node: ast.Call, depth: int) -> Flow:
        arguments = [*node.args, *(k.value for k in node.keywords)]
        func = node.func
        things = self.evaluator.ask(func, self.scope)
        if self._is_model(things) or _MODEL.search(dotted(func) or ""):
            return MADE
        if any(k.arg == "requires_grad" for k in node.keywords):
            return LIVE
        names = {external_name(t) or "" for t in things if isinstance(t, External)}
        if "builtins.len" in names:
            return DATA
        if names and all(n in _CUTTING_FUNCTIONS or n.startswith(("numpy.", "sklearn.")) for n in names):
            return _cut(self._all(arguments, depth), node)
        if any(n.rpartition(".")[2][:1].isupper() for n in names):
            return LIVE  # A module or a parameter is made.
        if names and all(n.startswith("torch.") or n in _JOINING for n in names):
            return self._all(arguments, depth)
        if self._is_criterion(things):
            return self._all(arguments, depth)
        if isinstance(func, ast.Attribute):
            if func.attr in CUTTING_METHODS:
                return _cut(self.of(func.value, depth + 1), node)
            if func.attr == "requires_grad_":
                before = self.of(func.value, depth + 1)
                return before if before.cut is not None else LIVE
            if func.attr in _TENSOR_METHODS:
                return self._all([func.value, *arguments], depth)
        return LIVE

    def _is_model(self, things: Things) -> bool:
        runs = (t.receiver if isinstance(t, FunctionThing) and t.scope.name == "forward" else t for t in things)
        return bool(things) and all(
            isinstance(t, Instance) and self.models.is_model(t) and not _is_loss(t) for t in runs
        )

    def _is_criterion(self, things: Things) -> bool:
        names = [external_name(t) or "" for t in things if isinstance(t, Instance)]
        return bool(names) and len(names) == len(things) and all(re.match(r"torch\.nn\.\w+Loss$", n) for n in names)


def _is_loss(thing: Thing) -> bool:
    """Whether a module is a loss written in the project, whose weights are none or few."""
    return (
        isinstance(thing, Instance)
        and isinstance(thing.cls, ClassThing)
        and bool(re.search("loss|criterion", thing.cls.scope.name, re.IGNORECASE))
    )


def _together(flows: list[Flow]) -> Flow:
    if any(f.live for f in flows):
        return Flow(True, any(f.made for f in flows))
    return next((f for f in flows if f.cut is not None), DATA)


def _cut(flow: Flow, node: ast.expr) -> Flow:
    return Flow(cut=node if flow.made else None) if flow.live else flow


def _gives_indices(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _WITH_INDICES


def backwards(scope: Scope) -> list[tuple[CallSite, ast.expr]]:
    """The calls `loss.backward()` of a function with the expression that they start from."""
    found = []
    for site in scope.calls:
        if site.name != "backward":
            continue
        match site.node:
            case ast.Call(
                func=ast.Attribute(value=ast.Call(func=ast.Attribute(attr="scale"), args=[loss]), attr="backward")
            ):
                found.append((site, loss))
            case ast.Call(func=ast.Attribute(value=trainer, attr="backward"), args=[ast.Name() as loss]):
                # `outputs.backward(gradient)` starts from the outputs, `accelerator.backward(loss)` from the loss.
                found.append((site, loss if _TRAINER.search(dotted(trainer) or "") else trainer))
            case ast.Call(func=ast.Attribute(value=loss, attr="backward"), args=[]):
                found.append((site, loss))
    return found
