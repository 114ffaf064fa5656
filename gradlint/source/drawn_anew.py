"""Models whose loaded weights are drawn anew by the script: nothing of the checkpoint is left in them."""

from __future__ import annotations

import ast
import re

from gradlint.source.evaluate import Evaluator
from gradlint.source.index import Scope, position_of, terminal_name
from gradlint.source.things import FunctionThing, Instance
from gradlint.source.walking import walk

_LAW = re.compile(r"^(xavier|kaiming|orthogonal|trunc_normal|normal|uniform|sparse)_(\w+_)?$")
_WALKS = frozenset({"modules", "named_modules", "parameters", "named_parameters"})


def is_drawn_anew(evaluator: Evaluator, root: Instance, variable: str | None) -> bool:
    """Whether the scope that makes a model draws its weights: `model.apply(fn)`, or a helper that walks its modules.

    A helper that asks for names only means some of the layers, and is none.
    """
    if root.call is None or variable is None:
        return False
    start, path = position_of(root.call), _path_of(root)
    for site in root.scope.calls:
        node = site.node
        if len(node.args) != 1 or position_of(node) < start or site.path != path:
            continue
        match node:
            case ast.Call(func=ast.Attribute(value=owner, attr="apply"), args=[law]) if ast.unparse(owner) == variable:
                if any(_draws(f) for f in evaluator.ask(law, root.scope, root.frame)):
                    return True
            case ast.Call(args=[ast.Name(id=name)]) if name == variable:
                functions = evaluator.ask(node.func, root.scope, root.frame)
                if any(_draws(f) and isinstance(f, FunctionThing) and f.scope.words & _WALKS for f in functions):
                    return True
    return False


def _path_of(root: Instance) -> object:
    return next((s.path for s in root.scope.calls if s.node is root.call), ())


def _draws(thing: object) -> bool:
    """Whether a function draws the weights of every layer of a kind."""
    if not isinstance(thing, FunctionThing):
        return False
    scope = thing.scope
    laws = [s for s in scope.calls if _LAW.match(s.name)]
    return bool(laws) and not _asks_names(scope)


def _asks_names(scope: Scope) -> bool:
    """Whether the function picks layers by name or by whether they are trained."""
    if "requires_grad" in scope.words:
        return True
    tests = [b.test for s in scope.calls for b in s.path if b.kind == "if" and b.test is not None]
    return any(isinstance(n, ast.Constant) and isinstance(n.value, str) for t in tests for n in walk(t)) and not any(
        isinstance(n, ast.Call) and terminal_name(n.func) in {"isinstance", "hasattr", "find"}
        for t in tests
        for n in walk(t)
    )
