"""What is installed: every package of the tree, its data files, and nothing heavy beneath it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

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
    assert base == {"click", "libcst", "msgspec", "pathspec", "pyyaml", "rich", "tomli", "unidiff"}


def test_every_promised_python_is_tested() -> None:
    workflow = yaml.safe_load((TOP / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    promised = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"
    lowest = [s["with"] for s in workflow["jobs"]["lowest"]["steps"] if "python-version" in s.get("with", {})]
    assert lowest == [{"python-version": promised[0]}]


def test_every_python_step_of_the_workflow_names_what_it_uses() -> None:
    workflow = yaml.safe_load((TOP / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    used = [s["uses"] for job in workflow["jobs"].values() for s in job["steps"] if "uses" in s]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)
    assert workflow["permissions"] == {"contents": "read"}
