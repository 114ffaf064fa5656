"""Where a slice finds its own modules and files: the folders it is meant to be run from."""

from __future__ import annotations

import builtins
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

from gradlint.graph.stubs import Unknown
from gradlint.worker.protocol import Slice

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
    sys.path[:0] = [p for p in dict.fromkeys(map(str, wanted)) if p not in sys.path]
    sys.path += [p for b in between for p in (str(b), str(b / "src")) if p not in sys.path]


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
