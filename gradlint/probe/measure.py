"""One forward and backward pass over one batch, measured at every operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.graph.model import WEIGHTED, ModelGraph, Node
from gradlint.graph.walk import OperationCall, OperationWalk
from gradlint.probe.experiment import LayerMeasurement
from gradlint.probe.histogram import shares_by_decade
from gradlint.probe.loss import first_tensor
from gradlint.probe.replay import Recipe, UnknownOptimizerError, update_norms
from gradlint.probe.rewrite import Rewrite, replace_first
from gradlint.probe.state import preserved
from gradlint.probe.statistics import Ledger, Moments, flat_part, precise
from gradlint.probe.targets import fed_activation, parameters_of, weights_of

ZEROING = frozenset({"relu", "relu6"})
"""Activations whose output is exactly 0 on their flat side, so that a dead unit can be told."""

UNSEEN = frozenset({"input", "parameter", "constant", "output", "loop"})

BACKWARD = "∂ "
"""Prefix of the key under which a node's gradient is noted."""


@dataclass(frozen=True)
class Pass:
    """What one pass saw: layers by node name, and ‖∂L/∂h‖ of every node that a gradient reached."""

    layers: dict[str, LayerMeasurement]
    gradients: dict[str, float]
    loss: float
    total_norm: float
    first_nonfinite: str | None
    notes: tuple[str, ...] = ()


class MeasuringWalk(OperationWalk):
    """Notes the statistics of every operation of the graph while the model runs, and rewrites calls."""

    def __init__(
        self, module: nn.Module, graph: ModelGraph, ledger: Ledger | None = None, rewrite: Rewrite | None = None
    ) -> None:
        super().__init__(module)
        self.ledger = ledger
        self.rewrite = rewrite
        self.nodes = {node.name: node for node in graph.nodes}

    def operation(self, call: OperationCall, run: Callable[..., Any]) -> Any:
        """Run one operation as rewritten, and note its output."""
        node = self.nodes.get(call.name)
        if self.rewrite is None:
            output = run()
        else:

            def changed(change: Callable[[Tensor], Tensor]) -> Any:
                args, kwargs = replace_first(call.args, call.kwargs, change)
                return run(*args, **kwargs)

            output = self.rewrite(call.name, node, (call.args, call.kwargs), changed)
        if node is not None and self.ledger is not None and node.kind not in UNSEEN:
            observe(self.ledger, node, output)
        return output


def observe(ledger: Ledger, node: Node, output: Any) -> None:
    """Note an output's moments now and its gradient's when it comes.

    The hook sits on the output tensor: a module's full backward hook breaks on in-place residuals.
    """
    tensor = first_tensor(output)
    if tensor is None or tensor.is_complex() or not tensor.numel() or tensor.layout is not torch.strided:
        return
    name, batch_axis = node.name, node.batch_axis
    flat = None
    if node.kind == "activation":
        low, high = node.attributes.get("min"), node.attributes.get("max")
        flat = flat_part(node.op, -1.0 if low is None else float(low), 1.0 if high is None else float(high))
        if node.op in ZEROING and tensor.dim() > 1:
            axis = node.feature_axis if node.feature_axis is not None else 1 if tensor.dim() > 3 else -1
            ledger.dead(name, tensor, axis)
    ledger.moments(name, tensor, batch_axis, flat)
    if tensor.requires_grad:

        def note(gradient: Tensor) -> None:
            ledger.gradient(BACKWARD + name, gradient, batch_axis)

        tensor.register_hook(note)


def measure(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    loss: Callable[[Any], Tensor],
    graph: ModelGraph,
    *,
    recipe: Recipe | None = None,
    rewrite: Rewrite | None = None,
    budget: int | None = None,
    autocast: torch.dtype | None = None,
) -> Pass:
    """Run `loss(module(*args, **kwargs))` forward and backward once, and leave the module as it was.

    `graph` is the module's own trace: its node names say where a number belongs. `recipe` is the optimizer whose
    first step gives the update ratios. `budget` limits how many elements of a tensor are looked at (None: all).
    `autocast` is the dtype of the script's autocast. Raises whatever the model or the loss raises.
    """
    ledger = Ledger(budget)
    with preserved(module), torch.enable_grad():
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        with MeasuringWalk(module, graph, ledger, rewrite), casting(device, autocast):
            output = module(*args, **kwargs)
        value = loss(output)
        del output
        trained = [p for p in module.parameters() if p.requires_grad]
        gradients = gradients_of(value, trained)
        weights = Weights.read(module, {id(p): g for p, g in zip(trained, gradients, strict=True)}, recipe)
        del gradients
        seen, dead = ledger.read()
    layers = {
        node.name: _layer(node, seen[node.name], seen.get(BACKWARD + node.name), dead.get(node.name), weights)
        for node in graph.nodes
        if node.name in seen
    }
    share_activations(graph, layers)
    reached = {name: layer.gradient for name, layer in layers.items() if layer.gradient is not None}
    return Pass(
        layers=layers,
        gradients=reached,
        loss=float(value.detach()),
        total_norm=math.hypot(*weights.gradient.values()),
        first_nonfinite=first_nonfinite(graph, layers),
        notes=weights.notes,
    )


