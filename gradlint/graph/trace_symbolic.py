"""A symbolic trace of a model, in the form in which a recorded run is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from gradlint.graph.kinds import function_kind, leaf_class, module_kind, operation_name, role
from gradlint.graph.naming import Namer
from gradlint.graph.record import Record
from gradlint.location import Location

MAX_RETRIES = 40

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH = str(Path(torch.__file__).parent)


class _Tracer(fx.Tracer):
    """Enters everything but torch.nn leaves of known kind and those modules that cannot be entered."""

    def __init__(self, closed: set[str]) -> None:
        super().__init__()
        self.record_stack_traces = True
        self.closed = closed
        self.entered: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.closed or leaf_class(m) is not None:
            return True
        self.entered.append(module_qualified_name)
        return False


def symbolic_graph(module: nn.Module) -> fx.Graph:
    """The fx graph of a module, each node with a `Record` and without shapes.

    A submodule that cannot be entered becomes one unknown operation. Raises what torch.fx raises where even the
    root cannot be followed.
    """
    closed: set[str] = set()
    for _ in range(MAX_RETRIES):
        tracer = _Tracer(closed)
        try:
            graph = tracer.trace(module)
            break
        except Exception:
            failed = tracer.entered[-1] if tracer.entered else None
            if not failed or failed in closed:
                raise
            closed.add(failed)
    else:
        raise RuntimeError("too many submodules cannot be followed")
    _annotate(graph, module)
    return graph


def _annotate(graph: fx.Graph, module: nn.Module) -> None:
    namer = Namer(module)
    modules = dict(module.named_modules())
    for node in list(graph.nodes):
        node.meta["gradlint"] = _record(node, namer, modules, module)


def _record(node: fx.Node, namer: Namer, modules: dict[str, nn.Module], root: nn.Module) -> Record:
    operands = _nodes((node.args, node.kwargs))
    if node.op in ("placeholder", "output"):
        end = "input" if node.op == "placeholder" else "output"
        return Record(node.name, end, end, {"dtype": None} if end == "input" else {}, operands=operands)
    if node.op == "get_attr":
        value: Any = root
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return Record(
            str(node.target),
            "parameter",
            "parameter" if isinstance(value, nn.Parameter) else "buffer",
            parameters={"weight": str(node.target)},
            shape=tuple(value.shape) if isinstance(value, Tensor) else None,
        )
    if node.op == "call_module":
        path = str(node.target)
        leaf = modules[path]
        found = module_kind(leaf)
        parameters = {role(own): name for own, p in leaf.named_parameters() if (name := namer.parameter(p)) is not None}
        return Record(
            namer.module_call(path),
            found.kind if found else "unknown",
            found.op if found else type(leaf).__name__,
            dict(found.attributes) if found else {},
            parameters,
            path,
            operands[:3] if found and found.kind == "attention" else operands,
            location=_location(node),
        )
    op = str(node.target) if node.op == "call_method" else operation_name(node.target)
    op = operation_name(getattr(Tensor, op)) if node.op == "call_method" and hasattr(Tensor, op) else op
    stand_in = torch.empty((), device="meta")
    args = fx.node.map_arg(node.args, lambda n: stand_in)
    kwargs = fx.node.map_arg(node.kwargs, lambda n: stand_in)
    kind = function_kind(op, args, kwargs)
    floating = op not in ("size", "dim", "shape", "getattr", "numel")
    return Record(
        namer.function_call(op),
        kind.kind,
        kind.op,
        dict(kind.attributes),
        operands=operands,
        floating=floating,
        location=_location(node),
    )


def _location(node: fx.Node) -> Location | None:
    """The innermost line outside of torch that called an operation."""
    frames = [(path, int(line)) for path, line in _FRAME.findall(node.stack_trace or "")]
    return next((Location(path, line) for path, line in reversed(frames) if not path.startswith(_TORCH)), None)


def _nodes(value: Any) -> list[fx.Node]:
    match value:
        case fx.Node():
            return [value]
        case list() | tuple():
            return [n for v in value for n in _nodes(v)]
        case dict():
            return [n for v in value.values() for n in _nodes(v)]
        case slice():
            return _nodes((value.start, value.stop, value.step))
        case _:
            return []
