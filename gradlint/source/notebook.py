"""Notebooks: all code cells as one module, and the way back from its lines to cells."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradlint.location import Location
from gradlint.source.project import UNPARSABLE, LeftOutError, SourceFile, UnreadableError

MAX_BYTES = 64 << 20
"""Outputs make notebooks large, but none that a person opens is larger than this."""

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
        cells = _cells(content)
        language = (content.get("metadata") or {}).get("kernelspec", {}).get("language", "python")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError("not a notebook: it is not the JSON that Jupyter writes") from error
    if str(language).lower() not in {"python", "python3", ""}:
        raise LeftOutError(f"a notebook in {language}, not in Python")
    text: list[str] = []
    lines: list[tuple[int, int]] = []
    for number, cell in enumerate(cells):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        for offset, line in enumerate(plain_lines(_source(cell)), 1):
            text.append(line)
            lines.append((number, offset))
    return Notebook(SourceFile(path, "\n".join(text) + "\n"), tuple(lines))


def _cells(content: Any) -> list[Any]:
    """The cells of a notebook of any version. Raises KeyError and TypeError."""
    cells = content["cells"] if "cells" in content else [c for w in content["worksheets"] for c in w["cells"]]
    if not isinstance(cells, list):
        raise TypeError("cells are no list")
    return cells


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", cell.get("input", ""))
    return "".join(map(str, source)) if isinstance(source, list) else str(source)


def code_cells(raw: bytes) -> dict[int, str]:
    """The text of each code cell as it stands, magics included, by its index. Raises UnreadableError."""
    read_notebook("", raw)
    cells = enumerate(_cells(json.loads(raw.decode("utf-8-sig"))))
    return {i: _source(c) for i, c in cells if isinstance(c, dict) and c.get("cell_type") == "code"}


def with_cells(raw: bytes, texts: Mapping[int, str]) -> bytes:
    """The notebook with other texts in these code cells, and every other byte as it was.

    Raises UnreadableError where the notebook is written in a way that cannot be kept.
    """
    text = raw.decode("utf-8-sig")
    content = json.loads(text)
    style = _style(text)
    if _dumped(content, text, style) != raw:
        raise UnreadableError("the notebook is not laid out as Jupyter does: save it once there")
    for index, cell in enumerate(_cells(content)):
        if index in texts:
            key = "source" if "source" in cell else "input"
            cell[key] = texts[index].splitlines(keepends=True) if isinstance(cell[key], list) else texts[index]
    return _dumped(content, text, style)


def _style(text: str) -> dict[str, Any]:
    """How the JSON is laid out, as arguments of `json.dumps`."""
    indent = re.match(r"\{\r?\n([ \t]+)", text)
    tight = re.match(r'\{\s*"[^"]*":"?\S', text)
    separators = ((",", ":") if tight else (", ", ": ")) if not indent else ((",", ":") if tight else (",", ": "))
    return {
        "indent": indent[1] if indent else None,
        "separators": separators,
        "ensure_ascii": text.isascii() and re.search(r"\\u[0-9a-f]{4}", text) is not None,
    }


def _dumped(content: Any, like: str, style: dict[str, Any]) -> bytes:
    end = like[len(like.rstrip()) :]
    written = (json.dumps(content, **style) + end).replace("\n", "\r\n" if "\r\n" in like else "\n")
    return written.replace("\r\r\n", "\r\n").encode()


def plain_lines(body: str) -> list[str]:
    """A cell's lines with magics commented out, as many as before; a cell in no Python at all is all comment."""
    lines = _lines(body)
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is not None and (magic := _CELL_MAGIC.match(lines[first])) and magic[1] not in _PYTHON_CELLS:
        return [f"# {line}" for line in lines]
    plain = python_of(body).split("\n")
    return plain if _parses("\n".join(plain)) else [f"# {line}" for line in lines]


def python_of(body: str) -> str:
    """A cell's text with magics commented out, line by line, whether that is a program or not."""
    indents = ((line, line[: len(line) - len(line.lstrip())]) for line in _lines(body))
    return "\n".join(f"{indent}pass  # {line.strip()}" if _MAGIC.match(line) else line for line, indent in indents)


def _lines(body: str) -> list[str]:
    return body.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except UNPARSABLE:
        return False
    return True
