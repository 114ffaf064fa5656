"""What a user gets: the wheel in an empty environment, pre-commit, and a rule pack of somebody else.

These build and download, so they are `slow`; where no package index can be reached they are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.test_cli import SIGMOIDS

TOP = Path(__file__).parents[1]
MEGABYTES = 40
"""What the base may add to an environment."""

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    return subprocess.run(
        [str(c) for c in command], cwd=folder, capture_output=True, text=True, check=False, env=surroundings
    )


def source(target: Path) -> Path:
    """The tracked files alone, so that nothing is built in the checkout."""
    listed = run("git", "ls-files", "-z", folder=TOP).stdout.split("\0")
    for name in filter(None, listed):
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(TOP / name, file, follow_symlinks=False)
    return target


def size(folder: Path) -> int:
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "build", "--outdir", folder, source(tmp_path_factory.mktemp("source")))
    if "No matching distribution found" in built.stdout + built.stderr:
        pytest.skip("no package index here")
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the commands of an environment that holds the wheel and what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    assert run(sys.executable, "-m", "venv", folder).returncode == 0
    before = size(folder)
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    done = run(commands / "python", "-m", "pip", "install", wheel)
    assert done.returncode == 0, done.stderr
    assert (size(folder) - before) / 1e6 < MEGABYTES
    return commands


def test_the_base_brings_no_torch(installed: Path) -> None:
    listed = json.loads(run(installed / "python", "-m", "pip", "list", "--format", "json").stdout)
    names = {p["name"].lower() for p in listed}
    assert names <= {
        "click", "colorama", "gradlint-torch", "libcst", "markdown-it-py", "mdurl", "msgspec", "pathspec", "pip",
        "pygments", "pyyaml", "pyyaml-ft", "rich", "setuptools", "tomli", "typing-extensions", "unidiff",
    }  # fmt: skip


def test_the_wheel_runs_every_command(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text(SIGMOIDS)
    gradlint = installed / "gradlint"
    checked = run(gradlint, "check", "--report", "html=page.html", folder=tmp_path)
    assert checked.returncode == 1 and "GL101" in checked.stdout, checked.stdout + checked.stderr
    assert "torch is not installed" in checked.stdout and "<style>" in (tmp_path / "page.html").read_text()
    assert "What it does" in run(gradlint, "explain", "GL101").stdout
    assert run(gradlint, "init", folder=tmp_path).returncode == 0
    assert "torch is not installed" in run(gradlint, "probe", "deep.py", folder=tmp_path).stderr
    for command, extra in (("lsp", "lsp"), ("check --watch", "watch")):
        missing = run(gradlint, *command.split(), folder=tmp_path)
        assert missing.returncode == 2 and f"install the extra `gradlint-torch[{extra}]`" in missing.stderr


def test_a_rule_pack_of_somebody_else_is_found(installed: Path, tmp_path: Path) -> None:
    page = (TOP / "docs" / "writing-a-rule.md").read_text(encoding="utf-8")
    code = next(b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "RULES" in b)
    entry = next(b for b in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "entry-points" in b)
    pack = tmp_path / "pack"
    (pack / "my_package").mkdir(parents=True)
    (pack / "my_package" / "__init__.py").write_text("")
    (pack / "my_package" / "rules.py").write_text(code)
    (pack / "pyproject.toml").write_text(f'[project]\nname = "my-package"\nversion = "1"\n{entry}')
    assert run(installed / "python", "-m", "pip", "install", pack).returncode == 0
    script = "import torch\nnet = torch.nn.Linear(2, 2)\nopt = torch.optim.SGD(net.parameters(), lr=1.0)\n"
    (tmp_path / "t.py").write_text(script + "for x in data:\n    net(x).sum().backward()\n    opt.step()\n")
    try:
        found = run(installed / "gradlint", "check", "--select", "XY", "--output-format", "concise", folder=tmp_path)
        assert "XY101 info `opt` steps with a learning rate of exactly 1" in found.stdout, found.stdout + found.stderr
        assert "round-rate" in run(installed / "gradlint", "explain").stdout
    finally:
        run(installed / "python", "-m", "pip", "uninstall", "--yes", "my-package")


def test_a_broken_rule_pack_is_one_line(installed: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "broken_rules.py").write_text("import nothing_of_that_name\n")
    (pack / "pyproject.toml").write_text(
        textwrap.dedent("""\
        [project]
        name = "broken-pack"
        version = "1"
        [project.entry-points."gradlint.rules"]
        broken = "broken_rules"
        [tool.setuptools]
        py-modules = ["broken_rules"]
        """)
    )
    assert run(installed / "python", "-m", "pip", "install", pack).returncode == 0
    try:
        for command in (("check",), ("explain",)):
            done = run(installed / "gradlint", *command, folder=tmp_path)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == (
                "error: rule pack `broken_rules` does not load: No module named 'nothing_of_that_name'\n"
            )
    finally:
        run(installed / "python", "-m", "pip", "uninstall", "--yes", "broken-pack")


def test_pre_commit_runs_both_hooks(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("pre_commit")
    hooks = source(tmp_path / "hooks")
    project = tmp_path / "project"
    project.mkdir()
    (project / "deep.py").write_text(SIGMOIDS)
    (project / "notes.txt").write_text("none of ours")
    for folder in (hooks, project):
        run("git", "init", "--quiet", folder=folder)
        run("git", "add", "--all", folder=folder)
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        assert run("git", *who, "commit", "--quiet", "-m", "a", folder=folder).returncode == 0
    revision = run("git", "rev-parse", "HEAD", folder=hooks).stdout.strip()
    (project / ".pre-commit-config.yaml").write_text(
        f"repos:\n  - repo: {hooks}\n    rev: {revision}\n    hooks: [{{id: gradlint}}, {{id: gradlint-model}}]\n"
    )
    path = f"{installed}{os.pathsep}{os.environ['PATH']}"
    command = (sys.executable, "-m", "pre_commit", "run", "--all-files", "--verbose")
    done = run(*command, folder=project, PATH=path, PRE_COMMIT_HOME=str(tmp_path / "home"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("deep.py:5:24: GL101 error saturating-stack") == 2
    assert "not measured: --no-exec" in done.stdout and "not measured: torch is not installed" in done.stdout
