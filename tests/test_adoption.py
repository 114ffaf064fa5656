"""The options that a team adopts gradlint with, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gradlint.adoption import standing
from gradlint.cli import cli
from gradlint.finding import Finding, Related, Severity
from gradlint.location import Location
from tests.test_changes import commit, git
from tests.test_cli import SIGMOIDS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep.py").write_text(SIGMOIDS)
    return tmp_path


def check(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", "--no-exec", "--select", "GL101", *arguments])


def codes(*arguments: str) -> list[str]:
    found = json.loads(check("--output-format", "json", *arguments).stdout)["findings"]
    return [f["code"] for f in found]


def test_a_baseline_accepts_what_is_there_and_fails_on_what_is_new(here: Path) -> None:
    written = check("--baseline", "accepted.json", "--update-baseline")
    assert (written.exit_code, written.stderr) == (0, "accepted.json: 1 accepted\n")
    known = check("--baseline", "accepted.json")
    assert known.exit_code == 0
    assert "note: 1 finding accepted by accepted.json" in known.stdout
    (here / "other.py").write_text(SIGMOIDS)
    assert check("--baseline", "accepted.json").exit_code == 1
    assert codes("--baseline", "accepted.json") == ["GL101"]


def test_a_stale_entry_is_reported_until_the_update(here: Path) -> None:
    check("--baseline", "accepted.json", "--update-baseline")
    (here / "deep.py").write_text("import torch\n")
    stale = check("--baseline", "accepted.json")
    assert stale.exit_code == 0
    assert "note: stale in accepted.json: deep.py:5 GL101 (--update-baseline drops it)" in stale.stdout
    assert (
        check("--baseline", "accepted.json", "--update-baseline").stderr
        == "accepted.json: 0 accepted, 1 stale dropped\n"
    )
    assert "stale" not in check("--baseline", "accepted.json").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--baseline", "missing.json"], "missing.json: No such file or directory (--update-baseline writes it)"),
        (["--update-baseline"], "--update-baseline: say which file with --baseline FILE"),
        (["--baseline", "b.json", "--update-baseline", "--changed-since", "HEAD"], "leave --changed-since"),
        (["--baseline", "no/b.json", "--update-baseline"], "no/b.json: No such file or directory"),
        (["--changed-since", "main"], "--changed-since: not a git repository"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(here: Path, arguments: list[str], said: str) -> None:
    result = check(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and said in result.stderr and result.stderr.count("\n") == 1


def test_changed_since_shows_findings_on_changed_lines_only(here: Path) -> None:
    git(here, "init", "--quiet", "--initial-branch", "main")
    (here / "other.py").write_text(SIGMOIDS)
    commit(here)
    assert check("--changed-since", "main").exit_code == 0
    assert "2 findings on lines that did not change since main" in check("--changed-since", "main").stdout
    (here / "deep.py").write_text(SIGMOIDS.replace("lr=0.1", "lr=0.2"))
    assert check("--changed-since", "main").exit_code == 0
    text = SIGMOIDS.splitlines(keepends=True)
    text[8] = text[8].replace("Sigmoid()", "Sigmoid( )")  # one layer of the chain, not the decisive line
    (here / "deep.py").write_text("".join(text))
    assert codes("--changed-since", "main") == ["GL101"]
    (here / "sub").mkdir()
    assert codes("--changed-since", "main", str(here / "deep.py")) == ["GL101"]


def test_add_ignore_silences_what_is_found_and_nothing_is_unused(here: Path) -> None:
    done = check("--extend-select", "GL002", "--add-ignore", "--reason", "old net")
    assert (done.exit_code, done.stderr) == (0, "deep.py: 1 suppressed\n")
    assert "  # gradlint: ignore[GL101] -- old net\n" in (here / "deep.py").read_text()
    assert check("--extend-select", "GL002").exit_code == 0


def test_show_files_lists_and_respects_exclusions(here: Path) -> None:
    (here / "old").mkdir()
    (here / "old" / "a.py").write_text("")
    assert check("--show-files").stdout == "deep.py\nold/a.py\n"
    assert check("--show-files", "--extend-exclude", "old").stdout == "deep.py\n"


def test_show_settings_is_toml_that_can_be_read_back(here: Path) -> None:
    (here / "pyproject.toml").write_text(
        '[tool.gradlint]\nseeds = 5\n[tool.gradlint.per-file-ignores]\n"old/*" = ["GL1"]\n'
        "[tool.gradlint.rules.saturating-stack]\nminimum = 4\n"
    )
    shown = CliRunner().invoke(cli, ["check", "--show-settings", "--timeout", "7"]).stdout
    assert shown.startswith(f"# {here / 'pyproject.toml'}\n")
    assert "seeds = 5\n" in shown and "timeout = 7.0\n" in shown and "minimum = 4\n" in shown
    (here / "pyproject.toml").write_text(shown)
    again = CliRunner().invoke(cli, ["check", "--show-settings"])
    assert (again.exit_code, again.stdout) == (0, shown)


def test_a_finding_that_repeated_another_stands_for_itself_without_it() -> None:
    place = Location("/a.py", 3)
    second = Finding("GL102", "deep-without-norm", Severity.WARNING, "m", place, primary=False)
    first = Finding(
        "GL101", "saturating-stack", Severity.WARNING, "m", Location("/a.py", 1), related=(Related(place, "GL102"),)
    )
    assert [f.primary for f in standing([first, second])] == [True, False]
    assert [f.primary for f in standing([second])] == [True]
