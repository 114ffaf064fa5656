"""`gradlint init`: configuration, pre-commit hook and workflow for a project, without overwriting anything."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gradlint import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover -- the backport has the same interface
    import tomli as tomllib

REPOSITORY = "https://github.com/gradlint/gradlint"

CONFIGURATION = """\
[tool.gradlint]
# Rules by code, prefix or name; `gradlint explain` lists them.
select = ["GL"]
# Lowest severity that fails a run: info, warning or error.
fail-on = "warning"
"""

HOOK = f"""\
  - repo: {REPOSITORY}
    rev: v{__version__}
    hooks:
      - id: gradlint
"""

WORKFLOW = f"""\
name: gradlint

on:
  pull_request:
  push:
    branches: [main]

permissions:
  contents: read

jobs:
  gradlint:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      # With your requirements installed here, torch among them, models are built and findings measured.
      # - run: python -m pip install -r requirements.txt
      - uses: gradlint/gradlint@v{__version__}
"""


@dataclass(frozen=True)
class Step:
    """What became of one file: `action` is "wrote", "extended", "kept" or "failed". `note` says what to do by hand."""

    path: str
    action: str
    note: str = ""


def initialise(folder: Path) -> Iterator[Step]:
    """Set a project up. Files that exist keep every byte; a pyproject.toml without a table gets one at its end."""
    yield _guarded("pyproject.toml", folder, _configuration)
    yield _guarded(".pre-commit-config.yaml", folder, _hook)
    yield _guarded(".github/workflows/gradlint.yml", folder, _workflow)


def _guarded(name: str, folder: Path, write: Callable[[Path, str], Step]) -> Step:
    try:
        return write(folder / name, name)
    except FileExistsError:
        return Step(name, "kept")
    except (OSError, UnicodeDecodeError) as error:
        return Step(name, "failed", str(getattr(error, "strerror", None) or error))


def _configuration(path: Path, name: str) -> Step:
    if not path.exists():
        return _new(path, name, CONFIGURATION)
    text = path.read_bytes().decode("utf-8")
    try:
        tool = tomllib.loads(text).get("tool", {})
    except tomllib.TOMLDecodeError as error:
        return Step(name, "failed", f"not valid TOML: {error}")
    if isinstance(tool, dict) and "gradlint" in tool:
        return Step(name, "kept", "it has a [tool.gradlint] table")
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text else newline if text.endswith("\n") else newline * 2
    with path.open("ab") as file:
        file.write((gap + CONFIGURATION.replace("\n", newline)).encode())
    return Step(name, "extended", "[tool.gradlint] stands at its end")


def _hook(path: Path, name: str) -> Step:
    if not path.exists():
        return _new(path, name, "repos:\n" + HOOK)
    if REPOSITORY in path.read_text(encoding="utf-8"):
        return Step(name, "kept", "it has the hook")
    return Step(name, "kept", "add under `repos:`\n" + HOOK)


def _workflow(path: Path, name: str) -> Step:
    return _new(path, name, WORKFLOW)


def _new(path: Path, name: str, text: str) -> Step:
    """Write a file that is not there. Raises FileExistsError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
    return Step(name, "wrote")