def casting(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """The script's autocast, or nothing."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def gradients_of(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """∂loss/∂p for each parameter, None where the loss does not depend on it.

    Not by `loss.backward()`, which would run the user's hooks on accumulated gradients, an optimizer step among
    them; re-entrant checkpointing alone works no other way.
    """
    if not parameters or not loss.requires_grad:
        return [None] * len(parameters)
    try:
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    except RuntimeError as error:
        if "checkpoint" not in str(error).lower():
            raise
    loss.backward()
    return [p.grad for p in parameters]


@dataclass(frozen=True)
class Weights:
    """Norms by the identity of a parameter: of its gradient, of itself, and of its first optimizer step."""

    table: dict[str, nn.Parameter]
    gradient: dict[int, float]
    size: dict[int, float]
    update: dict[int, float]
    notes: tuple[str, ...] = ()
    histogram: dict[int, tuple[float, ...]] = field(default_factory=dict)
    gradient_histogram: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, module: nn.Module, gradients: Mapping[int, Tensor | None], recipe: Recipe | None) -> Weights:
        """Norms of a module's parameters, whose gradients are given by identity; one synchronisation for all."""
        parameters = {id(p): p for p in module.parameters() if p.device.type != "meta"}
        reached = {key: g for key, g in gradients.items() if g is not None}
        notes: tuple[str, ...] = ()
        updates: dict[int, Tensor] = {}
        if recipe is not None:
            try:
                updates = update_norms(((parameters[key], g) for key, g in reached.items()), recipe)
            except (UnknownOptimizerError, TypeError, ValueError, RuntimeError) as error:
                notes = (f"no update ratio: {error}".splitlines()[0],)
        norms = [_norm(g) for g in reached.values()]
        values = iter(_read([*norms, *(_norm(p.detach()) for p in parameters.values()), *updates.values()]))
        return cls(
            table=parameters_of(module),
            gradient={key: next(values) for key in reached},
            size={key: next(values) for key in parameters},
            update={key: next(values) for key in updates},
            notes=notes,
            histogram=shares_by_decade(parameters),
            gradient_histogram=shares_by_decade(reached),
        )

    def shares(self, node: Node, histograms: Mapping[int, tuple[float, ...]]) -> tuple[float, ...]:
        """The histogram of a node's largest weight; empty if none is known."""
        found = [(p.numel(), histograms[id(p)]) for _, p in weights_of(node, self.table) if id(p) in histograms]
        return max(found)[1] if found else ()

    def of(self, node: Node, norms: Mapping[int, float]) -> float | None:
        """The joint norm over a node's weights (not its biases); None if none of them is known."""
        found = [norms[id(p)] for _, p in weights_of(node, self.table) if id(p) in norms]
        return math.hypot(*found) if found else None


def _norm(tensor: Tensor) -> Tensor:
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return torch.linalg.vector_norm(tensor, dtype=precise(tensor.device))


def _read(scalars: list[Tensor]) -> list[float]:
    if not scalars:
        return []
    devices = {s.device for s in scalars}
    together = torch.stack(scalars) if len(devices) == 1 else torch.stack([s.cpu() for s in scalars])
    values: list[float] = together.tolist()
    return values


def _layer(
    node: Node, moments: Moments, gradient: Moments | None, dead: float | None, weights: Weights
) -> LayerMeasurement:
    size, update = weights.of(node, weights.size), weights.of(node, weights.update)
    saturating = node.kind == "activation" and flat_part(node.op) is not None
    return LayerMeasurement(
        name=node.name,
        activation_mean=moments.mean,
        activation_std=moments.std,
        gradient=None if gradient is None else gradient.norm,
        weight_gradient=weights.of(node, weights.gradient),
        saturated=moments.outside / moments.elements if saturating else None,
        dead=dead,
        update_ratio=update / size if update is not None and size else None,
        weight_norm=size,
        distinct=moments.distinct,
        weight_histogram=weights.shares(node, weights.histogram),
        gradient_histogram=weights.shares(node, weights.gradient_histogram),
    )


def share_activations(graph: ModelGraph, layers: dict[str, LayerMeasurement]) -> None:
    """Give each weighted layer the saturated and dead share of the activation that consumes its output."""
    for node in graph.of_kind(*sorted(WEIGHTED)):
        fed = fed_activation(graph, node)
        if node.name in layers and fed is not None and fed.name in layers:
            seen = layers[fed.name]
            layers[node.name] = replace(layers[node.name], saturated=seen.saturated, dead=seen.dead)


def first_nonfinite(graph: ModelGraph, layers: Mapping[str, LayerMeasurement]) -> str | None:
    """The first operation whose output is not finite, else the first in backward order whose gradient is not."""
    order = [layers[node.name] for node in graph.nodes if node.name in layers]
    for layer in order:
        if layer.activation_mean is not None and not math.isfinite(layer.activation_mean):
            return layer.name
    for layer in reversed(order):
        if layer.gradient is not None and not math.isfinite(layer.gradient):
            return layer.name
    return None
