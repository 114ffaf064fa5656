"""Notebooks: all code cells as one module, and the way back from its lines to cells."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass

from gradlint.location import Location
from gradlint.source.project import UNPARSABLE, SourceFile, UnreadableError

_MAGIC = re.compile(r"^(\s*)([!%?]|\w+\s*=\s*[!%])|^(\s*)[\w.]+\?{1,2}\s*$")
_CELL_MAGIC = re.compile(r"^\s*%%(\w+)")
_PYTHON_CELLS = frozenset({"time", "timeit", "capture", "prun", "python", "python3"})


@dataclass(frozen=True)
class Notebook:
    """A notebook as one module: `lines[i]` is the (cell, line in cell) of the module's line i + 1."""

    file: SourceFile
    lines: tuple[tuple[int, int], ...]

    def locate(self, location: Location) -> Location:
        """A place in the module as a place in its cell; places in other files are left as they are."""
        if location.path != self.file.path or not 1 <= location.line <= len(self.lines):
            return location
        cell, line = self.lines[location.line - 1]
        end_cell, end_line = self.lines[min(location.end_line, len(self.lines)) - 1]
        if end_cell != cell:
            end_line = line
        return Location(location.path, line, location.column, end_line, location.end_column, cell)

    def cells(self) -> dict[int, list[str]]:
        """The lines of each code cell, by the cell's index in the file."""
        found: dict[int, list[str]] = {}
        for (cell, _), line in zip(self.lines, self.file.lines, strict=False):
            found.setdefault(cell, []).append(line)
        return found


def read_notebook(path: str, raw: bytes) -> Notebook:
    """The code cells of a notebook. Raises UnreadableError when it is not a notebook in Python."""
    try:
        content = json.loads(raw.decode("utf-8-sig"))
        cells = content["cells"] if "cells" in content else [c for w in content["worksheets"] for c in w["cells"]]
        if not isinstance(cells, list):
            raise TypeError("cells are no list")
        language = (content.get("metadata") or {}).get("kernelspec", {}).get("language", "python")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError("not a notebook: it is not the JSON that Jupyter writes") from error
    if str(language).lower() not in {"python", "python3", ""}:
        raise UnreadableError(f"a notebook in {language}, not in Python")
    text: list[str] = []
    lines: list[tuple[int, int]] = []
    for number, cell in enumerate(cells):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", cell.get("input", ""))
        body = "".join(map(str, source)) if isinstance(source, list) else str(source)
        for offset, line in enumerate(_plain(body), 1):
            text.append(line)
            lines.append((number, offset))
    return Notebook(SourceFile(path, "\n".join(text) + "\n"), tuple(lines))


def _plain(body: str) -> list[str]:
    """A cell's lines with magics commented out, as many as before; a cell in no Python at all is all comment."""
    lines = body.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is not None and (magic := _CELL_MAGIC.match(lines[first])) and magic[1] not in _PYTHON_CELLS:
        return [f"# {line}" for line in lines]
    plain = []
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        plain.append(f"{indent}pass  # {line.strip()}" if _MAGIC.match(line) else line)
    if not _parses("\n".join(plain)):
        return [f"# {line}" for line in lines]
    return plain


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except UNPARSABLE:
        return False
    return True
