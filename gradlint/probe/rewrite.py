"""Changes of a model's structure that are made to its calls while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradlint.graph.model import Node
from gradlint.probe.loss import first_tensor
from gradlint.probe.targets import Branch

NORM_EPSILON = 1e-5


@dataclass
class Rewrite:
    """What to do to the calls of named nodes; by default nothing.

    `swap` replaces an activation by a function of its input, `norm` ("layer", "batch") normalises what enters a
    node, `skips` lead identity paths around branches, whose output is multiplied by `branch_scale`.
    """

    swap: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    norm: dict[str, str] = field(default_factory=dict)
    skips: tuple[Branch, ...] = ()
    branch_scale: float = 1.0
    applied: set[str] = field(default_factory=set)
    _entering: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._starts = {branch.first: branch for branch in self.skips}
        self._ends = {branch.merge: branch for branch in self.skips}

    def __call__(self, name: str, node: Node | None, operands: Any, run: Callable[[Callable[..., Any]], Any]) -> Any:
        """Run the call of a node as it is rewritten.

        `operands` are its arguments; `run(change)` makes the call with `change` applied to its first tensor.
        """
        change: Callable[[Tensor], Tensor] = _same
        if name in self.norm and node is not None:
            kind = self.norm[name]
            self.applied.add(name)

            def change(x: Tensor) -> Tensor:
                return normalize(x, kind, node)

        if name in self._starts:
            entering = first_tensor(operands)
            if entering is not None:
                self._entering[self._starts[name].merge] = entering
        if name in self.swap:
            entering = first_tensor(operands)
            if entering is not None:
                self.applied.add(name)
                return self.swap[name](change(entering))
        output = run(change)
        if name in self._ends and name in self._entering:
            shortcut = self._entering.pop(name)
            if isinstance(output, Tensor) and output.shape == shortcut.shape:
                self.applied.add(name)
                return shortcut + self.branch_scale * output
        return output


def _same(x: Tensor) -> Tensor:
    return x


def normalize(x: Tensor, kind: str, node: Node) -> Tensor:
    """A normalisation without parameters of an activation's input, statistics from this batch.

    "layer" over the features of each sample (over channels and pixels of an image, as GroupNorm with one group),
    "batch" over samples and positions for each feature.
    """
    feature_axis = node.feature_axis
    if feature_axis is None:
        feature_axis = 1 if x.dim() in (4, 5) else -1
    axis = feature_axis % x.dim()
    match kind:
        case "batch":
            axes = [d for d in range(x.dim()) if d != axis]
        case "layer" if axis == 1 and x.dim() > 2:
            axes = list(range(1, x.dim()))
        case "layer":
            axes = [axis]
        case _:
            raise ValueError(f"no normalisation is called {kind!r}")
    variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + NORM_EPSILON)


def replace_first(args: tuple[Any, ...], kwargs: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> Any:
    """The arguments with `change` applied to the first floating-point tensor among them."""
    values = list(args)
    for i, value in enumerate(values):
        if isinstance(value, Tensor) and value.is_floating_point():
            values[i] = change(value)
            return tuple(values), dict(kwargs)
    table = dict(kwargs)
    for name, value in table.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            table[name] = change(value)
            break
    return tuple(values), table
