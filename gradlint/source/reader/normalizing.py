"""Normalisation written by hand: (x − mean(x)) / std(x) and its variants, recognised as one node."""

from __future__ import annotations

from typing import Any

from gradlint.graph.model import Node
from gradlint.source.reader.building import GraphBuilder
from gradlint.source.reader.values import Site, Tensor


def recognise(builder: GraphBuilder, op: str, a: Tensor, b: Tensor, site: Site) -> Tensor | None:
    """The normalization node for `a OP b` if it divides a centred x by its std, or x by its root mean square."""
    if op not in ("div", "mul"):
        return None
    for numerator, denominator in ((a, b),) if op == "div" else ((a, b), (b, a)):
        spread = _spread(builder, denominator, inverted=op == "mul")
        if spread is None:
            continue
        source, dim, centred, eps = spread
        top = _centred(builder, numerator)
        if top is not None and source in (top, numerator.node):
            return _emit(builder, top, dim, eps, site, None)
        if not centred and source == numerator.node:
            return _emit(builder, source, dim, eps, site, "rms_norm")
    return None


def _emit(builder: GraphBuilder, source: int, dim: Any, eps: float, site: Site, op: str | None) -> Tensor:
    shape = builder.nodes[source].shape
    if op is None:
        dims = set(dim) if isinstance(dim, (list, tuple)) else {dim}
        if 0 in dims:
            op = "batch_norm"
        elif dims & {2, 3} and 1 not in dims:
            op = "instance_norm"
        else:
            op = "layer_norm"
    attributes = {"dim": dim, "eps": eps, "affine": False, "training": True}
    return builder.emit("normalization", op, [Tensor(source, shape)], site, attributes, shape)


def _centred(builder: GraphBuilder, x: Tensor) -> int | None:
    """The id of y if x is y − mean(y)."""
    node = builder.nodes[x.node]
    if node.kind == "add" and node.op == "sub" and len(node.inputs) == 2:
        y, mean = node.inputs
        below = _through(builder, builder.nodes[mean])
        if below.kind == "reduce" and below.op == "mean" and below.inputs == (y,):
            return y
    return None


def _spread(builder: GraphBuilder, x: Tensor, inverted: bool) -> tuple[int, Any, bool, float] | None:
    """(id of y, dim, whether centred, eps) if x is std(y), sqrt(var(y) + eps) or a root mean square, or its inverse."""
    node, eps, root = builder.nodes[x.node], 0.0, False
    for _ in range(8):
        if node.kind == "scale" and node.op == "shift" and isinstance(node.attributes.get("offset"), (int, float)):
            eps = max(eps, float(node.attributes["offset"]))
        elif node.op == "clamp" or (
            node.kind == "reshape" and node.op in ("unsqueeze", "view", "reshape", "expand", "detach")
        ):
            pass
        elif node.op == "rsqrt" and inverted:
            inverted, root = False, True
        elif node.op == "reciprocal" and inverted:
            inverted = False
        elif node.op == "sqrt" or (node.op == "pow" and node.attributes.get("exponent") == 0.5):
            root = True
        elif node.op == "pow" and node.attributes.get("exponent") == -0.5 and inverted:
            inverted, root = False, True
        else:
            break
        if len(node.inputs) != 1:
            return None
        node = builder.nodes[node.inputs[0]]
    if inverted or node.kind != "reduce" or len(node.inputs) != 1:
        return None
    dim = node.attributes.get("dim")
    if node.op == "std" or (node.op == "var" and root):
        return node.inputs[0], dim, True, eps
    if node.op == "mean" and root:
        squared = builder.nodes[node.inputs[0]]
        y = _squared(squared)
        if y is not None:
            centred = _centred(builder, Tensor(y))
            return (y, dim, False, eps) if centred is None else (centred, dim, True, eps)
    return None


def _squared(node: Node) -> int | None:
    if node.op == "square" or (node.op == "pow" and node.attributes.get("exponent") == 2):
        return node.inputs[0]
    return node.inputs[0] if node.op == "mul" and len(set(node.inputs)) == 1 else None


def _through(builder: GraphBuilder, node: Node) -> Node:
    while node.kind == "reshape" and len(node.inputs) == 1:
        node = builder.nodes[node.inputs[0]]
    return node
