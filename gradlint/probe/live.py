"""The graph of a model that exists, as it runs on a batch that exists."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gradlint.graph.frames import user_location
from gradlint.graph.law_formulas import fans
from gradlint.graph.lower import Origins, lower
from gradlint.graph.model import InitLaw, ModelGraph
from gradlint.graph.record import Recorder
from gradlint.graph.walk import tensors_in
from gradlint.location import Location
from gradlint.probe.ranks import distributed
from gradlint.probe.state import preserved


class Constructors:
    """Remembers the user's line that makes each module, from `install` on, for this process."""

    def __init__(self) -> None:
        self._made_at: dict[int, Location] = {}

    def install(self) -> None:
        """Begin to watch. There is no way back."""
        original, made_at = nn.Module.__init__, self._made_at

        @functools.wraps(original)
        def constructed(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            original(module, *args, **kwargs)
            place = user_location(depth=2)
            if place is not None:
                made_at[id(module)] = place

        nn.Module.__init__ = constructed

    def of(self, module: nn.Module) -> dict[str, Location]:
        """The lines that made the module's parts, by module path."""
        return {path: self._made_at[id(m)] for path, m in module.named_modules() if id(m) in self._made_at}


def trace_call(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    constructors: Mapping[str, Location] | None = None,
) -> ModelGraph:
    """Record one forward pass, which the module and the random numbers do not notice.

    The parameters' laws are those that their present values show. Raises whatever the model raises.
    """
    recorder = Recorder(module)
    with preserved(module):
        recorder.run(args, kwargs)
    graph = lower(recorder.graph, module, Origins(present_laws(module), constructors or {}))
    shapes = ["x".join(map(str, t.shape)) for t in tensors_in((args, dict(kwargs)))]
    return replace(graph, traced_by="recording (real)", input=", ".join(shapes) or None)


def present_laws(module: nn.Module) -> dict[str, InitLaw]:
    """Mean and std of each parameter as it is now, brought to the host in one transfer for each device."""
    named = [(n, p.detach()) for n, p in module.named_parameters() if p.numel() and p.is_floating_point()]
    usable = [(n, p) for n, p in named if p.device.type != "meta" and not p.is_sparse]
    of_device: dict[torch.device, list[tuple[str, torch.Tensor]]] = {}
    for name, p in usable:
        of_device.setdefault(p.device, []).append((name, p))
    laws = {}
    for group in of_device.values():
        rows = torch.stack([_moments(p) for _, p in group]).tolist()
        for (name, p), (mean, std) in zip(group, rows, strict=True):
            laws[name] = _law(p, mean, std)
    return laws


def _moments(parameter: torch.Tensor) -> torch.Tensor:
    values = parameter.float()
    mean = values.mean()
    if not distributed(parameter):
        return torch.stack([mean, values.std(correction=0)])
    # A sum over all processes that hold a shard, in which each must take part.
    std = (values - mean).square().mean().sqrt()
    return torch.stack([moment.full_tensor() for moment in (mean, std)])


def _law(parameter: torch.Tensor, mean: float, std: float) -> InitLaw:
    fan_in, fan_out = fans(parameter.shape)
    return InitLaw(
        distribution="normal" if std > 0 else "constant",
        mean=mean,
        std=std,
        fan_in=fan_in,
        fan_out=fan_out,
        gain_squared=fan_in * (std * std + mean * mean) if fan_in else None,
        origin="measured",
    )
