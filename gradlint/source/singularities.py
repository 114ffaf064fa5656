"""Where a loss, or what a module returns, takes a logarithm, a root or a quotient that can be infinitely steep."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from gradlint.source.computed_from import ComputedFrom, ends
from gradlint.source.gradient_flow import GradientFlow
from gradlint.source.index import (
    FileIndex,
    Scope,
    dotted,
    first_parameter,
    location,
    position_of,
    terminal_name,
)
from gradlint.source.models import Models
from gradlint.source.reaching import reaching
from gradlint.source.script import Singularity
from gradlint.source.squares import Applied, complement, is_masked_sum_of_exponentials, is_of_squares
from gradlint.source.things import ClassThing, External, Instance, Member, Unknown, external_name
from gradlint.source.walking import walk

GUARDS = frozenset({"where", "nan_to_num", "masked_select", "isfinite", "item"})
"""Calls that may take out what is not finite, or make a number of it."""

LOGARITHMS = frozenset({"log", "log2", "log10"})
ROOTS = frozenset({"sqrt", "rsqrt"})
_CANDIDATES = LOGARITHMS | ROOTS | {"pow", "float_power", "**"}

_TARGETS = re.compile(r"^(self|cls|y|y_true|targets?|labels?|gt\w*|masks?|t|eps\w*|alpha\w*|beta\w*|sigma\w*)$")
VIEWS = frozenset(
    [
        *("squeeze", "unsqueeze", "view", "reshape", "flatten", "permute", "transpose", "contiguous", "t", "float"),
        *("gather", "select", "index_select", "expand", "repeat", "expand_as"),
    ]
)
"""What moves elements about: an element that is 0 stays 0."""


class Singularities:
    """Reads training functions, functions and modules that compute losses, and the `forward` of modules."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.evaluator = models.evaluator

    def of(self, index: FileIndex) -> Iterator[Singularity]:
        """Those of a file, each expression once."""
        found: dict[int, Singularity] = {}
        for scope in index.scopes:
            if scope.words.isdisjoint(_CANDIDATES):
                continue
            for expression in ends(scope, self.models):
                for node in ComputedFrom(scope, GUARDS).of(expression):
                    known = self._singular(node, scope)
                    if known is not None:
                        found.setdefault(id(node), known)
        yield from sorted(found.values(), key=lambda s: (s.location.line, s.location.column))

    def _singular(self, node: ast.expr, scope: Scope) -> Singularity | None:
        match node:
            case ast.Call(func=func) if terminal_name(func) in _CANDIDATES:
                pass
            case ast.BinOp(op=ast.Pow()):
                pass
            case _:
                return None
        op, argument = self._applied(node, scope)
        if argument is None:
            return None
        inner = _resolved(argument, scope)
        how = None
        if op in LOGARITHMS:
            how = self._cut_off(inner, scope) or self._probability(inner, scope) or self._masked(inner, scope)
            how = how or self._complementary(argument, inner, scope)
        elif op in ROOTS:
            how = self._cut_off(inner, scope) or self._distance(inner, scope) or self._norm(inner, scope)
            if how == "rectified" and op == "sqrt":
                how = None  # Finite, and the slope of a ReLU at 0 is taken for 0.
        if how is None or not self._is_trained(argument, scope):
            return None
        return Singularity(op, how, ast.unparse(node), location(scope.file, node))

    # -- what is applied -----------------------------------------------------------------------------------

    def _applied(self, node: ast.expr, scope: Scope) -> tuple[str, ast.expr | None]:
        """The tensor operation that an expression is, and what it is applied to; ("", None) for anything else."""
        match node:
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return _power(right), left
            case ast.Call(func=func, args=args):
                things = self.evaluator.ask(func, scope)
                names = {external_name(t) for t in things if isinstance(t, (External, Instance))}
                if len(names) == 1 and len(things) == 1 and (name := next(iter(names))) is not None:
                    if not name.startswith("torch."):
                        return "", None
                    op = name.rpartition(".")[2].lower()
                    argument = args[0] if args else None
                    if op == "sequential" and isinstance(thing := next(iter(things)), Instance) and thing.call:
                        return _last_part(thing.call), argument
                elif isinstance(func, ast.Attribute) and all(isinstance(t, (Member, Unknown)) for t in things):
                    op, argument = func.attr, func.value
                    args = [argument, *args]
                else:
                    return self._model_end(node, scope), args[0] if args else None
                if op in {"pow", "float_power"} and len(args) == 2:
                    return _power(args[1]), argument
                return op, argument
        return "", None

    def _model_end(self, call: ast.Call, scope: Scope) -> str:
        """The activation in which a module of the project surely ends, "" where it is not known."""
        things = self.evaluator.ask(call.func, scope)
        if len(things) != 1:
            return ""
        thing = next(iter(things))
        if not isinstance(thing, Instance) or not isinstance(thing.cls, ClassThing):
            return ""
        forward = thing.cls.scope.method("forward")
        if forward is None or len(forward.returns) != 1:
            return ""
        returned = _resolved(forward.returns[0][0], forward)
        match returned:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=layer)) if owner == first_parameter(
                forward
            ) and (held := thing.cls.scope.attributes.get(layer)):
                match held[0].value if len(held) == 1 else None:
                    case ast.Call(func=made) as call if terminal_name(made) == "Sequential":
                        return _last_part(call)
            case ast.Call(func=func) if terminal_name(func).lower() in {"sigmoid", "softmax"}:
                return self._applied(returned, forward)[0]
        return ""

    # -- what it is applied to -----------------------------------------------------------------------------

    def _cut_off(self, node: ast.expr, scope: Scope) -> str | None:
        """Whether an expression is 0 for a share of what goes in, by what makes it so."""
        op, _ = self._applied(node, scope)
        if op in {"relu", "relu6"}:
            return "rectified"
        if op in {"clamp", "clamp_min", "clip"} and isinstance(node, ast.Call):
            bounds = [*node.args, *(k.value for k in node.keywords if k.arg == "min")]
            method = isinstance(node.func, ast.Attribute) and op == node.func.attr and not _of_torch(node.func.value)
            bounds = bounds if method else bounds[1:]
            if bounds and isinstance(bounds[0], ast.Constant) and bounds[0].value in (0, 0.0):
                return "clamped"
        return None

    def _probability(self, node: ast.expr, scope: Scope) -> str | None:
        match node:
            case ast.BinOp(left=ast.Constant(value=1 | 1.0), op=ast.Sub(), right=right):
                op, _ = self._applied(_resolved(right, scope), scope)
                return f"1-{op}" if op in {"sigmoid", "softmax"} else None
        op, _ = self._applied(node, scope)
        return op if op in {"sigmoid", "softmax"} else None

    def _distance(self, node: ast.expr, scope: Scope) -> str | None:
        """A squared distance: of a tensor to itself, whose diagonal is 0, or of two, which may meet."""
        op, argument = self._applied(node, scope)
        if op in {"mse_loss", "mseloss"}:
            return "error"
        if op not in {"sum", "mean"} or argument is None:
            return None
        op, argument = self._applied(_resolved(argument, scope), scope)
        if op != "square" or argument is None:
            return None
        match _resolved(argument, scope):
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                one, other = _root(left), _root(right)
                if one is not None and one == other and ast.unparse(left) != ast.unparse(right):
                    return "itself" if _broadcast(left) and _broadcast(right) else None
                return "error"
        return None

    def _norm(self, node: ast.expr, scope: Scope) -> str | None:
        """A norm that is written out: the root of the squares of a tensor, which `torch.norm` gives a slope at 0."""
        return "squares" if is_of_squares(node, *self._readers(scope)) else None

    def _masked(self, node: ast.expr, scope: Scope) -> str | None:
        return "masked" if is_masked_sum_of_exponentials(node, *self._readers(scope)) else None

    def _readers(self, scope: Scope) -> tuple[Applied, Callable[[ast.expr], ast.expr]]:
        """What an expression of a function applies, and what its name stands for."""
        return (lambda node: self._applied(node, scope)), (lambda node: _resolved(node, scope))

    def _complementary(self, argument: ast.expr, inner: ast.expr, scope: Scope) -> str | None:
        """A probability by its use: the logarithms of `p` and of `1 - p` are both taken, or of one of them by label."""
        match inner:
            case ast.Call(func=func, args=[_, one, other]) if terminal_name(func) == "where":
                for either, rest in ((one, other), (other, one)):
                    if (left := complement(rest)) is not None and ast.dump(left) == ast.dump(either):
                        return "1-probability" if self._is_raw(either, scope) else None
        p = complement(inner)
        probability = argument if p is None else p
        if not self._is_raw(probability, scope):
            return None
        text = ast.dump(probability)
        for site in scope.calls:
            op, other_argument = self._applied(site.node, scope)
            if op not in LOGARITHMS or other_argument is None:
                continue
            partner = complement(other_argument)
            if (ast.dump(partner) if partner is not None else ast.dump(other_argument)) == text and (
                (partner is None) is not (p is None)
            ):
                return "probability" if p is None else "1-probability"
        return None

    def _is_raw(self, node: ast.expr, scope: Scope) -> bool:
        """Whether a probability comes as it is from a parameter of the function, or from a model."""
        match _resolved(node, scope):
            case ast.Name(id=name):
                return not _is_changed(scope, name) and any(b.kind == "parameter" for b in scope.bindings.get(name, []))
            case ast.Call(func=func):
                things = self.evaluator.ask(func, scope)
                return bool(things) and all(isinstance(t, Instance) and self.models.is_model(t) for t in things)
        return False

    def _is_trained(self, node: ast.expr, scope: Scope) -> bool:
        """Whether a gradient has to pass the expression."""
        if "backward" in scope.words and scope.owner_class is None:
            return GradientFlow(self.models, scope).of(node).made
        me = first_parameter(scope) if scope.owner_class else None
        for inner in ComputedFrom(scope, GUARDS).of(node):
            match inner:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner))) if owner == me:
                    return True
                case ast.Name(id=name) if not _TARGETS.match(name):
                    if any(b.kind == "parameter" for b in scope.bindings.get(name, [])):
                        return True
        return False


