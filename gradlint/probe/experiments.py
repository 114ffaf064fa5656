"""The closed vocabulary of experiments, each done to one model with one seed, which it leaves as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.graph.model import RECTIFIERS, ModelGraph, Node
from gradlint.graph.naming import clean_path, wrapped_paths
from gradlint.graph.topology_branches import closing_layers
from gradlint.probe.curvature import largest_eigenvalue
from gradlint.probe.experiment import Experiment
from gradlint.probe.initialization import (
    LSTM_FORGET_BIAS,
    activation,
    orthogonal_recurrence,
    raise_forget_bias,
    redraw,
)
from gradlint.probe.measure import MeasuringWalk, Pass, casting, measure
from gradlint.probe.recurrence import NotRecurrentError, Unrolled, extreme, unroll
from gradlint.probe.replay import Recipe, replay
from gradlint.probe.rewrite import Rewrite
from gradlint.probe.state import preserved
from gradlint.probe.targets import (
    branches,
    chosen_activations,
    chosen_layers,
    fed_activation,
    parameters_of,
    weights_of,
)


class NotApplicableError(ValueError):
    """The experiment has nothing to act on in this model; the message is one line."""


@dataclass(frozen=True)
class Subject:
    """A model's batch, loss and trace: everything an experiment needs beside the model itself.

    `recipe` is the script's optimizer, None when it is not known. `budget` and `autocast` are those of `measure`.
    `observed` is the loss that single passes are measured under where it differs from the one that steps descend:
    thresholds on absolute gradients are for losses averaged over the batch.
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    loss: Callable[[Any], Tensor]
    graph: ModelGraph
    recipe: Recipe | None = None
    budget: int | None = None
    autocast: torch.dtype | None = None
    observed: Callable[[Any], Tensor] | None = None


@dataclass(frozen=True)
class Seen:
    """What one experiment showed with one seed."""

    observed: Pass | None = None
    losses: tuple[float, ...] = ()
    plain_losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()
    unrolled: Unrolled | None = None
    curvature: float | None = None
    notes: tuple[str, ...] = field(default=())


ONCE = frozenset({"step", "clip", "curvature"})
"""Experiments that are done for the first seed only: they cost tens of passes."""


def perform(experiment: Experiment, subject: Subject, module: nn.Module, seed: int) -> Seen:
    """Do one experiment. Raises NotApplicableError, and whatever the model raises."""
    match experiment.kind:
        case "baseline":
            return Seen(_observe(subject, module, seed))
        case "reinit":
            with preserved(module, parameters=True):
                _reinitialize(experiment, subject.graph, module, seed)
                unrolled = _unroll_if_any(experiment, subject, module, seed)
                return Seen(_observe(subject, module, seed), unrolled=unrolled)
        case "swap_activation":
            return _swap(experiment, subject, module, seed)
        case "insert_norm":
            names = [n.name for n in chosen_activations(subject.graph, experiment.nodes)]
            rewrite = Rewrite(norm=dict.fromkeys(names, experiment.norm or "layer"))
            return Seen(_observe(subject, module, seed, rewrite))
        case "add_skips":
            return _add_skips(experiment, subject, module, seed)
        case "unroll":
            with preserved(module, parameters=True):
                if experiment.law:
                    _reinitialize(experiment, subject.graph, module, seed)
                return Seen(unrolled=_unroll(experiment, subject, module, seed))
        case "step" | "clip":
            return _train(experiment, subject, module, seed)
        case "curvature":
            with preserved(module):
                trained = [p for p in module.parameters() if p.requires_grad]
                loss = _loss(subject, module, seed)
                return Seen(curvature=largest_eigenvalue(loss, trained, seed))
    raise NotApplicableError(f"no experiment is called {experiment.kind!r}")


