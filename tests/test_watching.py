"""`--watch`: checks again after a change, and runs no code of the project unless asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradlint.cli import cli
from gradlint.watching import is_of_interest, watched
from tests.test_cli import CLEAN, SIGMOIDS

pytest.importorskip("watchfiles")

SECONDS = 60.0
BOMB = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').write_text('')\n"


def lines_until(log: Path, wanted: str, process: subprocess.Popen[bytes], since: int = 0) -> str:
    """The log behind `since` once it holds what is wanted."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        text = log.read_text()[since:]
        if wanted in text:
            return text
        time.sleep(0.05)
    raise AssertionError(f"no {wanted!r} in {log.read_text()!r}")


@pytest.mark.skipif(os.name == "nt", reason="interrupts another process")
def test_a_change_is_checked_again_and_nothing_is_run(tmp_path: Path) -> None:
    script, log = tmp_path / "deep.py", tmp_path / "log.txt"
    script.write_text(BOMB + CLEAN)
    command = [sys.executable, "-m", "gradlint", "check", "--watch", "--output-format", "concise", "."]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT)
        try:
            lines_until(log, "watching for changes", process)
            (tmp_path / "notes.txt").write_text("none of ours")
            before = len(log.read_text())
            script.write_text(BOMB + SIGMOIDS)
            shown = lines_until(log, "GL101", process, before)
            assert "deep.py changed" in shown and "notes.txt" not in shown
            before = len(log.read_text())
            (tmp_path / "pyproject.toml").write_text("[tool.gradlint]\nselec = 1\n")
            assert "unknown key" in lines_until(log, "error: ", process, before)
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()
    assert not script.with_suffix(".ran").exists()


def test_code_is_built_only_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import watchfiles

    asked: list[bool] = []
    monkeypatch.setattr(watchfiles, "watch", lambda *roots, **options: iter([set()]))
    for given in (None, False, True):
        assert watched({"paths": (tmp_path,), "execute": given}, lambda **o: asked.append(o["execute"]) or 0) == 0
    assert asked == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fix"], "--watch only reports: leave --fix out"),
        (["-"], "--watch only reports: leave standard input out"),
        (["nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], said: str) -> None:
    shown = CliRunner().invoke(cli, ["check", "--watch", *arguments])
    assert (shown.exit_code, shown.stderr) == (2, f"error: {said}\n")


def test_what_a_report_depends_on_is_of_interest() -> None:
    assert all(map(is_of_interest, ("/a/train.py", "/a/nb.ipynb", "/a/conf.yaml", "/a/.gitignore")))
    assert not any(map(is_of_interest, ("/a/log.txt", "/a/.git/config.py", "/a/.gradlint_cache/x.json")))
