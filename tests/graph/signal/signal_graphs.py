"""Small graphs written by hand, as a tracer or a source reader would hand them on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gradlint.graph.model import InitLaw, Loss, ModelGraph, Node, Parameter

BATCH = 16


class Chain:
    """Nodes one after the other; `width` None leaves every shape and width out, as in a source-read graph."""

    def __init__(self, width: int | None = 128, loss: str = "cross_entropy") -> None:
        self.width, self.loss = width, loss
        self.nodes: list[Node] = []
        self.parameters: list[Parameter] = []
        self.add("input", "input", (), law="normal")

    def add(self, kind: str, op: str, inputs: Sequence[int] | None = None, **attributes: Any) -> int:
        parameters = attributes.pop("parameters", {})
        number = len(self.nodes)
        before = (number - 1,) if inputs is None else tuple(inputs)
        shape = (BATCH, self.width) if self.width else None
        node = Node(number, kind, op, f"{op}{number}", before, shape, attributes, parameters, feature_axis=-1)
        self.nodes.append(node)
        return number

    def linear(self, gain_squared: float = 1 / 3, inputs: Sequence[int] | None = None, **law: Any) -> int:
        name = f"w{len(self.nodes)}"
        std = math.sqrt(gain_squared / self.width) if self.width else None
        fan = self.width
        given = {"mean": 0.0, "std": std, "fan_in": fan, "fan_out": fan, "gain_squared": gain_squared, **law}
        shape = (self.width, self.width)
        self.parameters.append(Parameter(name, shape, InitLaw(given.pop("distribution", "normal"), **given)))
        return self.add("linear", "linear", inputs, parameters={"weight": name})

    def act(self, op: str, **attributes: Any) -> int:
        return self.add("activation", op, **attributes)

    def graph(self) -> ModelGraph:
        self.add("output", "output")
        return ModelGraph("net", tuple(self.nodes), tuple(self.parameters), loss=Loss(self.loss), batch_size=BATCH)


def stack(op: str, gain_squared: float, depth: int, width: int | None = 128, norm: str | None = None) -> ModelGraph:
    """`depth` hidden layers of linear (norm) activation, and a head."""
    chain = Chain(width)
    for _ in range(depth):
        chain.linear(gain_squared)
        if norm:
            chain.add("normalization", norm)
        chain.act(op)
    chain.linear(1 / 3)
    return chain.graph()


def node(
    number: int,
    kind: str,
    op: str,
    inputs: Sequence[int],
    shape: Sequence[int] | None,
    feature_axis: int = -1,
    attributes: dict[str, Any] | None = None,
    parameters: dict[str, str] | None = None,
) -> Node:
    """One operation by hand."""
    sizes = None if shape is None else tuple(shape)
    return Node(
        number, kind, op, f"{op}{number}", tuple(inputs), sizes, attributes or {}, parameters or {},
        feature_axis=feature_axis,
    )  # fmt: skip


def graph_of_nodes(nodes: Sequence[Node], parameters: Sequence[Parameter] = (), loss: str = "mse") -> ModelGraph:
    """A graph of nodes by hand; the last one is the output."""
    return ModelGraph("net", tuple(nodes), tuple(parameters), loss=Loss(loss), batch_size=BATCH)
