"""The operands of graph nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradlint.source.reader.building import GraphBuilder
from gradlint.source.reader.values import Array, Choice, Module, Pieces, Site, Tensor, Unknown


class Operands:
    """Turns values into operands of the nodes of one model, which its builder holds."""

    def __init__(self, builder: GraphBuilder, create: Any) -> None:
        self.builder = builder
        self.create = create

    def tensor(self, value: Any, site: Site) -> Tensor | None:
        """A value as a graph operand, or None for what is no tensor."""
        match value:
            case Tensor():
                return value
            case Array():
                return self.builder.of_array(value, site)
            case Pieces():
                return value.tensor
        return None

    def operands(self, values: Any, site: Site, depth: int = 0) -> list[Tensor]:
        """All tensors in (nested) arguments, in order."""
        found: list[Tensor] = []
        for value in values.values() if isinstance(values, dict) else values:
            one = self.tensor(value, site)
            if one is not None:
                found.append(one)
            elif isinstance(value, (list, tuple, dict)) and depth < 3:
                found += self.operands(value, site, depth + 1)
            elif isinstance(value, Choice) and depth < 3:
                found += self.operands(value.values, site, depth + 1)
        return found

    def unknown(self, op: str, args: Any, kwargs: dict[str, Any], site: Site, module: Module | None = None) -> Tensor:
        """A node for something whose meaning is not known: it voids what passes through it."""
        inputs = self.operands(args, site) + self.operands(kwargs, site)
        return self.builder.emit("unknown", op, inputs, site, module=module)

    def loss(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """A loss that the model computes itself: what it judges is an output of the model."""
        judged = self.operands(args[:1] or [kwargs.get("input")], site) or self.operands([args, kwargs], site)
        self.builder.judged += judged[:1]
        return Unknown("a loss", tensor=True)

    def learn_input(self, x: Tensor, shape: tuple[int | None, ...], **attributes: Any) -> None:
        """Fill in the shape of an input from the first layer that reads it."""
        node = self.builder.nodes[x.node]
        if node.kind == "input" and x.shape is None:
            axis = 1 if len(shape) > 3 or (len(shape) == 3 and attributes.pop("channels", False)) else -1
            attributes.pop("channels", None)
            x.shape = shape
            known = {**node.attributes, **attributes}
            self.builder.nodes[x.node] = replace(node, shape=shape, attributes=known, feature_axis=axis)
