"""The doors: the hooks, the action's steps run as the shell they are, and `gradlint init`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gradlint.cli import cli
from gradlint.config import load
from gradlint.initialise import initialise
from tests.test_changes import commit, git
from tests.test_cli import CLEAN, SIGMOIDS

TOP = Path(__file__).parents[1]
BASH = "bash --noprofile --norc -eo pipefail"
"""How GitHub runs a step with `shell: bash`."""


def step(name: str) -> dict[str, Any]:
    action = yaml.safe_load((TOP / "action.yml").read_text(encoding="utf-8"))
    return next(s for s in action["runs"]["steps"] if s["name"] == name)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """`main` with one bad file, and a merge of a branch that adds another, as GitHub makes it for a pull request."""
    top = tmp_path / "top"
    top.mkdir()
    git(top, "init", "--quiet", "--initial-branch", "main")
    (top / "old.py").write_text(SIGMOIDS)
    commit(top)
    git(top, "switch", "--quiet", "-c", "feature")
    (top / "new.py").write_text(SIGMOIDS)
    (top / "clean.py").write_text(CLEAN)
    commit(top)
    git(top, "switch", "--quiet", "main")
    (top / "README.md").write_text("main went on\n")
    commit(top)
    git(top, "switch", "--quiet", "-c", "merge")
    git(top, "merge", "--quiet", "--no-edit", "feature")
    return top


def run_check(folder: Path, **environment: str) -> tuple[int, str, dict[str, str], str]:
    """Exit code, log, outputs and job summary of the action's check."""
    outputs, summary = folder.parent / "outputs", folder.parent / "summary"
    outputs.write_text("")
    summary.write_text("")
    given = {
        "INPUT_PATHS": ".", "INPUT_EXEC": "false", "INPUT_CHANGED_ONLY": "true", "INPUT_ARGS": "--select GL101",
        "INPUT_SARIF": "gradlint.sarif", "EVENT": "push", "REPOSITORY": "o/r", "HEAD_REPOSITORY": "", "BASE_SHA": "",
        **environment,
    }  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*BASH.split(), "-c", step("Check")["run"]],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **given, "PATH": path, "GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(summary)},
    )  # fmt: skip
    told = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
    return done.returncode, done.stdout + done.stderr, told, summary.read_text()


def test_every_input_of_the_check_reaches_it_as_environment_only() -> None:
    check = step("Check")
    assert "${{" not in check["run"]
    assert set(check["env"]) == {
        "INPUT_PATHS", "INPUT_EXEC", "INPUT_CHANGED_ONLY", "INPUT_ARGS", "INPUT_SARIF", "EVENT", "REPOSITORY",
        "HEAD_REPOSITORY", "BASE_SHA",
    }  # fmt: skip


def test_a_push_checks_everything_and_leaves_annotations_summary_and_sarif(repository: Path) -> None:
    code, log, outputs, summary = run_check(repository)
    assert code == 1
    assert outputs == {"sarif": "gradlint.sarif", "exit-code": "1"}
    assert "file=new.py,line=5" in log and "file=old.py,line=5" in log
    assert summary.startswith("## gradlint\n")
    assert len(json.loads((repository / "gradlint.sarif").read_text())["runs"][0]["results"]) == 2


def test_a_pull_request_shows_what_it_changes(repository: Path) -> None:
    base = git(repository, "rev-parse", "main").strip()
    code, log, _, _ = run_check(repository, EVENT="pull_request", HEAD_REPOSITORY="o/r", BASE_SHA=base)
    assert code == 1
    assert "file=new.py" in log and "file=old.py" not in log
    _, log, _, _ = run_check(repository, EVENT="pull_request", BASE_SHA=base, INPUT_CHANGED_ONLY="false")
    assert "file=old.py" in log


@pytest.mark.parametrize("branch", ["merge", "feature"])
def test_a_shallow_checkout_gets_the_history_it_needs(repository: Path, branch: str) -> None:
    base = git(repository, "rev-parse", "main").strip()
    git(repository.parent, "clone", "--quiet", "--depth", "1", "--branch", branch, f"file://{repository}", "shallow")
    code, log, _, _ = run_check(repository.parent / "shallow", EVENT="pull_request", BASE_SHA=base)
    assert code == 1, log
    assert "file=new.py" in log and "file=old.py" not in log


@pytest.mark.parametrize(
    ("event", "head", "runs"),
    [
        ("pull_request", "o/r", True),
        ("pull_request", "fork/r", False),
        ("pull_request", "", False),
        ("pull_request_target", "o/r", False),
        ("workflow_run", "", False),
        ("push", "", True),
    ],
)
def test_code_of_strangers_is_not_run(repository: Path, event: str, head: str, runs: bool) -> None:
    (repository / "bin").mkdir()
    spy = repository / "bin" / "gradlint"
    spy.write_text('#!/bin/sh\necho "$@"\n')
    spy.chmod(0o755)
    script = f"PATH={spy.parent}:$PATH\n" + step("Check")["run"]
    done = subprocess.run(
        [*BASH.split(), "-c", script], cwd=repository, capture_output=True, text=True, check=True,
        env={**os.environ, "INPUT_EXEC": "auto", "INPUT_PATHS": "*.py", "INPUT_ARGS": "", "INPUT_SARIF": "s",
             "INPUT_CHANGED_ONLY": "false", "EVENT": event, "REPOSITORY": "o/r", "HEAD_REPOSITORY": head,
             "BASE_SHA": "", "GITHUB_OUTPUT": os.devnull},
    )  # fmt: skip
    assert ("--no-exec" not in done.stdout.split()) == runs
    assert done.stdout.split()[-2:] == ["--", "*.py"]


