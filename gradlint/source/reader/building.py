"""The graph under construction: nodes in call order, their names, and the parameters they use."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Any

from gradlint.graph.model import Node, Parameter
from gradlint.graph.written_out import written_out
from gradlint.source.reader.values import Array, Module, Site, Tensor, is_plain

MAX_NODES = 6_000
"""A graph larger than this is cut; a thousand-layer net has about five thousand operations."""


class TooLargeError(Exception):
    """The graph has more than MAX_NODES nodes."""


_SCALARS = frozenset([bool, int, float, str, type(None)])
_node_of = attrgetter("node")


def plain(value: Any) -> Any:
    """A value as JSON: tuples as lists, what is not plain data as None."""
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (bool, int, float, str)):
        return value
    return None


def plain_attributes(table: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a node that are known, as JSON."""
    if _SCALARS.issuperset(map(type, table.values())):
        return dict(table)
    return {
        name: value if type(value) in _SCALARS else plain(value)
        for name, value in table.items()
        if type(value) in _SCALARS or is_plain(value)
    }


class GraphBuilder:
    """Collects the nodes of one model."""

    def __init__(self, modules: list[tuple[str, Module]], limit: int = MAX_NODES) -> None:
        self.limit = limit
        self.nodes: list[Node] = []
        self.paths: dict[int, str] = {}
        self.arrays: dict[int, str] = {}
        self.parameters: dict[str, Array] = {}
        self.aliases: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self.judged: list[Tensor] = []
        self.stack: list[str] = []
        self._uses: dict[str, int] = {}
        self._array_nodes: dict[int, Tensor] = {}
        self._kept: list[Any] = []
        for path, module in modules:
            self.paths[id(module)] = path
            self._kept.append(module)
            self.register_parameters(module, path)

    def register_parameters(self, module: Module, path: str) -> None:
        """Name the module's own parameters under `path`."""
        for name, array in module.parameters.items():
            if isinstance(array, Array):
                self.register(array, f"{path}.{name}" if path else name)

    def register(self, array: Array, name: str) -> str:
        """The name of a parameter in this model; a second name is an alias."""
        known = self.arrays.get(id(array))
        if known is None:
            self.arrays[id(array)] = known = name
            self.parameters[name] = array
            self._kept.append(array)
        elif known != name:
            others = self.aliases.setdefault(known, [])
            if name not in others:
                others.append(name)
        return known

    def path_of(self, module: Module, fallback: str | None = None) -> str:
        """The module path as torch would name it.

        A module that is registered nowhere is called `fallback`, or as its class, with a number where that is taken.
        """
        known = self.paths.get(id(module))
        return self._adopt(module, fallback or module.class_name.lower()) if known is None else known

    def _adopt(self, module: Module, wanted: str) -> str:
        """Name a module that is registered nowhere, and what it holds."""
        taken = set(self.paths.values())
        name, n = wanted, 1
        while name in taken:
            n += 1
            name = f"{wanted}{n}"
        for path, inner in module.walk(name):
            if id(inner) not in self.paths:
                self.paths[id(inner)] = path
                self._kept.append(inner)
                self.register_parameters(inner, path)
        return self.paths[id(module)]

    def emit(
        self,
        kind: str,
        op: str,
        inputs: list[Tensor],
        site: Site | None,
        attributes: dict[str, Any] | None = None,
        shape: tuple[int | None, ...] | None = None,
        parameters: dict[str, Array] | None = None,
        module: Module | None = None,
        feature_axis: int | None = None,
        name: str | None = None,
    ) -> Tensor:
        """Append a node and return its output."""
        if len(self.nodes) >= self.limit:
            raise TooLargeError
        if module is not None:
            path = self.path_of(module)
            base = path or module.class_name.lower()
        else:
            path = self.stack[-1] if self.stack else ""
            base = name or ("act" if kind == "activation" else op.lower())
            base += str(self._next(base)) if name is None else ""
        unique = self._unique(base) if module is not None or name is not None else base
        owner = path or unique
        names = {r: self.register(a, f"{owner}.{r}") for r, a in parameters.items()} if parameters else {}
        if feature_axis is None and shape is not None and len(shape) >= 2:
            feature_axis = 1 if len(shape) == 4 else -1
        node = Node(
            id=len(self.nodes),
            kind=kind,
            op=op,
            name=unique,
            inputs=tuple(map(_node_of, inputs)),
            shape=shape,
            attributes=plain_attributes(attributes) if attributes else {},
            parameters=names,
            module=path,
            feature_axis=feature_axis,
            location=site.location if site else None,
            constructor=module.site.location if module is not None else None,
        )
        self.nodes.append(node)
        return Tensor(node.id, shape)

    def _next(self, base: str) -> int:
        self._uses[f"{base}#"] = n = self._uses.get(f"{base}#", 0) + 1
        return n

    def _unique(self, base: str) -> str:
        self._uses[base] = n = self._uses.get(base, 0) + 1
        return base if n == 1 else f"{base}#{n}"

    def of_array(self, array: Array, site: Site | None) -> Tensor:
        """The node of a parameter, buffer or constant tensor, made at its first use."""
        while array.view_of is not None:
            array = array.view_of
        made = self._array_nodes.get(id(array))
        if made is None:
            if array.parameter or array.buffer:
                name = self.arrays.get(id(array)) or self.register(array, f"parameter{self._next('parameter')}")
                op = "parameter" if array.parameter else "buffer"
                made = self.emit("parameter", op, [], site, {}, array.shape, {"weight": array}, name=name)
            else:
                value = array.law.mean if array.law.distribution == "constant" else None
                made = self.emit("constant", "constant", [], site, {"value": value}, array.shape)
            self._array_nodes[id(array)] = made
            self._kept.append(array)
        return made

    def finished_parameters(self) -> tuple[Parameter, ...]:
        """The parameters with their laws at this moment."""
        return tuple(
            Parameter(
                name=name,
                shape=array.shape or (),
                law=array.law,
                trainable=array.trainable and not array.buffer,
                buffer=array.buffer,
                aliases=tuple(self.aliases.get(name, ())),
                frozen_by=array.frozen_by,
            )
            for name, array in self.parameters.items()
        )


def fuse_activations(nodes: list[Node]) -> list[Node]:
    """The nodes with activations that are written out in arithmetic as single operations."""
    table = {node.id: node for node in nodes}
    for node in nodes:
        found = written_out(node.id, table)
        if found is not None:
            op, attributes, operand = found
            shape = node.shape or table[operand].shape
            table[node.id] = replace(
                node, kind="activation", op=op, attributes=attributes, inputs=(operand,), shape=shape
            )
    return list(table.values())


def prune(nodes: list[Node], wanted: set[int]) -> list[Node]:
    """The nodes that the wanted ones depend on, and all inputs, renumbered."""
    keep = set(wanted)
    for node in reversed(nodes):
        if node.id in keep:
            keep.update(node.inputs)
    keep |= {n.id for n in nodes if n.kind == "input"}
    order = {n.id: i for i, n in enumerate(n for n in nodes if n.id in keep)}
    if len(order) == len(nodes):
        return nodes
    return [
        replace(n, id=order[n.id], inputs=tuple(order[i] for i in n.inputs if i in order))
        for n in nodes
        if n.id in order
    ]
