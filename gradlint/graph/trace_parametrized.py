"""The init laws of weights that torch computes from a parameter: spectral norm, weight norm, parametrizations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradlint.graph.model import InitLaw
from gradlint.graph.trace_lazy import is_lazy

MAX_PARAMETERS = 50_000_000
"""A larger model is not built for real only for this: 200 MB."""
_SAME = 0.02
_ORIGINAL = re.compile(r"^(?P<path>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.original(?P<part>[01]?)$")
_HOOKED = re.compile(r"^(?P<path>(?:.*\.)?)(?P<name>\w+)_(?P<part>orig|v)$")


def computed_weights(module: nn.Module) -> Iterator[tuple[str, str, str]]:
    """(parameter, module path, attribute) of each weight that is computed from that parameter."""
    modules = dict(module.named_modules())
    for name, _ in module.named_parameters():
        found = _ORIGINAL.match(name)
        if found and found["part"] != "0":
            yield name, found["path"].rstrip("."), found["name"]
            continue
        found = _HOOKED.match(name)
        if found is None:
            continue
        owner = modules.get(found["path"].rstrip("."))
        norm = f"{found['name']}_g"
        if owner is not None and (found["part"] == "orig" or norm in owner._parameters):
            yield name, found["path"].rstrip("."), found["name"]


def effective_laws(
    module: nn.Module, laws: Mapping[str, InitLaw], factory: Callable[[int], nn.Module] | None
) -> dict[str, InitLaw]:
    """The laws of computed weights, by the name of the parameter that each is computed from.

    They are measured on one real build. Empty where there are none, or the model is too large or cannot be built.
    """
    wanted = list(computed_weights(module))
    if (
        not wanted
        or factory is None
        or sum(0 if is_lazy(p) else p.numel() for p in module.parameters()) > MAX_PARAMETERS
    ):
        return {}
    try:
        with torch.random.fork_rng(devices=[]):
            real = dict(factory(0).named_modules())
    except Exception:
        return {}
    found = {}
    for name, path, attribute in wanted:
        value = _value(real[path], attribute) if path in real else None
        if value is None or not value.numel():
            continue
        mean, std = float(value.double().mean()), float(value.double().std(correction=0))
        before = laws.get(name)
        if before is not None and before.std and abs(std / before.std - 1.0) < _SAME:
            continue
        fan_in = value[0].numel() if value.dim() > 1 else None
        gain = fan_in * (std * std + mean * mean) if fan_in else None
        law = before or InitLaw("other", fan_in=fan_in)
        centred = mean if abs(mean) > 0.1 * std else 0.0
        found[name] = replace(law, distribution="other", mean=centred, std=std, gain_squared=gain, scheme=None)
    return found


def _value(module: nn.Module, attribute: str) -> Tensor | None:
    """The weight as the next forward would use it."""
    try:
        with torch.no_grad():
            for hook in list(module._forward_pre_hooks.values()):
                if type(hook).__module__.startswith("torch.nn.utils"):
                    hook(module, ())
            value = getattr(module, attribute)
    except Exception:
        return None
    return value.detach() if isinstance(value, Tensor) and value.device.type != "meta" else None