def test_a_wrong_input_is_said(repository: Path) -> None:
    code, log, _, _ = run_check(repository, INPUT_EXEC="maybe")
    assert code == 2 and 'exec is "maybe"' in log


def test_a_run_that_fails_says_so_and_offers_no_report(repository: Path) -> None:
    (repository / "gradlint.sarif").write_text("of an earlier run")
    code, log, outputs, _ = run_check(repository, INPUT_PATHS="nowhere")
    assert (code, outputs) == (2, {"exit-code": "2"})
    assert "error: nowhere: no such file or folder\n" in log and "::error title=gradlint::" in log


@pytest.mark.torch
def test_a_pull_request_from_here_is_measured_and_one_from_a_fork_only_read(repository: Path) -> None:
    base = git(repository, "rev-parse", "main").strip()
    pull = {"EVENT": "pull_request", "BASE_SHA": base, "INPUT_EXEC": "auto", "INPUT_ARGS": "--select GL101 --seeds 1"}
    code, log, _, summary = run_check(repository, HEAD_REPOSITORY="o/r", **pull)
    assert code == 1 and "file=new.py" in log and "%0Aconfirmed: " in log and "| confirmed |" in summary
    code, log, _, _ = run_check(repository, HEAD_REPOSITORY="fork/r", **pull)
    assert code == 1 and "%0Aunverified: not measured: --no-exec" in log


def test_the_hooks_are_complete_and_the_light_one_runs_no_code() -> None:
    light, heavy = yaml.safe_load((TOP / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert (light["id"], light["language"]) == ("gradlint", "python") and "--no-exec" in light["entry"]
    assert (heavy["id"], heavy["language"]) == ("gradlint-model", "system")
    for hook in (light, heavy):
        options = hook["entry"].split()[2:]
        assert CliRunner().invoke(cli, ["check", *options, "--show-settings"]).exit_code == 0


def init(folder: Path) -> dict[str, str]:
    return {s.path: s.action for s in initialise(folder)}


def test_init_writes_what_the_tools_can_read(tmp_path: Path) -> None:
    assert set(init(tmp_path).values()) == {"wrote"}
    assert load(tmp_path / "pyproject.toml").fail_on.value == "warning"
    (repo,) = yaml.safe_load((tmp_path / ".pre-commit-config.yaml").read_text())["repos"]
    assert [h["id"] for h in repo["hooks"]] == ["gradlint"]
    workflow = yaml.safe_load((tmp_path / ".github/workflows/gradlint.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["gradlint"]["steps"][-1]["uses"].startswith("gradlint/gradlint@v")


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    init(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert set(init(tmp_path).values()) == {"kept"}
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "text", ["[project]\nname = 'x'\n", "[project]\r\nname = 'x'\r\n", "[project]\nname = 'x'", ""]
)
def test_init_adds_its_table_to_the_end_of_a_pyproject(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_bytes(text.encode())
    assert init(tmp_path)["pyproject.toml"] == "extended"
    assert path.read_bytes().startswith(text.encode())
    assert (b"\r\n" in path.read_bytes()) == ("\r\n" in text)
    assert load(path).select == ("GL",)


def test_init_says_what_it_leaves_to_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".pre-commit-config.yaml").write_text("repos: []\n")
    done = CliRunner().invoke(cli, ["init"])
    assert done.exit_code == 0
    assert "kept .pre-commit-config.yaml: add under `repos:`\n  - repo: " in done.stdout
    assert (tmp_path / ".pre-commit-config.yaml").read_text() == "repos: []\n"


@pytest.mark.parametrize("content", [b"[project", b"\xff\xfe"])
def test_init_leaves_a_broken_pyproject_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_bytes(content)
    done = CliRunner().invoke(cli, ["init"])
    assert done.exit_code == 2 and "failed pyproject.toml: " in done.output
    assert (tmp_path / "pyproject.toml").read_bytes() == content


def test_further_reports_are_written_in_one_run_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("deep.py").write_text(SIGMOIDS)
    arguments = ["check", "--no-exec", "--report", "sarif=a.sarif", "--report", "html=a.html", "deep.py"]
    for _ in range(2):
        assert CliRunner().invoke(cli, arguments).exit_code == 1
        assert json.loads(Path("a.sarif").read_text())["version"] == "2.1.0"
        assert Path("a.html").read_text().startswith("<!doctype html>")
        Path("a.sarif").unlink()
        Path("a.html").unlink()
    assert CliRunner().invoke(cli, ["check", "--report", "pdf=x", "deep.py"]).exit_code == 2
    assert CliRunner().invoke(cli, ["check", "--no-exec", "--report", "html=no/x", "deep.py"]).exit_code == 2
