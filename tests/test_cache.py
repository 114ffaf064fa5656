"""Reports that are repeated, and files that are read by several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradlint.cache import FOLDER
from gradlint.rule import registry


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gradlint", "check", "--no-exec", "--output-format", "json", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "train.py").write_text(registry()["GL401"].BAD, encoding="utf-8")
    return tmp_path


def test_the_same_run_prints_the_same_bytes_without_checking_again(project):
    first, second = run(project), run(project)
    assert first.returncode == second.returncode == 1
    assert first.stdout == second.stdout  # The seconds in it too: it is the first run's report.
    assert list((project / FOLDER).glob("*.json"))


def test_a_changed_file_is_checked_again(project):
    before = json.loads(run(project).stdout)
    (project / "train.py").write_text("import torch\n", encoding="utf-8")
    after = json.loads(run(project).stdout)
    assert before["findings"]
    assert not after["findings"]


def test_a_new_file_of_the_project_makes_earlier_reports_void(project):
    assert json.loads(run(project).stdout)["summary"]["files"] == 1
    (project / "more.py").write_text("import torch\n", encoding="utf-8")
    assert json.loads(run(project).stdout)["summary"]["files"] == 2


def test_new_settings_make_earlier_reports_void(project):
    assert json.loads(run(project).stdout)["findings"]
    (project / "pyproject.toml").write_text('[tool.gradlint]\nignore = ["GL"]\n', encoding="utf-8")
    assert not json.loads(run(project).stdout)["findings"]


PACK = """
from gradlint.finding import Severity
from gradlint.rule import Rule
from pack.words import WORDS


class Told(Rule):
    code, name, since, severity = "XX001", "told", "1.0", Severity.WARNING

    def check_script(self, script):
        for step in script.steps:
            yield self.finding(step.optimizer_step, WORDS)


RULES = [Told]
"""


def test_an_edit_of_a_third_partys_rule_makes_earlier_reports_void(project, tmp_path_factory, monkeypatch):
    installed = tmp_path_factory.mktemp("installed")
    (installed / "pack").mkdir()
    (installed / "pack" / "__init__.py").write_text(PACK, encoding="utf-8")
    information = installed / "pack-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: pack\nVersion: 1.0\n", encoding="utf-8")
    (information / "entry_points.txt").write_text("[gradlint.rules]\npack = pack\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(installed))
    for words in ("once", "twice"):
        (installed / "pack" / "words.py").write_text(f"WORDS = {words!r}\n", encoding="utf-8")
        findings = json.loads(run(project, "--extend-select", "XX").stdout)["findings"]
        assert [f["message"] for f in findings if f["code"] == "XX001"] == [words]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"named": 3}', b"\xff\x00"])
def test_a_damaged_entry_counts_as_missing(project, damage):
    first = run(project)
    for entry in (project / FOLDER).glob("*.json"):
        entry.write_bytes(damage)
    assert json.loads(run(project).stdout)["findings"] == json.loads(first.stdout)["findings"]


def test_nothing_is_kept_with_no_cache(project):
    run(project, "--no-cache")
    assert not (project / FOLDER).exists()


def test_the_report_does_not_depend_on_the_number_of_processes(tmp_path):
    (tmp_path / "pyproject.toml").touch()
    for rule in registry().values():
        if rule.BAD:
            (tmp_path / f"{rule.code}.py").write_text(rule.BAD, encoding="utf-8")
    one, three = (json.loads(run(tmp_path, "--no-cache", "--jobs", n).stdout) for n in ("1", "3"))
    one["summary"].pop("seconds"), three["summary"].pop("seconds")
    assert one == three
    assert one["findings"]
