"""What a model's layers and its forward's signature say of the input."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gradlint.graph.kinds import base_kind, module_kind

BATCH = 2
"""Samples in a traced batch: BatchNorm in training mode refuses one."""
TOKENS = 32
"""Length of an invented sequence."""
NODES = 32
"""Nodes of an invented graph."""


@dataclass
class Facts:
    """What a model's modules and signature say of its input."""

    leaves: list[tuple[str, nn.Module, str, dict[str, Any]]] = field(default_factory=list)
    required: list[inspect.Parameter] = field(default_factory=list)
    optional: list[inspect.Parameter] = field(default_factory=list)
    variadic: bool = False


def facts_of(module: nn.Module) -> Facts:
    """Read the weighted leaves in the order in which they were registered, and the forward's parameters."""
    facts = Facts()
    for path, m in module.named_modules():
        kind = module_kind(m) or base_kind(m)
        if kind is not None and kind.kind in (
            "linear", "conv", "conv_transpose", "embedding", "recurrent", "attention", "normalization",
        ):  # fmt: skip
            facts.leaves.append((path, m, kind.kind, {**kind.attributes, "op": kind.op}))
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):
        return facts
    for p in signature.parameters.values():
        if p.kind is inspect.Parameter.VAR_POSITIONAL:
            facts.variadic = True
        elif p.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        elif p.default is inspect.Parameter.empty:
            facts.required.append(p)
        else:
            facts.optional.append(p)
    return facts
