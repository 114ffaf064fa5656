"""Weights that a script loads into a model with `load_state_dict`: a pretrained start, or training resumed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint.source.evaluate import Evaluator
from gradlint.source.index import CallSite, Scope, location, position_of, terminal_name
from gradlint.source.pretrained import family
from gradlint.source.resolve import resolve
from gradlint.source.script import Pretrained
from gradlint.source.things import ClassThing, Instance, external_name
from gradlint.source.value import Call
from gradlint.source.walking import walk

_RESUMES = re.compile(r"resume|checkpoint|ckpt|last|best|save|test|eval|epoch|restore|continue|snapshot", re.IGNORECASE)
"""Words in a path or a condition that tell a run's own earlier state from a pretrained one."""

_NOT_TRAINING = re.compile(r"test|eval|infer|demo|sample|predict|export|convert|valid", re.IGNORECASE)

_LOADERS = frozenset({"load", "load_url", "load_state_dict_from_url", "load_file", "load_weights", "safe_load_file"})

MAX_NAMES = 4
"""How many assignments are followed from `load_state_dict(state)` back to `torch.load(path)`."""


def checkpoint_of(evaluator: Evaluator, root: Instance, variable: str | None) -> Pretrained | None:
    """The checkpoint that is loaded where a model is made; None for none, a copy of another model, or a resumed run.

    It is certain if the load is unconditional, its file is read right there, and the network is of a known family:
    of a project's own network nobody can say which rates its earlier training bore.
    """
    if root.call is None or variable is None or _NOT_TRAINING.search(root.scope.name):
        return None
    for site in root.scope.calls:
        func = site.node.func
        if terminal_name(func) != "load_state_dict" or not isinstance(func, ast.Attribute):
            continue
        if ast.unparse(func.value).removesuffix(".module") != variable or evaluator.dead(site.path, root.scope):
            continue
        parts = list(_sources(site.node.args[0], root.scope)) if site.node.args else []
        text = " ".join([ast.unparse(site.node), *map(ast.unparse, parts)])
        if _RESUMES.search(text) or _RESUMES.search(" ".join(ast.unparse(b.test) for b in site.path if b.test)):
            continue
        calls = [n for part in parts for n in walk(part) if isinstance(n, ast.Call)]
        if any(terminal_name(c.func) == "state_dict" for c in calls):
            continue
        if _trained_before(site, variable):
            continue
        read = any(terminal_name(c.func) in _LOADERS for c in calls)
        branches = tuple(b for b in site.path if b.kind in {"if", "case", "handler"})
        certain = read and not root.conditional and (not branches or evaluator.taken(branches, root.scope))
        name = root.cls.scope.name if isinstance(root.cls, ClassThing) else external_name(root.cls) or ""
        kind, size = family(f"{name} {text}")
        certain = certain and kind != "other"
        arguments = {"0": resolve(evaluator, site.node.args[0], site.scope)} if site.node.args else {}
        call = Call(("torch.nn.Module.load_state_dict",), location(root.scope.file, site.node), arguments)
        return Pretrained(kind, call, None, size, certain)
    return None


def _trained_before(load: CallSite, variable: str) -> bool:
    """Whether an optimizer got the model's parameters before the load, which then is of the best epoch, for a test."""
    at = position_of(load.node)
    for call in load.scope.calls:
        func = call.node.func
        if (
            isinstance(func, ast.Attribute)
            and func.attr in {"parameters", "named_parameters"}
            and (ast.unparse(func.value).removesuffix(".module") == variable and position_of(call.node) < at)
        ):
            return True
    return False


def _sources(value: ast.expr, scope: Scope) -> Iterator[ast.expr]:
    """The expression and what was assigned to the names in it."""
    seen: set[str] = set()
    queue = [value]
    while queue and len(seen) <= MAX_NAMES:
        current = queue.pop(0)
        yield current
        for node in walk(current):
            if isinstance(node, ast.Name) and node.id not in seen:
                seen.add(node.id)
                queue += [
                    b.value for b in scope.bindings.get(node.id, []) if b.value is not None and b.kind == "assign"
                ]
