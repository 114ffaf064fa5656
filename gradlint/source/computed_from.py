"""What a loss, or what a module returns, is computed from within one function, as far as a gradient goes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint.source.frozen import is_under_no_grad
from gradlint.source.gradient_flow import CUTTING_METHODS, backwards
from gradlint.source.index import Scope, position_of, terminal_name
from gradlint.source.models import Models
from gradlint.source.reaching import reaching
from gradlint.source.walking import child_nodes

_LOSS = re.compile(r"loss|criterion|(^|_)(nll|bce|kld|elbo)(_|$)", re.IGNORECASE)
_MEASURES = re.compile(r"eval|test|valid|metric|score|accuracy", re.IGNORECASE)

MAX_EXPRESSIONS = 300


class ComputedFrom:
    """The expressions of one function that a value of it is computed from; calls named in `guards` are not entered."""

    def __init__(self, scope: Scope, guards: frozenset[str] = frozenset()) -> None:
        self.scope = scope
        self.guards = guards

    def of(self, end: ast.expr) -> Iterator[ast.expr]:
        """The end first."""
        queue, seen = [end], set[int]()
        while queue and len(seen) < MAX_EXPRESSIONS:
            node = queue.pop(0)
            if id(node) in seen:
                continue
            seen.add(id(node))
            match node:
                case ast.Call(func=ast.Attribute(attr=attr)) if attr in CUTTING_METHODS:
                    continue
                case ast.Call(func=func) if terminal_name(func) in self.guards:
                    continue
                case ast.Attribute(attr="data") | ast.Compare() | ast.Lambda():
                    continue
                case ast.Name(id=name):
                    at = position_of(node)
                    known = self.scope.bindings.get(name, [])
                    found = reaching(known, at, self.scope.path_around(at, known)) if known else []
                    if not any(is_under_no_grad(b.path) for b, _ in found):
                        queue += [b.value for b, _ in found if b.value is not None and b.kind in {"assign", "augment"}]
            yield node
            queue += [n for n in child_nodes(node) if isinstance(n, ast.expr)]
            queue += [k.value for k in node.keywords] if isinstance(node, ast.Call) else []


def ends(scope: Scope, models: Models) -> Iterator[ast.expr]:
    """What `backward()` starts from in a function, or what a loss or a module's `forward` returns."""
    if scope.kind in {"function", "module"} and "backward" in scope.words:
        yield from (loss for site, loss in backwards(scope) if not is_under_no_grad(site.path))
    if scope.kind != "function" or _is_decorated_quiet(scope):
        return
    cls = scope.owner_class
    in_module = cls is not None and scope.name in {"forward", "training_step"} and models.is_module(cls)
    if in_module or (_LOSS.search(scope.name) and not _MEASURES.search(scope.name)):
        yield from (value for value, path in scope.returns if value is not None and not is_under_no_grad(path))


def _is_decorated_quiet(scope: Scope) -> bool:
    decorators = getattr(scope.node, "decorator_list", ())
    return any(re.search("no_grad|inference_mode", ast.unparse(d)) for d in decorators)
