"""What a measurement must leave as it found it: parameters, buffers, gradients, attributes and random numbers."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from gradlint.graph.naming import is_sharded


@contextmanager
def preserved(module: nn.Module, *, parameters: bool = False) -> Iterator[None]:
    """Restore the module and the random number generators, bit for bit, when the block is left.

    Attributes of every submodule (train/eval, caches), the content of its buffers, `.grad` of its parameters and
    the generators of Python, NumPy (if loaded), the CPU and the accelerators are restored. With `parameters` the
    values of the parameters are copied too: a measurement does not change them, a training step does.
    """
    attributes = [(m, dict(m.__dict__), _tables(m)) for m in module.modules()]
    kept = [*module.buffers(), *(module.parameters() if parameters else ())]
    values = [(t, t.detach().clone()) for t in kept if t.device.type != "meta"]
    gradients = [(p, p.grad) for p in module.parameters()]
    for p, _ in gradients:
        p.grad = None
    held = generators()
    try:
        yield
    finally:
        for m, _, _ in attributes:
            # FSDP2 may still hold the gathered parameters, and must not believe so once the sharded ones are back.
            if is_sharded(m):
                m.reshard()
        for m, saved, tables in attributes:
            m.__dict__.clear()
            m.__dict__.update(saved)
            for name, table in tables.items():
                m.__dict__[name].clear()
                m.__dict__[name].update(table)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        for p, gradient in gradients:
            p.grad = gradient
        restore(held)


def _tables(module: nn.Module) -> dict[str, dict[str, Any]]:
    names = ("_parameters", "_buffers", "_modules")
    return {name: dict(module.__dict__[name]) for name in names if name in module.__dict__}


def generators() -> dict[str, Any]:
    states: dict[str, Any] = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        # A device that a kernel broke answers nothing any more, but the CPU goes on.
        with suppress(RuntimeError):
            states["cuda"] = torch.cuda.get_rng_state_all()
    if hasattr(torch, "mps") and torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        states["numpy"] = numpy.random.get_state()
    return states


def restore(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])
