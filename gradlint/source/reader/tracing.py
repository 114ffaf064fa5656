"""One module object as a ModelGraph: its forward, evaluated on symbolic tensors."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.graph.model import WEIGHTED, ModelGraph
from gradlint.location import Location
from gradlint.source.reader.assumptions import MAX_ALTERNATIVES, MAX_READINGS, Assumptions, Question
from gradlint.source.reader.building import MAX_NODES, GraphBuilder, TooLargeError, fuse_activations, prune
from gradlint.source.reader.entrances import does_something, forward_of, methods_of, runs_alone, used_by, widest
from gradlint.source.reader.machine import MAX_STEPS
from gradlint.source.reader.operations import Operations
from gradlint.source.reader.statements import Statements
from gradlint.source.reader.values import (
    Array,
    Bound,
    Choice,
    Function,
    Module,
    OutOfStepsError,
    ReadingStoppedError,
    Unknown,
    UserClass,
    site_of,
)

PLAIN_TYPES = frozenset(["int", "float", "bool", "str"])


class _State:
    """What a module and its parts hold, to be put back after a forward pass that changes it."""

    def __init__(self, modules: list[tuple[str, Module]]) -> None:
        self.kept = [(m, _copied(m.attributes), _copied(m.children), _copied(m.parameters)) for _, m in modules]

    def restore(self) -> None:
        """Put everything back."""
        for module, attributes, children, parameters in self.kept:
            module.attributes, module.children, module.parameters = attributes, children, parameters


def _copied(table: dict[str, Any]) -> dict[str, Any]:
    if not table:
        return {}
    copied = table.copy()
    for name, value in table.items():
        if isinstance(value, (list, dict)):
            copied[name] = value.copy()
    return copied


class Tracer:
    """Traces modules with one machine."""

    def __init__(self, machine: Statements, strict: bool = False) -> None:
        self.machine = machine
        self.strict = strict
        self.room = MAX_NODES
        self.undecided: Question | None = None

    def trace(self, root: Module) -> list[ModelGraph]:
        """The graphs of a module: one, or one for each part where it has no forward of its own."""
        forward = forward_of(root.cls)
        if root.cls is not None and root.torch == "Module" and not (forward and does_something(forward)):
            return self._without_forward(root, root.cls)
        return self._graphs(root, root, "")

    def _without_forward(self, root: Module, cls: UserClass) -> list[ModelGraph]:
        """The graphs of the methods that join its layers, then of each part that none of them runs."""
        held = [(n, c) for n, v in root.children.items() for c in (v.values if isinstance(v, Choice) else (v,))]
        parts = [(n, c) for n, c in held if isinstance(c, Module) and has_weights(c)]
        layers = tuple(f"{name}." for name, part in parts if not runs_alone(part))
        methods = [Bound(m, root) for m in methods_of(cls)] if layers else []
        read = widest(g for m in methods for g in self._graphs(root, m, m.function.name))
        joined = [g for g in read if any(p.startswith(layers) for p in used_by(g))]
        used = frozenset().union(*(used_by(g) for g in joined))
        alone = [(n, c) for n, c in parts if not any(p.startswith(f"{n}.") for p in used)]
        graphs = [g for name, part in alone for g in self._graphs(root, part, name)]
        return joined + [g for g in graphs if any(n.kind in WEIGHTED for n in g.nodes)]

    def _graphs(self, root: Module, called: Module | Bound, part: str) -> list[ModelGraph]:
        """One graph; or, where the way depends on conditions that are not known, one for each that can be read."""
        first = self._graph(root, called, part)
        if self.undecided is None or not has_weights(root):
            return [first]
        pending = Assumptions().answers(self.undecided)
        complete: list[ModelGraph] = []
        for reading in range(MAX_READINGS):
            if not pending or len(complete) == MAX_ALTERNATIVES:
                break
            assumptions = pending.pop(0)
            graph = self._graph(root, called, part, assumptions)
            if graph.stopped_at is None:
                complete.append(graph)
            elif self.undecided is not None and reading < MAX_READINGS - 2:
                pending = [*assumptions.answers(self.undecided), *pending]
        return complete or [first]

    def _graph(
        self, root: Module, called: Module | Bound, part: str, assumptions: Assumptions | None = None
    ) -> ModelGraph:
        machine = self.machine
        machine.assumptions = assumptions or Assumptions()
        self.undecided = None
        modules = list(root.walk())
        state = _State(modules)
        builder = GraphBuilder(modules, min(self.room, MAX_NODES))
        laws_before = {id(a): a.law for a in builder.parameters.values()}
        machine.operations = Operations(builder, machine.make_array)
        machine.steps, machine.limit = 0, MAX_STEPS
        machine.depth = machine.regions = machine.uncertain = machine.rounds = 0
        machine.building = 1
        machine.writes, machine.conditions = [], []
        stopped: tuple[Location, str] | None = None
        complete = False
        try:
            complete = self._run(builder, called)
        except ReadingStoppedError as stop:
            stopped = ((stop.site or root.site).location, stop.reason)
            self.undecided = stop.question
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
        state.restore()
        for array in builder.parameters.values():
            array.law = laws_before.get(id(array), array.law)
        if stopped is None and root.opaque is not None:
            stopped = (root.site.location, root.opaque)
        if stopped is None and not complete:
            stopped = (root.site.location, "`forward` returns nothing that can be followed")
        nodes = fuse_activations(builder.nodes)
        if stopped is None:
            nodes = prune(nodes, {n.id for n in nodes if n.kind == "output"})
        else:  # Elements of a recurrent layer's output that nothing was seen to read.
            read = {i for n in nodes for i in n.inputs}
            nodes = prune(nodes, {n.id for n in nodes if n.op != "getitem" or n.id in read})
        unknown = sorted({n.op for n in nodes if n.kind == "unknown"})
        notes = [*builder.notes, *([f"operations without a reading: {', '.join(unknown)}"] if unknown else [])]
        told = machine.assumptions.told
        notes += [f"read as if {' and '.join(told)}"] if told else []
        name = root.class_name if root.cls else root.variable or root.class_name
        return ModelGraph(
            name=f"{name}.{part}" if part else name,
            nodes=tuple(nodes),
            parameters=builder.finished_parameters(),
            location=root.site.location,
            class_name=root.class_name,
            traced_by="source",
            confidence="low" if stopped or told else "medium" if unknown else "high",
            notes=tuple(notes),
            pretrained=any(m.pretrained for _, m in modules),
            stopped_at=stopped,
            assumed=told,
        )

    def _run(self, builder: GraphBuilder, called: Module | Bound) -> bool:
        machine = self.machine
        assert machine.operations is not None
        module = called.receiver if isinstance(called, Bound) else called
        forward = called.function if isinstance(called, Bound) else forward_of(called.cls)
        args: list[Any] = []
        site = module.site
        if forward is not None:
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
        outputs = machine.operations.operands([result], site) or builder.judged
        if not outputs:
            return False
        distinct = list({t.node: t for t in outputs}.values())
        builder.emit("output", "output", distinct, None, {}, distinct[0].shape, name="output")
        return True

    def _input(self, builder: GraphBuilder, argument: ast.arg, forward: Function) -> Any:
        annotation = argument.annotation
        if isinstance(annotation, ast.Name) and annotation.id in PLAIN_TYPES:
            return Unknown(f"the argument `{argument.arg}`", numeric=annotation.id in ("int", "float"))
        site = site_of(forward.frame.file, argument)
        return builder.emit("input", "input", [], site, {}, name=argument.arg)


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
