"""Fixes are applied whole or not at all, and never break a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.finding import Edit, Finding, Fix, Outcome, Severity, Verdict
from gradlint.fixing import fixed, write
from gradlint.location import Location


def found(path: Path, line: int, replacement: str, *, safe: bool = True, column: int = 1, end: int = 1) -> Finding:
    edit = Edit(Location(str(path), line, column, line, end), replacement)
    return Finding(
        "GL401", "n", Severity.WARNING, "m", Location(str(path), line), fix=Fix("clip", (edit,), safe)
    )  # fmt: skip


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text("loss.backward()\noptimizer.step()\n")
    return path


def test_an_insertion_keeps_everything_else(script: Path) -> None:
    (file,) = fixed([found(script, 2, "clip()\n")])
    assert file.changes[0].after == "loss.backward()\nclip()\noptimizer.step()\n"
    assert file.diff("train.py").count("\n+") == 2
    write(file)
    assert script.read_text() == file.changes[0].after


def test_unsafe_fixes_are_asked_for(script: Path) -> None:
    finding = found(script, 2, "clip()\n", safe=False)
    assert list(fixed([finding])) == []
    assert len(list(fixed([finding], unsafe=True))) == 1


def test_a_fix_that_breaks_the_file_is_thrown_away(script: Path) -> None:
    (file,) = fixed([found(script, 2, "    clip()\n"), found(script, 1, "first()\n")])
    assert (len(file.applied), file.dropped) == (1, 1)
    assert file.changes[0].after == "first()\nloss.backward()\noptimizer.step()\n"


def test_overlapping_fixes_are_not_both_taken(script: Path) -> None:
    (file,) = fixed([found(script, 2, "a()", end=17), found(script, 2, "b()", end=17)])
    assert (len(file.applied), file.dropped) == (1, 1)
    assert file.changes[0].after.endswith("\na()\n")


def test_refuted_findings_are_left_alone(script: Path) -> None:
    from dataclasses import replace

    finding = replace(found(script, 2, "clip()\n"), verdict=Verdict(Outcome.REFUTED, "healthy"))
    assert list(fixed([finding])) == []


def test_line_ends_byte_order_mark_and_mode_survive(script: Path) -> None:
    script.write_bytes("\ufeffx = 'ä'\r\ny = 1\r\n".encode())
    script.chmod(0o755)
    (file,) = fixed([found(script, 2, "z = 2\n")])
    write(file)
    assert script.read_bytes() == "\ufeffx = 'ä'\r\nz = 2\r\ny = 1\r\n".encode()
    assert script.stat().st_mode & 0o777 == 0o755
