"""What is installed: every package of the tree, its data files, and nothing heavy beneath it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOP = Path(__file__).parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_wheel_lists_every_package() -> None:
    found = {".".join(p.parent.relative_to(TOP).parts) for p in (TOP / "gradlint").rglob("__init__.py")}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == found | {"gradlint.rules"}


def test_every_data_file_is_in_the_wheel() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["gradlint"]
    tree = TOP / "gradlint"
    data = {
        p.relative_to(tree).as_posix()
        for p in tree.rglob("*")
        if p.is_file() and p.suffix not in (".py", ".pyc") and "__pycache__" not in p.parts
    }
    assert data == {p.relative_to(tree).as_posix() for pattern in patterns for p in tree.glob(pattern)}


def test_the_base_is_light() -> None:
    base = {re.match(r"[\w-]+", d)[0] for d in PROJECT["project"]["dependencies"]}  # type: ignore[index]
    assert base == {"click", "libcst", "msgspec", "pathspec", "rich", "tomli", "unidiff"}