def _resolved(node: ast.expr, scope: Scope) -> ast.expr:
    """What an expression is, behind views of it and through the one assignment of a variable."""
    for _ in range(12):
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in VIEWS and not _of_torch(value):
                node = value
            case ast.Subscript(value=value):
                node = value
            case ast.Name(id=name):
                at = position_of(node)
                known = scope.bindings.get(name, [])
                found = reaching(known, at, scope.path_around(at, known))
                if len(found) != 1 or _is_changed(scope, name):
                    return node
                binding = found[0][0]
                if binding.kind != "assign" or binding.value is None or binding.unpack:
                    return node
                node = binding.value
            case _:
                return node
    return node


def _power(exponent: ast.expr) -> str:
    match exponent:
        case ast.Constant(value=0.5):
            return "sqrt"
        case ast.Constant(value=2):
            return "square"
    return ""


def _last_part(sequential: ast.Call) -> str:
    """The class that the last part of an `nn.Sequential(…)` is made of, in lower case; "" where it is not written."""
    match sequential.args:
        case [*_, ast.Call(func=last)]:
            return terminal_name(last).lower()
    return ""


def _is_changed(scope: Scope, name: str) -> bool:
    """Whether a variable is written to in place, as `p.clamp_(1e-8)` or `p[p == 0] = 1`."""
    for node in walk(scope.node):
        match node:
            case ast.Subscript(value=ast.Name(id=written), ctx=ast.Store()) if written == name:
                return True
            case ast.Call(func=ast.Attribute(value=ast.Name(id=written), attr=attr)) if (
                written == name and attr.endswith("_")
            ):
                return True
    return False


def _of_torch(node: ast.expr) -> bool:
    return (dotted(node) or "") in {"torch", "F", "nn.functional", "torch.nn.functional"}


def _root(node: ast.expr) -> str | None:
    """The variable that an expression is a view of."""
    while True:
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in VIEWS and not _of_torch(value):
                node = value
            case ast.Subscript(value=value):
                node = value
            case _:
                return dotted(node)


def _broadcast(node: ast.expr) -> bool:
    """Whether a view adds an axis: `x.unsqueeze(0)`, `x[:, None]`."""
    text = ast.unparse(node)
    return "unsqueeze" in text or "None" in text
