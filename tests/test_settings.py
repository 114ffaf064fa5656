"""What a run is set to, from the configuration and the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gradlint.cli import cli
from gradlint.config import ConfigError
from gradlint.settings import settings, told_from
from tests.test_cli import SIGMOIDS


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets" / "old").mkdir(parents=True)
    for name in ("nets/deep.py", "nets/old/deep.py"):
        (tmp_path / name).write_text(SIGMOIDS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configure(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(f"[tool.gradlint]\nselect = ['GL101']\n{text}\n")


def check(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", "--no-exec", "--output-format", "concise", *arguments])


def found(*arguments: str) -> list[str]:
    return [line.partition(":")[0] for line in check(*arguments).stdout.splitlines()]


def test_options_of_the_command_line_win(project: Path) -> None:
    configure(project, "seeds = 5\nfail-on = 'error'")
    config = settings(None, [], {"seeds": 2, "execute": False, "script_args": "--lr '1 2'"}).config
    assert (config.seeds, config.exec, config.script_args, config.fail_on.value) == (2, False, ("--lr", "1 2"), "error")
    with pytest.raises(ConfigError, match=r"--script-args: no closing quotation: 'x"):
        settings(None, [], {"script_args": "'x"})


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--device", "tpu", "expected auto, cpu, cuda, cuda:N or mps"),
        ("--timeout", "inf", "expected `float` <= 1000000.0"),
        ("--timeout", "nan", "expected `float` > 0.0"),
        ("--seed", "-1", "expected `int` >= 0"),
    ],
)
def test_a_value_that_no_setting_may_have_is_one_line(project: Path, option: str, value: str, reason: str) -> None:
    shown = check(option, value, "nets")
    assert (shown.exit_code, shown.stderr) == (2, f"error: {option}: {reason}\n")


@pytest.mark.parametrize("where", ["option", "configuration"])
def test_an_input_that_cannot_be_read_is_one_line_before_anything_is_built(project: Path, where: str) -> None:
    if where == "configuration":
        configure(project, "models = {net = {target = 'nets/deep.py:net', input = '1x'}}")
    shown = check(*(("--input", "1x", "nets") if where == "option" else ()))
    assert (shown.exit_code, shown.stderr.count("\n")) == (2, 1)
    assert "cannot read input `1x`" in shown.stderr


def test_an_interpreter_is_looked_for_beside_the_file_that_names_it(project: Path) -> None:
    (project / "env").mkdir()
    (project / "env" / "python").symlink_to(sys.executable)
    (project / "nets" / "gradlint.toml").write_text("python = '../env/python'\n")
    found = settings(project / "nets" / "gradlint.toml", [], {}).config.python
    assert found is not None and Path(found).samefile(sys.executable)
    (project / "env" / "python").unlink()
    with pytest.raises(ConfigError, match=r"^nets/gradlint\.toml: tool\.gradlint\.python: no interpreter at .*python$"):
        settings(project / "nets" / "gradlint.toml", [], {})
    with pytest.raises(ConfigError, match=r"^--python: no interpreter at nowhere$"):
        settings(None, [], {"python": "nowhere"})


@pytest.mark.parametrize("folder", [".", "nets", "nets/old"])
def test_patterns_mean_the_same_from_every_folder(project: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(project / folder)
    files = [str(project / "nets/deep.py"), str(project / "nets/old/deep.py")]
    configure(project, "exclude = ['nets/old']")
    assert len(found(str(project))) == 1
    assert len(found(*files)) == 2 and len(found("--force-exclude", *files)) == 1
    configure(project, "per-file-ignores = {'nets/old/*.py' = ['GL1']}")
    assert len(found(*files)) == 1


def test_patterns_of_the_command_line_are_told_from_the_working_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(project, "")
    monkeypatch.chdir(project / "nets")
    assert found("--extend-exclude", "old/*.py") == found("--extend-exclude", "./old") == ["deep.py"]
    assert told_from(project, "!old/a.py") == "!/nets/old/a.py"
    assert told_from(project, "*.py") == "*.py"


def test_the_baseline_can_be_configured(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(project, "baseline = 'accepted.json'")
    assert check().exit_code == 2 and "accepted.json: No such file" in check().stderr
    written = check("--update-baseline")
    assert (written.exit_code, written.stderr) == (0, "accepted.json: 2 accepted\n")
    assert check().exit_code == 0 and check("--no-baseline").exit_code == 1
    monkeypatch.chdir(project / "nets")
    assert check().exit_code == 0
    (project / "accepted.json").write_text('{"version": 1, "findings": []}')
    assert check().exit_code == 1  # the cache saw that the baseline is another
    assert check("--no-baseline", "--update-baseline").exit_code == 2


def test_the_baseline_of_an_extended_configuration_lies_beside_it(project: Path) -> None:
    shared = project / "shared"
    shared.mkdir()
    (shared / "gradlint.toml").write_text("baseline = 'accepted.json'\nfail-on = 'info'\n")
    configure(project, "extend = 'shared/gradlint.toml'")
    assert settings(None, [], {}).baseline == shared / "accepted.json"
