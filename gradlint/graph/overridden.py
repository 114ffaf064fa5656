"""Methods of nn.Module whose names a class uses for something else."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator

from torch import nn

_ASKED = (
    *("train", "eval", "parameters", "named_parameters", "buffers", "named_buffers", "modules", "named_modules"),
    *("children", "named_children", "state_dict", "apply", "requires_grad_", "zero_grad"),
)
_STRUCTURE = frozenset({"modules", "named_modules", "children", "named_children"})
"""Methods that say what a model is made of. Their arguments tell little: older `modules()` take none."""


def answer_as_modules(model: nn.Module) -> nn.Module:
    """The model, its parts made to answer as torch's own do where their classes mean something else by a name.

    `def train(self, loader, epochs)` is a method people write; torch's `train(mode=True)` is then out of reach.
    An override that takes what the plain method takes is left as it is, unless it says what the model is made of.
    """
    for module in _parts(model, set()):
        for name in foreign_methods(type(module)):
            module.__dict__[name] = types.MethodType(getattr(nn.Module, name), module)
    return model


_known: dict[type[nn.Module], tuple[str, ...]] = {}


def _parts(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    """All modules below, found without the methods that may be overridden."""
    if id(module) in seen:
        return
    seen.add(id(module))
    yield module
    for child in module.__dict__.get("_modules", {}).values():
        if isinstance(child, nn.Module):
            yield from _parts(child, seen)


def foreign_methods(cls: type[nn.Module]) -> tuple[str, ...]:
    """The names whose methods in a class mean something else, as far as their arguments tell."""
    if cls in _known:
        return _known[cls]
    own_names = {name for c in cls.__mro__[: cls.__mro__.index(nn.Module)] for name in vars(c)}
    found = []
    for name in own_names.intersection(_ASKED):
        own, plain = inspect.getattr_static(cls, name), inspect.getattr_static(nn.Module, name)
        if own is not plain and (name in _STRUCTURE or not _takes_the_same(own, plain)):
            found.append(name)
    return _known.setdefault(cls, tuple(sorted(found)))


def _takes_the_same(own: object, plain: Callable[..., object]) -> bool:
    wanted = inspect.signature(plain).parameters.values()
    try:
        found = inspect.signature(own)  # type: ignore[arg-type]
        found.bind(None, **{p.name: p.default for p in wanted if p.default is not p.empty})
    except (TypeError, ValueError):
        return False
    return True
