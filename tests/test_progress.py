"""What a terminal shows while the work goes on, and what a pipe does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradlint.progress import Silent, counted, progress
from tests.test_cli import SIGMOIDS

pty = pytest.importorskip("pty")


def on_terminal(folder: Path, *arguments: str, **environment: str) -> tuple[str, str]:
    """Standard output through a pipe, and what a terminal on standard error got."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "gradlint", "check", *arguments]
    surroundings = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment}
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=follower, env=surroundings)
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(leader)
    stdout, _ = process.communicate(timeout=60)
    return stdout.decode(), seen.decode()


@pytest.mark.torch
def test_a_terminal_shows_stage_model_and_time_and_is_left_clean(tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text(SIGMOIDS)
    stdout, seen = on_terminal(tmp_path, "--seeds", "1", "deep.py")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert "build net" in plain and re.search(r"probe net .*\d+/\d+ \d:\d\d:\d\d left", plain)
    assert seen.endswith("\x1b[2K")  # the last line is wiped
    assert "GL101" in stdout and "probe net" not in stdout


def test_short_work_shows_nothing(tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text(SIGMOIDS)
    assert on_terminal(tmp_path, "--no-exec", "deep.py")[1] == ""


def test_a_dumb_terminal_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    with progress() as shown:
        assert isinstance(shown, Silent)


def test_a_pipe_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as shown:
        assert isinstance(shown, Silent)
        shown("probe", "net")
    assert capsys.readouterr() == ("", "")


def test_what_is_counted_is_told_once_it_is_done() -> None:
    told: list[object] = []

    class Listening(Silent):
        def expect(self, units: int) -> None:
            told.append(units)

        def done(self, units: int = 1) -> None:
            told.append("done")

    for item in counted(["a", "b"], Listening()):
        told.append(item)
    assert told == [2, "a", "done", "b", "done"]
