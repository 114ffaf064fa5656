"""One module object as a ModelGraph: its forward, evaluated on symbolic tensors."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.graph.model import WEIGHTED, ModelGraph
from gradlint.location import Location
from gradlint.source.reader.building import MAX_NODES, GraphBuilder, TooLargeError, prune
from gradlint.source.reader.machine import MAX_STEPS
from gradlint.source.reader.operations import Operations
from gradlint.source.reader.statements import Statements
from gradlint.source.reader.values import (
    Array,
    Choice,
    Function,
    Module,
    OutOfStepsError,
    ReadingStoppedError,
    Site,
    Unknown,
)

PLAIN_TYPES = frozenset(["int", "float", "bool", "str"])


class Tracer:
    """Traces modules with one machine."""

    def __init__(self, machine: Statements, strict: bool = False) -> None:
        self.machine = machine
        self.strict = strict
        self.room = MAX_NODES

    def trace(self, root: Module) -> list[ModelGraph]:
        """The graphs of a module: one, or one for each part where it has no forward of its own."""
        forward = root.cls.find("forward") if root.cls else None
        if (
            root.cls is not None
            and root.torch == "Module"
            and not (isinstance(forward, Function) and _does_something(forward))
        ):
            held = [(n, c) for n, v in root.children.items() for c in (v.values if isinstance(v, Choice) else (v,))]
            parts = [(n, c) for n, c in held if isinstance(c, Module) and has_weights(c)]
            graphs = [self._graph(root, part, name) for name, part in parts]
            return [g for g in graphs if any(n.kind in WEIGHTED for n in g.nodes)]
        return [self._graph(root, root, "")]

    def _graph(self, root: Module, called: Module, part: str) -> ModelGraph:
        machine = self.machine
        builder = GraphBuilder(root, min(self.room, MAX_NODES))
        laws_before = {id(a): a.law for a in builder.parameters.values()}
        machine.operations = Operations(builder, machine.make_array)
        machine.steps, machine.limit = 0, MAX_STEPS
        machine.depth = machine.regions = machine.uncertain = 0
        machine.building = 1
        machine.writes = []
        stopped: tuple[Location, str] | None = None
        complete = False
        try:
            complete = self._run(builder, called)
        except ReadingStoppedError as stop:
            stopped = ((stop.site or root.site).location, stop.reason)
        except OutOfStepsError:
            stopped = (root.site.location, f"reading was stopped after {MAX_STEPS} steps")
        except TooLargeError:
            stopped = (root.site.location, f"reading was stopped after {builder.limit} operations")
        except RecursionError:
            stopped = (root.site.location, "the code is nested too deeply to read")
        except Exception as error:
            if self.strict:
                raise
            stopped = (root.site.location, f"internal error, please report ({type(error).__name__}: {error})")
        finally:
            machine.operations = None
            machine.building = 0
        for array in builder.parameters.values():
            array.law = laws_before.get(id(array), array.law)
        if stopped is None and root.opaque is not None:
            stopped = (root.site.location, root.opaque)
        if stopped is None and not complete:
            stopped = (root.site.location, "`forward` returns nothing that can be followed")
        nodes = builder.nodes
        if stopped is None:
            nodes = prune(nodes, {n.id for n in nodes if n.kind == "output"})
        else:  # Elements of a recurrent layer's output that nothing was seen to read.
            read = {i for n in nodes for i in n.inputs}
            nodes = prune(nodes, {n.id for n in nodes if n.op != "getitem" or n.id in read})
        unknown = sorted({n.op for n in nodes if n.kind == "unknown"})
        notes = [*builder.notes, *([f"operations without a reading: {', '.join(unknown)}"] if unknown else [])]
        name = root.class_name if root.cls else root.variable or root.class_name
        return ModelGraph(
            name=f"{name}.{part}" if part else name,
            nodes=tuple(nodes),
            parameters=builder.finished_parameters(),
            location=root.site.location,
            class_name=root.class_name,
            traced_by="source",
            confidence="low" if stopped else "medium" if unknown else "high",
            notes=tuple(notes),
            pretrained=any(m.pretrained for _, m in root.walk()),
            stopped_at=stopped,
        )

    def _run(self, builder: GraphBuilder, called: Module) -> bool:
        machine = self.machine
        assert machine.operations is not None
        forward = called.cls.find("forward") if called.cls else None
        args: list[Any] = []
        site = called.site
        if isinstance(forward, Function):
            spec = forward.node.args
            names = [*spec.posonlyargs, *spec.args][1:]
            required = names[: len(names) - len(forward.defaults)] if forward.defaults else names
            for argument in required or names[:1]:
                args.append(self._input(builder, argument, forward))
            if not required and not names and spec.vararg is not None:
                args.append(builder.emit("input", "input", [], None, {}, name="input"))
        else:
            args.append(builder.emit("input", "input", [], None, {}, name="input"))
        result = machine.call(called, args, {}, site)
        outputs = machine.operations.operands([result], site)
        if not outputs:
            return False
        distinct = list({t.node: t for t in outputs}.values())
        builder.emit("output", "output", distinct, None, {}, distinct[0].shape, name="output")
        return True

    def _input(self, builder: GraphBuilder, argument: ast.arg, forward: Function) -> Any:
        annotation = argument.annotation
        if isinstance(annotation, ast.Name) and annotation.id in PLAIN_TYPES:
            return Unknown(f"the argument `{argument.arg}`", numeric=annotation.id in ("int", "float"))
        site = Site(forward.frame.file, argument)
        return builder.emit("input", "input", [], site, {}, name=argument.arg)


def _does_something(forward: Function) -> bool:
    """Whether a forward has a body besides `raise`, `pass` and its docstring."""
    if isinstance(forward.node, ast.Lambda):
        return True
    return not all(
        isinstance(s, (ast.Raise, ast.Pass)) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in forward.node.body
    )


def has_weights(module: Module) -> bool:
    """Whether a module or a descendant owns a parameter."""
    return any(isinstance(a, Array) for _, m in module.walk() for a in m.parameters.values())


def is_model(module: Module) -> bool:
    """Whether a module that nothing owns is worth a graph of its own."""
    if module.owned or module.inner:
        return False
    if module.opaque is not None and module.cls is None:
        return module.torch not in ("Sequential", "ModuleList", "ModuleDict") or has_weights(module)
    if module.cls is not None:
        return has_weights(module) or bool(module.children)
    if module.torch == "Sequential":
        return has_weights(module) or bool(module.children)
    return (
        bool(module.variable)
        and module.torch not in ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict")
        and any(isinstance(a, Array) and a.shape is not None and len(a.shape) > 1 for a in module.parameters.values())
    )
