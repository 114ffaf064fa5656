"""Lazy modules, whose parameters get their sizes, and then their default init, from the first call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.graph.input_values import arguments
from gradlint.graph.inputs import ModelInput
from gradlint.graph.laws import LawRecorder
from gradlint.graph.model import InitLaw


def is_lazy(tensor: Tensor) -> bool:
    """Whether a parameter or buffer has no size yet."""
    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))


def lazy_names(module: nn.Module) -> list[str]:
    """The parameters that have no size yet."""
    return [name for name, p in module.named_parameters() if is_lazy(p)]


def default_laws(module: nn.Module, known: Mapping[str, InitLaw]) -> dict[str, InitLaw]:
    """The laws of parameters that a lazy module made in its first call: those of its `reset_parameters`.

    `module` has been called. Only parameters without a known law are looked at, and only if one of their module is
    known to have come late: those of other modules are not invented.
    """
    found: dict[str, InitLaw] = {}
    for path, m in module.named_modules():
        if not _was_lazy(m):
            continue
        names = [(f"{path}.{n}" if path else n, p) for n, p in m.named_parameters(recurse=False)]
        if all(name in known for name, _ in names):
            continue
        reset: Any = getattr(m, "reset_parameters", None)
        if reset is None:
            continue
        with LawRecorder() as recorder, torch.device("meta"):
            reset()
            found |= {name: recorder.law(p) for name, p in names}
    return found


def _was_lazy(module: nn.Module) -> bool:
    """Whether the walk gave the module its sizes; its class is the ordinary one by then."""
    return bool(module.__dict__.get("_gradlint_lazy"))


def sized(factory: Callable[[int], nn.Module], spec: ModelInput, seed: int) -> nn.Module:
    """The model built for real, its lazy modules given their sizes by one call on the CPU."""
    module = factory(seed)
    if lazy_names(module):
        args, kwargs = arguments(spec, "cpu", seed)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            module(*args, **kwargs)
    return module