def _observe(subject: Subject, module: nn.Module, seed: int, rewrite: Rewrite | None = None) -> Pass:
    with preserved(module):
        torch.manual_seed(seed)
        seen = measure(
            module,
            subject.args,
            subject.kwargs,
            subject.observed or subject.loss,
            subject.graph,
            recipe=subject.recipe,
            rewrite=rewrite,
            budget=subject.budget,
            autocast=subject.autocast,
        )
    if rewrite is None:
        return seen
    wanted = len(rewrite.norm) + len(rewrite.swap) + len(rewrite.skips)
    done = len(rewrite.applied)
    if not done:
        raise NotApplicableError("none of the operations to change was met while the model ran")
    if done < wanted:
        return replace(seen, notes=(*seen.notes, f"{done} of {wanted} operations were changed"))
    return seen


def _loss(subject: Subject, module: nn.Module, seed: int, rewrite: Rewrite | None = None) -> Callable[[], Tensor]:
    """The loss of the batch as a function of the model's present weights, with the same dropout at every call."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))

    def loss() -> Tensor:
        torch.manual_seed(seed)
        with casting(device, subject.autocast):
            if rewrite is None:
                return subject.loss(module(*subject.args, **subject.kwargs))
            with MeasuringWalk(module, subject.graph, rewrite=rewrite):
                output = module(*subject.args, **subject.kwargs)
            return subject.loss(output)

    return loss


def _reinitialize(experiment: Experiment, graph: ModelGraph, module: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    law = experiment.law or "kaiming"
    if law == "lstm_forget_bias":
        by = experiment.weight_factor if experiment.weight_factor > 1 else LSTM_FORGET_BIAS
        if not raise_forget_bias(module, by):
            raise NotApplicableError("the model has no LSTM with a bias")
        return
    table = parameters_of(module)
    changed = 0
    scaled = closing_layers(graph) if law == "kaiming_residual" else frozenset()
    for node in chosen_layers(graph, experiment.nodes):
        fed = fed_activation(graph, node)
        changed += _redraw(node, table, law.removesuffix("_residual"), fed)
        _clear_biases(graph, node, table)
        if node.id in scaled:
            with torch.no_grad():
                for _, weight in weights_of(node, table):
                    weight.mul_(experiment.branch_scale)
    if law == "orthogonal":
        changed += sum(orthogonal_recurrence(layer) for layer in _recurrent(experiment, graph, module))
    if not changed:
        raise NotApplicableError("none of the named layers has weights to draw anew")


def _redraw(node: Node, table: Mapping[str, nn.Parameter], law: str, fed: Node | None, to: str | None = None) -> int:
    feeds = to or (fed.op if fed is not None else None)
    slope = fed.attributes.get("negative_slope") if fed is not None and to is None else None
    changed = 0
    for _, weight in weights_of(node, table):
        if weight.dim() >= 2:
            redraw(weight, law, feeds, slope)
            changed += 1
    return changed


def _clear_biases(graph: ModelGraph, node: Node, table: Mapping[str, nn.Parameter]) -> None:
    """Set biases that init code draws at random to zero, as the laws for weights take them to be."""
    for role, name in node.parameters.items():
        parameter = graph.parameter.get(name)
        law = parameter.law if parameter is not None else None
        if role == "bias" and law is not None and law.origin == "explicit" and law.std and name in table:
            with torch.no_grad():
                table[name].zero_()


def _swap(experiment: Experiment, subject: Subject, module: nn.Module, seed: int) -> Seen:
    to = experiment.to or "relu"
    function = activation(to)
    nodes = chosen_activations(subject.graph, experiment.nodes)
    names = {n.name for n in nodes}
    rewrite = Rewrite(swap=dict.fromkeys(sorted(names), function))
    law = experiment.law or ("kaiming" if to in RECTIFIERS else "xavier")
    with preserved(module, parameters=True):
        torch.manual_seed(seed)
        table = parameters_of(module)
        for node in chosen_layers(subject.graph, ()):
            fed = fed_activation(subject.graph, node)
            if fed is not None and fed.name in names:
                _redraw(node, table, law, fed, to)
        return Seen(_observe(subject, module, seed, rewrite))


def _add_skips(experiment: Experiment, subject: Subject, module: nn.Module, seed: int) -> Seen:
    around = branches(subject.graph, experiment.nodes, max(1, experiment.every))
    if not around:
        raise NotApplicableError("no two layers in sequence have the same shape at both ends of a branch")
    scale = experiment.branch_scale
    seen = _observe(subject, module, seed, Rewrite(skips=tuple(around), branch_scale=scale))
    if subject.recipe is None or subject.recipe.learning_rate is None or experiment.steps < 1:
        return Seen(seen)
    with preserved(module, parameters=True):
        loss = _loss(subject, module, seed, Rewrite(skips=tuple(around), branch_scale=scale))
        steps = replay(module, loss, subject.recipe, experiment.steps)
    return Seen(seen, losses=steps.losses, norms=steps.norms)


def _train(experiment: Experiment, subject: Subject, module: nn.Module, seed: int) -> Seen:
    script = subject.recipe or Recipe()
    recipe = Recipe(
        name=experiment.optimizer or script.name,
        learning_rate=script.learning_rate if experiment.learning_rate is None else experiment.learning_rate,
        momentum=experiment.momentum or script.momentum,
        weight_decay=experiment.weight_decay or script.weight_decay,
    )
    max_norm = experiment.max_norm if experiment.kind == "clip" or experiment.max_norm else None
    if experiment.kind == "clip" and max_norm is None:
        max_norm = 1.0
    with preserved(module, parameters=True):
        own = replay(module, _loss(subject, module, seed), recipe, experiment.steps, max_norm)
    if not recipe.momentum or recipe.name.lower() != "sgd":
        return Seen(losses=own.losses, norms=own.norms)
    with preserved(module, parameters=True):
        plain = replay(module, _loss(subject, module, seed), recipe.plain, experiment.steps, max_norm)
    return Seen(losses=own.losses, norms=own.norms, plain_losses=plain.losses)


def _recurrent(experiment: Experiment, graph: ModelGraph, module: nn.Module) -> list[nn.Module]:
    """The recurrent layers that the experiment names, all of the model if it names none."""
    wrapped = wrapped_paths(module)
    kinds = (nn.RNNBase, nn.RNNCellBase)
    layers = {clean_path(n, wrapped): m for n, m in module.named_modules() if isinstance(m, kinds)}
    if not experiment.nodes:
        return list(layers.values())
    paths = set()
    for node in graph.nodes:
        if node.name in experiment.nodes:
            paths |= {node.name.split("#")[0], node.module}
    return [layer for path, layer in layers.items() if path in paths]


def _unroll_if_any(experiment: Experiment, subject: Subject, module: nn.Module, seed: int) -> Unrolled | None:
    if not _recurrent(experiment, subject.graph, module):
        return None
    try:
        return _unroll(replace(experiment, weight_factor=1.0), subject, module, seed)
    except NotRecurrentError:
        return None


def _unroll(experiment: Experiment, subject: Subject, module: nn.Module, seed: int) -> Unrolled:
    layers = _recurrent(experiment, subject.graph, module)
    if not layers:
        raise NotApplicableError("there is no nn.RNN, LSTM, GRU or cell of theirs to unroll")
    inputs = _inputs_of(layers, subject, module, seed)
    factor = 1.0 if experiment.law == "lstm_forget_bias" else experiment.weight_factor
    found = []
    for layer, sequence in zip(layers, inputs, strict=True):
        found += unroll(layer, sequence, max(2, experiment.steps), factor, seed)
    return extreme(found)


def _inputs_of(layers: Sequence[nn.Module], subject: Subject, module: nn.Module, seed: int) -> list[Tensor | None]:
    """What enters each of the layers at its first call in a forward pass of the model."""
    entering: dict[int, Tensor] = {}

    def note(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            entering.setdefault(id(layer), args[0].detach())

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with preserved(module), torch.no_grad():
            torch.manual_seed(seed)
            module(*subject.args, **subject.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return [entering.get(id(layer)) for layer in layers]
