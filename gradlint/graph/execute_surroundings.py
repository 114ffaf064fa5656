"""Where a slice finds its own modules and files: the folders it is meant to be run from."""

from __future__ import annotations

import builtins
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

from gradlint.worker.protocol import Slice

_RELATIVE = re.compile(r"^[ \t]*from[ \t]+\.", re.MULTILINE)


def search_here_first(sliced: Slice) -> None:
    """Put the folders that a script imports its own modules from on `sys.path`."""
    folder = str(Path(sliced.path).parent)
    wanted = [folder, sliced.root, str(Path(sliced.root) / "src")]
    if _RELATIVE.search(sliced.text):
        # A module of a package: `models/net.py` is not to find `models/models.py` for `models`.
        wanted = [*wanted[1:], folder]
    sys.path[:0] = [p for p in dict.fromkeys(wanted) if p not in sys.path]
    # A package of a project within the project: the script is meant to be run from a folder in between.
    between = [str(p) for p in Path(sliced.path).parents if Path(sliced.root) in p.parents]
    sys.path += [p for b in between for p in (b, str(Path(b) / "src")) if p not in sys.path]


def search_in(folder: Path) -> None:
    """Let the modules of a folder be imported, too."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def package_of(path: str) -> str | None:
    """The package that a file is in, for its relative imports; its top is made importable. None outside of any."""
    folder, names = Path(path).resolve().parent, []
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.append(folder.name)
        folder = folder.parent
    if names and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return ".".join(reversed(names)) or None


_plain_open = io.open


def open_relative_to(sliced: Slice) -> None:
    """Let `open("config.yaml")` find the script's own files, though the working directory is a scratch folder."""
    bases = list(dict.fromkeys([str(Path(sliced.path).parent), sliced.root]))

    def opened(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        if isinstance(file, (str, os.PathLike)) and not any(c in mode for c in "wax+"):
            name = os.fspath(file)
            if isinstance(name, str) and not os.path.isabs(name) and not os.path.exists(name):  # noqa: PTH110, PTH117
                found = (p for b in bases if os.path.isfile(p := os.path.join(b, name)))  # noqa: PTH113, PTH118
                file = next(found, file)
        return _plain_open(file, mode, *arguments, **keywords)

    builtins.open = opened
    io.open = opened
