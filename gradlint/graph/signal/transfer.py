"""What a transfer rule is: one operation's effect on the signal going forward and the gradient going back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradlint.graph.model import InitLaw, ModelGraph, Node
from gradlint.graph.signal.moments import NEVER, Gradient, Signal

NOMINAL_WIDTH = 256.0
"""Features assumed where the source does not say; ratios do not depend on it, since laws then come as
gain² = fan_in·σ²."""
NOMINAL_SIDE = 64.0
"""Side of an image whose size is not known: large against any kernel."""
NOMINAL_TOKENS = 50.0
"""Length of a sequence whose length is not known."""
GROWN_GAIN_SQUARED = 1.0 / 3.0
"""A zero-initialised weight as grown: PyTorch's default law, fan_in·σ² = 1/3."""
GROWN_SCALE = 0.2
"""Constant |γ| below this counts as 1 when evaluated as grown (LayerScale 1e-6 … 0.1, zero-γ)."""
UNCLAIMED = frozenset({"pretrained", "unknown"})
"""Distributions of which nothing may be said."""


@dataclass
class Site:
    """One node under evaluation.

    `inputs` are the signals of its operands, `output` its own (backward only), `producers` the operand
    nodes' sites. `grown` evaluates zero-initialised scales as grown. `memory` carries what forward learnt
    to backward. `doubt`: half-width in decades that an approximation adds to every band beyond this node.
    `guessed`: the values are not known, and a scale of one was assumed.
    """

    node: Node
    graph: ModelGraph
    inputs: list[Signal]
    batch_size: int
    traced_batch: int | None
    grown: bool = False
    producers: Sequence[Site | None] = ()
    output: Signal = field(default_factory=lambda: Signal(NEVER))
    memory: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    doubt: float = 0.0
    guessed: bool = False

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default where it is absent or None."""
        value = self.node.attributes.get(name)
        return default if value is None else value

    def law(self, role: str = "weight") -> InitLaw | None:
        """The init law of a parameter."""
        return self.graph.weight_law(self.node, role)

    def has(self, role: str) -> bool:
        """Whether the node owns such a parameter."""
        return bool(self.node.parameters.get(role))


class Unclaimed(Exception):  # noqa: N818 — a state of knowledge, not a mistake
    """A parameter whose law is not known, or an operation without a rule: nothing may be claimed here."""


@dataclass(frozen=True)
class Transfer:
    """A rule: `forward` gives the output's signal; `backward` the gradient of each operand; `weight` ln of
    ‖∂L/∂W‖² of the node's own weights, None where it has none. All may raise `Unclaimed`."""

    forward: Callable[[Site], Signal]
    backward: Callable[[Site, Gradient], list[Gradient]]
    weight: Callable[[Site, Gradient], float] | None = None


def weight_moments(site: Site, role: str, fan_in: float) -> tuple[float, float]:
    """(variance, mean) of one element of a weight.

    Where only gain² is known (a source-read graph) the variance follows from the assumed `fan_in`. Raises
    `Unclaimed` for a law that is unknown, and for values that come from a checkpoint.
    """
    law = site.law(role)
    if law is None or law.distribution in UNCLAIMED or law.origin == "pretrained":
        raise Unclaimed(f"init law of {site.node.parameters.get(role) or site.node.name} unknown")
    if law.partial:
        site.notes.append(f"{site.node.name}: only a part of `{role}` was written by its init")
    mean = law.mean or 0.0
    if law.std is not None:
        variance = law.std**2
    elif law.gain_squared is not None:
        variance = law.gain_squared / (law.fan_in or fan_in)
    else:
        raise Unclaimed(f"init scale of {site.node.parameters.get(role)} unknown")
    if not (math.isfinite(variance) and math.isfinite(mean)):
        raise Unclaimed(f"init scale of {site.node.parameters.get(role)} is not finite")
    if site.grown and variance == 0.0 and mean == 0.0:
        return GROWN_GAIN_SQUARED / fan_in, 0.0
    return variance, mean


def bias_moments(site: Site, role: str = "bias") -> tuple[float, float]:
    """(variance, mean) of a bias, (0, 0) where there is none or its law is unknown."""
    law = site.law(role) if site.has(role) else None
    if law is None or law.std is None:
        return 0.0, (law.mean or 0.0) if law else 0.0
    return law.std**2, law.mean or 0.0


def inner_sizes(node: Node) -> list[int | None] | None:
    """The sizes of a node's axes without the batch's, None where the rank is not known."""
    if node.shape is None:
        return None
    axis = node.batch_axis
    skip = axis % len(node.shape) if axis is not None and node.shape else None
    return [size for i, size in enumerate(node.shape) if i != skip]


def is_sized(node: Node) -> bool:
    """Whether every size but the batch's is known."""
    sizes = inner_sizes(node)
    return sizes is not None and None not in sizes


def extent(site: Site, like: Signal) -> tuple[float, float, float]:
    """(N, P, n) of the output: from its shape where known, else as `like` says.

    A batch axis that holds k·B entries (`x.view(B*T, n)`) is B samples of k positions.
    """
    shape, batch = site.node.shape, site.traced_batch
    if shape is None:
        return like.batch, like.positions, like.features
    if any(size is None for size in shape) or not batch:
        return _partial_extent(site, like)
    sizes = [size for size in shape if size is not None]
    whole = math.prod(sizes)
    axis = site.node.feature_axis
    if axis is None and site.node.batch_axis is None:
        features = like.features if whole % max(int(like.features), 1) == 0 else 1.0
    else:
        features = float(sizes[axis]) if axis is not None and -len(sizes) <= axis < len(sizes) else 1.0
    if like.batch == 1.0:
        return 1.0, max(whole / features, 1.0), features
    return float(site.batch_size), max(whole / batch / features, 1.0), features


def _partial_extent(site: Site, like: Signal) -> tuple[float, float, float]:
    """What a shape with unknown sizes still says: features where they are named, elements by their ratio."""
    sizes = inner_sizes(site.node) or []
    known = [size for size in sizes if size is not None]
    features = like.features
    axis, shape = site.node.feature_axis, site.node.shape or ()
    if features not in known and axis is not None and -len(shape) <= axis < len(shape):
        features = float(shape[axis] or features)
    if len(known) == len(sizes):
        return like.batch, max(math.prod(known) / features, 1.0), features
    # The batch axis of a source-read graph may be off after a permutation: the whole shapes are compared.
    before = site.graph.nodes[site.node.inputs[0]].shape if site.node.inputs else None
    whole = like.positions * like.features
    if before is not None and before.count(None) == shape.count(None):
        whole *= math.prod(n for n in shape if n is not None) / math.prod(n for n in before if n is not None)
    return like.batch, max(whole / features, 1.0), features


def axis_of(site: Site, name: str, source: Node | None = None) -> str:
    """What an axis attribute points at: "feature", "batch", "position" or "unknown"."""
    dim = site.node.attributes.get(name)
    if isinstance(dim, (list, tuple)):
        dim = dim[0] if len(dim) == 1 else None
    node = source or site.node
    rank = len(node.shape) if node.shape is not None else None
    if not isinstance(dim, int):
        return "unknown"
    feature, batch = node.feature_axis, node.batch_axis
    if rank:
        dim %= rank
        feature = feature % rank if feature is not None else None
        batch = batch % rank if batch is not None else None
    if feature is not None and dim == feature:
        return "feature"
    if batch is not None and dim == batch:
        return "batch"
    return "position" if feature is not None else "unknown"
