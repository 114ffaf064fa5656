"""Names of operations, the same in every run of the same model."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def clean_path(path: str, wrapped: frozenset[str] = frozenset()) -> str:
    """A module path without what wrappers put into it.

    `_orig_mod` (torch.compile) goes wherever it stands, `module` where it follows the path of a wrapper.
    """
    kept: list[str] = []
    seen: list[str] = []
    for part in path.split(".") if path else []:
        if part != "_orig_mod" and not (part == "module" and ".".join(seen) in wrapped):
            kept.append(part)
        seen.append(part)
    return ".".join(kept)


def wrapped_paths(module: nn.Module) -> frozenset[str]:
    """The paths of the DataParallel-like wrappers inside a module."""
    return frozenset(path for path, m in module.named_modules() if isinstance(m, WRAPPERS))


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 (`fully_shard`) gathers the module's parameters before it is called."""
    return callable(getattr(module, "unshard", None)) and callable(getattr(module, "reshard", None))


def class_name(module: nn.Module) -> str:
    """The name of the class that the user wrote; FSDP2 puts one of its own in front."""
    name = type(module).__name__
    return name.removeprefix("FSDP") or name if is_sharded(module) else name


class Namer:
    """Gives each operation of one run its name.

    A module is named by its path, "net.0", and "net.0#2" at its second call. A function is named by its operation
    and how often that has run, "add3"; numbers that would spell a module's path are left out.
    """

    def __init__(self, module: nn.Module) -> None:
        wrapped = wrapped_paths(module)
        self.paths = {id(m): clean_path(path, wrapped) for path, m in module.named_modules()}
        self.parameters = {id(p): clean_path(path, wrapped) for path, p in module.named_parameters()}
        self._known = frozenset(self.parameters.values())
        self.buffers = {id(b): clean_path(path, wrapped) for path, b in module.named_buffers()}
        self.taken = frozenset(self.paths.values())
        self._calls: Counter[str] = Counter()

    def path(self, module: nn.Module, parent: str) -> str:
        """The module's path; one that was made during the run hangs under its caller by its class name."""
        known = self.paths.get(id(module))
        if known is not None:
            return known
        own = type(module).__name__.lower()
        return f"{parent}.{own}" if parent else own

    def parameter(self, tensor: torch.Tensor) -> str | None:
        """The name of a parameter, or None for any other tensor."""
        return self.parameters.get(id(tensor))

    def held_by(self, path: str, own: str) -> str | None:
        """The name of a module's own parameter by the module's path: FSDP2 puts gathered tensors in its place."""
        name = f"{path}.{own}" if path else own
        return name if name in self._known else None

    def restart(self) -> None:
        """Begin a new run."""
        self._calls.clear()

    def module_call(self, path: str) -> str:
        """The name of the next call of a module."""
        path = path or "model"
        self._calls["/" + path] += 1
        count = self._calls["/" + path]
        return path if count == 1 else f"{path}#{count}"

    def function_call(self, op: str) -> str:
        """The name of the next call of a function."""
        while True:
            self._calls[op] += 1
            name = f"{op}{self._calls[op]}"
            if name not in self.taken:
                return name
