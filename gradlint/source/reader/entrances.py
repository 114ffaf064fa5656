"""Through which functions of a module class data enters it: its `forward`, or the methods called in its place."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from gradlint.graph.model import WEIGHTED, ModelGraph
from gradlint.source.reader.values import Function, Module, UserClass


def forward_of(cls: UserClass | None) -> Function | None:
    """What a call of a module of this class runs: `forward`, else a `__call__` of its own; None for torch's own."""
    if cls is None:
        return None
    forward = cls.find("forward")
    own = forward if isinstance(forward, Function) else cls.find("__call__")
    return own if isinstance(own, Function) else None


def does_something(function: Function) -> bool:
    """Whether a function has a body besides `raise`, `pass` and its docstring."""
    if isinstance(function.node, ast.Lambda):
        return True
    return not all(
        isinstance(s, (ast.Raise, ast.Pass)) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in function.node.body
    )


def methods_of(cls: UserClass) -> list[Function]:
    """The methods of a class without a forward that take data: those with an argument that has no default."""
    found: dict[str, Function] = {}
    for base in cls.ancestors:
        for name, member in base.members.items() if isinstance(base, UserClass) else ():
            if name not in found and not name.startswith("__") and isinstance(member, Function):
                found[name] = member
    return [f for f in found.values() if f.role == "plain" and does_something(f) and needs_data(f)]


def needs_data(method: Function) -> bool:
    """Whether a method cannot be called without arguments."""
    spec = method.node.args
    return len([*spec.posonlyargs, *spec.args]) - 1 > len(method.defaults)


def runs_alone(module: Module) -> bool:
    """Whether a module is more than a layer or a list of layers, so that its graph says how they are joined."""
    return module.cls is not None or module.torch == "Sequential"


def used_by(graph: ModelGraph) -> frozenset[str]:
    """The names of the parameters that a graph computes with."""
    return frozenset(name for node in graph.nodes for name in node.parameters.values())


def widest(graphs: Iterable[ModelGraph]) -> list[ModelGraph]:
    """The graphs that could be read to the end, without those whose layers all stand in another of them."""
    read = [g for g in graphs if g.stopped_at is None and any(n.kind in WEIGHTED for n in g.nodes)]
    kept: list[ModelGraph] = []
    for graph in sorted(read, key=lambda g: -len(used_by(g))):
        if not any(used_by(graph) <= used_by(k) for k in kept):
            kept.append(graph)
    return [g for g in read if any(g is k for k in kept)]
