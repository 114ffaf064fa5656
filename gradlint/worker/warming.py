"""What the server has imported before it forks: all that a job is sure to need, and what one job was seen to need."""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import mmap
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_COMPILER_HOOK = "torch._compile"
_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})

PACKAGES = ("torch._dynamo", "torchvision", "timm", "pytorch_lightning", "lightning")
"""Installed packages that take a second or more to import and start no threads by it.

Not transformers: it takes its own copies of `torch.nn.init` when it is imported, which must be the recording ones.
"""


class _WithoutCompiler(importlib.abc.MetaPathFinder):
    """Loads torch so that its meta kernels do not import the compiler, only to be excluded from compilation.

    Functions that torch marks with `torch._compile._disable_dynamo` import `torch._dynamo` at their first call,
    which takes about a second. Nothing is compiled here, so they may stay as they are.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname != _COMPILER_HOOK:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def executed(module: types.ModuleType) -> None:
            execute(module)
            if hasattr(module, "_disable_dynamo"):
                module._disable_dynamo = _unchanged  # type: ignore[attr-defined]

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def _unchanged(function: Callable[..., Any] | None = None, recursive: bool = True) -> Any:
    return function if function is not None else lambda decorated: decorated


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Import torch in here. Without effect where torch has no such hook."""
    finder = _WithoutCompiler()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class Wishes:
    """A page of memory in which children note the packages of `PACKAGES` that they had to import themselves."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._granted = [name in sys.modules for name in PACKAGES]

    def note(self) -> None:
        """Note, in a child, what it has imported."""
        for i, name in enumerate(PACKAGES):
            if name in sys.modules and not self._granted[i]:
                self._page[i] = 1

    def grant(self) -> None:
        """Import, in the server, what was noted, if it is an installed package; never a module of the project."""
        for i, name in enumerate(PACKAGES):
            if not self._page[i] or self._granted[i]:
                continue
            self._granted[i] = True
            if _is_installed(name):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
                settle()


def _is_installed(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and is_from_package(spec.origin)


def is_from_package(file: str | None) -> bool:
    """Whether a module's file is that of an installed package.

    By name, not by this environment's own folder: a virtual environment may see another's packages.
    """
    return not _PACKAGE_FOLDERS.isdisjoint(Path(file or "").parts)


def settle() -> None:
    """Take what exists out of the garbage collector's sight, whose marks would copy every page in every child."""
    gc.collect()
    gc.freeze()
