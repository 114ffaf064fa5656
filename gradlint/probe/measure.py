"""One forward and backward pass over one batch, measured at every operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.graph.model import WEIGHTED, ModelGraph, Node
from gradlint.graph.walk import OperationCall, OperationWalk, tensors_in
from gradlint.probe.experiment import LOSS, LayerMeasurement
from gradlint.probe.loss import first_tensor
from gradlint.probe.merging import merged_dead, merged_loss, merged_moments
from gradlint.probe.ranks import Ranks, distributed
from gradlint.probe.replay import Recipe
from gradlint.probe.rewrite import Rewrite, replace_first
from gradlint.probe.state import preserved
from gradlint.probe.statistics import Ledger, Moments, flat_part
from gradlint.probe.targets import fed_activation
from gradlint.probe.weights import Weights, in_order

ZEROING = frozenset({"relu", "relu6"})
"""Activations whose output is exactly 0 on their flat side, so that a dead unit can be told."""

UNSEEN = frozenset({"input", "parameter", "constant", "output", "loop"})

BACKWARD = "∂ "
"""Prefix of the key under which a node's gradient is noted."""


@dataclass(frozen=True)
class Pass:
    """What one pass saw: layers by node name, ‖∂L/∂h‖ of every node that a gradient reached, how many samples."""

    layers: dict[str, LayerMeasurement]
    gradients: dict[str, float]
    loss: float
    total_norm: float
    first_nonfinite: str | None
    notes: tuple[str, ...] = ()
    samples: int = 1


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
            with torch._C.DisableTorchFunction():
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
    ranks: Ranks | None = None,
) -> Pass:
    """Run `loss(module(*args, **kwargs))` forward and backward once, and leave the module as it was.

    `graph` is the module's own trace: its node names say where a number belongs. `recipe` is the optimizer whose
    first step gives the update ratios. `budget` limits how many elements of a tensor are looked at (None: all).
    `autocast` is the dtype of the script's. With `ranks`, all of which must call this, each measures its part of the
    batch and all return the numbers of the whole. Raises whatever the model or the loss raises, RankError for what
    another rank's did.
    """
    ledger = Ledger(budget)
    samples = batch_samples(args, kwargs)
    counts = [samples] if ranks is None else ranks.gather(samples)
    failure: Exception | None = None
    value, gradients = math.nan, []
    with preserved(module), torch.enable_grad():
        # Before the pass: FSDP2 leaves gathered tensors in their place until it is over.
        trained = [p for p in module.parameters() if p.requires_grad]
        try:
            device = next((p.device for p in module.parameters()), torch.device("cpu"))
            with MeasuringWalk(module, graph, ledger, rewrite), casting(device, autocast):
                output = module(*args, **kwargs)
            whole = loss(output)
            del output
            value = float(whole.detach())
            gradients = gradients_of(whole * (samples * len(counts) / sum(counts)) if ranks else whole, trained)
            del whole
        except Exception as error:
            if ranks is None:
                raise
            failure = error
        if ranks is not None:
            ranks.agree(failure)
            gradients = ranks.average(gradients, trained)
        weights = Weights.read(module, in_order(trained, gradients), recipe, budget, ranks)
        del gradients
        readings = ledger.read()
        seen, dead = readings.moments, readings.dead() if ranks is None else {}
    if ranks is not None:
        flags = {key: "".join("1" if f else "0" for f in t.tolist()) for key, t in readings.silent.items()}
        parts = ranks.gather([value, seen, flags])
        value = merged_loss([p[0] for p in parts], counts)
        seen = merged_moments([p[1] for p in parts], BACKWARD)
        dead = merged_dead([p[2] for p in parts])
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
        loss=value,
        total_norm=weights.total(),
        first_nonfinite=first_nonfinite(graph, layers, value),
        notes=weights.notes,
        samples=sum(counts),
    )


def batch_samples(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """How many samples a batch holds: the first size of its first tensor that has one."""
    return next((t.shape[0] for t in tensors_in((tuple(args), dict(kwargs))) if t.dim() and t.shape[0]), 1)


def casting(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """The script's autocast, or nothing."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def gradients_of(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """∂loss/∂p for each parameter, None where the loss does not depend on it.

    Not by `loss.backward()`, which would run the user's hooks on accumulated gradients, an optimizer step among
    them; re-entrant checkpointing and engines that shard parameters (FSDP2) alone work no other way.
    """
    if not parameters or not loss.requires_grad:
        return [None] * len(parameters)
    if not any(distributed(p) for p in parameters):
        try:
            return list(torch.autograd.grad(loss, parameters, allow_unused=True))
        except RuntimeError as error:
            if "checkpoint" not in str(error).lower():
                raise
    loss.backward()
    return [p.grad for p in parameters]


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


def first_nonfinite(graph: ModelGraph, layers: Mapping[str, LayerMeasurement], loss: float) -> str | None:
    """The first operation whose output is not finite, the loss, else the first in backward order whose gradient is not.

    A `loss` that is not finite while all outputs are was broken outside of the model.
    """
    order = [layers[node.name] for node in graph.nodes if node.name in layers]
    for layer in order:
        if layer.activation_mean is not None and not math.isfinite(layer.activation_mean):
            return layer.name
    if not math.isfinite(loss):
        return LOSS
    for layer in reversed(order):
        if layer.gradient is not None and not math.isfinite(layer.gradient):
            return layer.name
    return None
