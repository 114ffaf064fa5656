"""Layers whose weights only scale a channel in front of a norm that divides the scale out again."""

from __future__ import annotations

import math

from gradlint.graph.model import ModelGraph, Node


def norm_behind(graph: ModelGraph, node: Node) -> Node | None:
    """The batch norm over the batch that is the only reader of a node."""
    users = graph.consumers[node.id]
    user = graph.nodes[users[0]] if len(users) == 1 else None
    if user is None or user.op != "batch_norm" or user.attributes.get("training") is False:
        return None
    return user


def only_rescales(graph: ModelGraph, node: Node) -> bool:
    """Whether a layer is a depthwise 1 × 1 convolution in front of a batch norm: one weight for each channel.

    The loss does not depend on the size of such a weight but for ε (van Laarhoven 2017, §2), and next to no gradient
    reaches it. Re-parameterisable blocks have such branches (MobileOne, Vasu et al. 2023, §3.2): they fold away.
    """
    if node.kind != "conv" or norm_behind(graph, node) is None:
        return False
    channels, groups, kernel = (node.attributes.get(name) for name in ("in_channels", "groups", "kernel_size"))
    taps = math.prod(kernel) if isinstance(kernel, (list, tuple)) else kernel
    return taps == 1 and isinstance(groups, int) and groups == channels
