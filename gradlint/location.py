"""A place in a source file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True, slots=True)
class Location:
    """A span of source text.

    `path` is absolute, or relative to the project root, with `/`. `line` and `end_line` count from 1;
    `column` and `end_column` count characters from 1, `end_column` is one past the last character.
    In a notebook `cell` is the index of the cell in the file and `line` counts within that cell.
    """

    path: str
    line: int
    column: int = 1
    end_line: int = 0
    end_column: int = 0
    cell: int | None = None

    def __post_init__(self) -> None:
        if not self.end_line:
            object.__setattr__(self, "end_line", self.line)
        if not self.end_column:
            object.__setattr__(self, "end_column", self.column)
