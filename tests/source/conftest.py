"""Small projects on disk, read into scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from gradlint.source.project import Project
from gradlint.source.read import read_script
from gradlint.source.script import Script

Reader = Callable[..., Script]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """`read("train.py", **{"train.py": text, …})` writes the files and reads one of them."""

    def _read(entry: str, files: dict[str, str]) -> Script:
        (tmp_path / "pyproject.toml").touch()
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text), encoding="utf-8")
        return read_script(tmp_path / entry, Project(tmp_path))

    return _read
