"""What one rule says of a script that is written out in a test."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from gradlint.finding import Finding
from gradlint.rule import registry
from gradlint.source.project import Project
from gradlint.source.read import read_script

IMPORTS = "import torch\nfrom torch import nn\n"


def found(code: str, text: str, folder: Path, **others: str) -> list[Finding]:
    """The findings of a script rule on `train.py`, with other files of the project beside it by their stems."""
    (folder / "pyproject.toml").touch()
    for name, content in {**others, "train": text}.items():
        (folder / f"{name}.py").write_text(IMPORTS + dedent(content), encoding="utf-8")
    script = read_script(folder / "train.py", Project(folder))
    return list(registry()[code]().check_script(script))


def lines(findings: list[Finding], folder: Path) -> list[str]:
    """The source lines that findings stand at, stripped."""
    return [
        Path(f.location.path).read_text(encoding="utf-8").splitlines()[f.location.line - 1].strip() for f in findings
    ]
