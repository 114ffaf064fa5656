"""Measure a model on a batch from Python: `from gradlint.api import probe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradlint.probe.experiment import Measurement
from gradlint.report.measured import Report

if TYPE_CHECKING:
    import torch
    from torch import nn


def probe(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[..., torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | str | None = None,
) -> Report:
    """Measure one forward and backward pass of `model` over `batch`, and leave the model as it was, bit for bit.

    `batch` is (inputs…, target): then the loss is `loss_fn(model(*inputs), target)`. A mapping is passed by name,
    `loss_fn(model(**batch), batch)`, or the output's own `.loss` without a `loss_fn`. A tensor alone is the input,
    `loss_fn(model(batch))`. `optimizer` is the one you train with, or its name: thresholds depend on it, and from an
    optimizer comes the update-to-weight ratio of its first step. The batch must be on the model's device.

    In a distributed program (torch.distributed initialised) every rank must call this with its part of the batch; all
    get the report on the whole, in which a rank counts by its samples.

    Raises ValueError where the batch and the loss do not fit together, and whatever the model raises.
    """
    from gradlint.probe.calls import COMPILED, is_compiled, unwrapped
    from gradlint.probe.live import trace_call
    from gradlint.probe.measure import measure
    from gradlint.probe.ranks import Ranks, together
    from gradlint.probe.run import writable

    notes = (COMPILED,) if is_compiled(model) else ()
    model = unwrapped(model)
    args, kwargs, loss = arguments(batch, loss_fn)
    ranks = Ranks.here()
    graph = together(lambda: trace_call(model, args, kwargs), ranks)
    name, recipe = _recipe(optimizer)
    seen = measure(model, args, kwargs, loss, graph, recipe=recipe, ranks=ranks)
    measurement: Measurement = writable(
        Measurement(
            kind="baseline",
            layers=seen.layers,
            per_seed={node: (norm,) for node, norm in seen.gradients.items()},
            loss=seen.loss,
            gradient_norms=(seen.total_norm,),
            first_nonfinite=seen.first_nonfinite,
            device=next((p.device.type for p in model.parameters()), "cpu"),
            batch="real",
            notes=(*seen.notes, *notes),
        )
    )
    return Report(graph, measurement, name)


def arguments(
    batch: Any, loss_fn: Callable[..., torch.Tensor] | None
) -> tuple[tuple[Any, ...], dict[str, Any], Callable[[Any], torch.Tensor]]:
    """(args, kwargs, loss over the output) of a batch as `probe` takes it. Raises ValueError."""
    match batch:
        case Mapping():
            return (), dict(batch), _own_loss if loss_fn is None else lambda output: loss_fn(output, batch)
        case Sequence() if len(batch) >= 2:
            if loss_fn is None:
                raise ValueError("a batch of inputs and target needs a loss_fn")
            *inputs, target = batch
            return tuple(inputs), {}, lambda output: loss_fn(output, target)
        case Sequence():
            raise ValueError("a batch is (inputs…, target), a mapping, or a tensor")
    if loss_fn is None:
        raise ValueError("a batch without target needs a loss_fn that takes the output alone")
    return (batch,), {}, loss_fn


def _own_loss(output: Any) -> torch.Tensor:
    loss: torch.Tensor | None = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None:
        raise ValueError("the model's output has no loss (are the labels in the batch?); pass a loss_fn")
    return loss


def _recipe(optimizer: torch.optim.Optimizer | str | None) -> tuple[str | None, Any]:
    from gradlint.probe.replay import Recipe

    if optimizer is None or isinstance(optimizer, str):
        return optimizer, None
    return type(optimizer).__name__, Recipe.of(optimizer)
