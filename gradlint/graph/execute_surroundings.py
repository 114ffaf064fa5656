"""Where a slice finds its own modules and files: the folders it is meant to be run from."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gradlint.graph.stubs import Unknown
from gradlint.worker.protocol import Slice
from gradlint.worker.warming import is_from_package

_OURS = frozenset({"gradlint", "torch", "numpy"})
"""Packages that gradlint itself holds on to in the child."""

_RELATIVE = re.compile(r"^[ \t]*from[ \t]+(\.+)", re.MULTILINE)


def search_here_first(sliced: Slice) -> None:
    """Put the folders that a script imports its own modules from on `sys.path`."""
    folder = Path(sliced.path).parent
    wanted = [folder, Path(sliced.root), Path(sliced.root) / "src"]
    # A package of a project within the project: the script is meant to be run from a folder in between.
    between = [p for p in Path(sliced.path).parents if Path(sliced.root) in p.parents]
    own = re.compile(rf"^[ \t]*(?:from|import)[ \t]+{re.escape(folder.name)}\b", re.MULTILINE)
    if _RELATIVE.search(sliced.text) or own.search(sliced.text):
        # A module of a package: `models/net.py` is not to find `models/models.py` for `models`.
        shadows = (folder / f"{folder.name}.py").is_file()
        wanted = [*wanted[1:], *([] if shadows else [folder])]
        between = [p for p in between if not (shadows and p == folder)]
    first = [p for p in dict.fromkeys(map(str, wanted)) if p not in sys.path]
    _unload_shadowed(first)
    sys.path[:0] = first
    sys.path += [p for b in between for p in (str(b), str(b / "src")) if p not in sys.path]


def _unload_shadowed(folders: Iterable[str]) -> None:
    """Forget installed packages that were loaded ahead of a script whose project has its own of that name."""
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                name = entry.name.removesuffix(".py")
                loaded = sys.modules.get(name)
                if loaded is None or name in _OURS or not is_from_package(getattr(loaded, "__file__", None)):
                    continue
                if entry.name.endswith(".py") or os.path.isfile(os.path.join(entry.path, "__init__.py")):  # noqa: PTH113, PTH118
                    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                        del sys.modules[module]


def search_in(folder: Path) -> None:
    """Let the modules of a folder be imported, too."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def package_of(path: str) -> str | None:
    """The package that a file is in, for its relative imports; its top is made importable. None outside of any.

    A folder without `__init__.py` is one too (PEP 420), as far as the file's relative imports reach.
    """
    folder = Path(path).resolve().parent
    names: list[str] = []
    reach = 0 if (folder / "__init__.py").is_file() else _reach(path)
    while ((folder / "__init__.py").is_file() or len(names) < reach) and folder.name.isidentifier():
        names.append(folder.name)
        folder = folder.parent
    if names and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return ".".join(reversed(names)) or None


def _reach(path: str) -> int:
    """The most dots of a file's relative imports."""
    if not path.endswith(".py") or not Path(path).is_file():
        return 0
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return max((len(dots) for dots in _RELATIVE.findall(text)), default=0)


_plain_open = io.open


def open_relative_to(sliced: Slice) -> None:
    """Let `open("config.yaml")` find the script's own files, though the working directory is a scratch folder."""
    bases = list(dict.fromkeys([str(Path(sliced.path).parent), sliced.root]))

    def opened(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        if isinstance(file, Unknown):
            raise FileNotFoundError(f"the file to open is not known: {file.gradlint_name}")
        if isinstance(file, (str, os.PathLike)) and not any(c in mode for c in "wax+"):
            name = os.fspath(file)
            if isinstance(name, str) and not os.path.isabs(name) and not os.path.exists(name):  # noqa: PTH110, PTH117
                found = (p for b in bases if os.path.isfile(p := os.path.join(b, name)))  # noqa: PTH113, PTH118
                file = next(found, file)
        return _plain_open(file, mode, *arguments, **keywords)

    builtins.open = opened
    io.open = opened
