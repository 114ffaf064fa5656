"""Accepted findings stay accepted when their lines move, and are dropped when they are gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gradlint.baseline import BaselineError, compare, load, update
from gradlint.finding import Finding, Outcome, Severity, Verdict
from gradlint.location import Location
from gradlint.result import Result

TEXT = "import torch\n\na = net(1)\nb = net(2)\nc = net(3)\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TEXT)
    return path


def at(file: Path, *lines: int, model: str = "net") -> Result:
    """A result with one finding at each line."""
    found = tuple(
        Finding("GL101", "saturating-stack", Severity.WARNING, "m", Location(str(file), n), model=f"{file}:{model}")
        for n in lines
    )
    return Result(root=file.parent, findings=found)


def written(file: Path, result: Result) -> Path:
    path = file.parent / "baseline.json"
    assert update(result, (), path, [file]) == 0
    return path


def test_what_is_accepted_is_left_out_and_what_is_new_stays(file: Path) -> None:
    path = written(file, at(file, 3, 4))
    compared = compare(at(file, 3, 4, 5), load(path), path, [file])
    assert [f.location.line for f in compared.result.findings] == [5]
    assert (compared.accepted, compared.stale) == (2, ())


def test_lines_may_move(file: Path) -> None:
    path = written(file, at(file, 4))
    file.write_text("# a comment\n" * 3 + TEXT.replace("b = ", "b  =  "))
    assert compare(at(file, 7), load(path), path, [file]).accepted == 1


def test_neighbouring_lines_may_change(file: Path) -> None:
    path = written(file, at(file, 4))
    file.write_text(TEXT.replace("a = net(1)", "a = other()").replace("c = net(3)", "pass"))
    assert compare(at(file, 4), load(path), path, [file]).accepted == 1


def test_a_changed_line_is_a_new_finding(file: Path) -> None:
    path = written(file, at(file, 4))
    file.write_text(TEXT.replace("net(2)", "net(20)"))
    compared = compare(at(file, 4), load(path), path, [file])
    assert (compared.accepted, len(compared.stale)) == (0, 1)


def test_another_model_is_a_new_finding(file: Path) -> None:
    path = written(file, at(file, 4))
    assert compare(at(file, 4, model="other"), load(path), path, [file]).accepted == 0


def test_one_entry_accepts_one_finding(file: Path) -> None:
    file.write_text("x = net()\n" * 2)
    path = written(file, at(file, 1))
    file.write_text("x = net()\n" * 3)
    compared = compare(at(file, 1, 2, 3), load(path), path, [file])
    assert (compared.accepted, len(compared.result.findings)) == (1, 2)


def test_stale_entries_are_told_and_dropped_on_update(file: Path) -> None:
    path = written(file, at(file, 3, 4))
    entries = load(path)
    assert [e.text for e in compare(at(file, 3), entries, path, [file]).stale] == ["b = net(2)"]
    assert update(at(file, 3), entries, path, [file]) == 1
    assert [e.line for e in load(path)] == [3]


def test_entries_of_files_that_were_not_checked_are_kept(file: Path) -> None:
    path = written(file, at(file, 3))
    other = file.with_name("other.py")
    other.write_text(TEXT)
    assert compare(at(other), load(path), path, [other]).stale == ()
    assert update(at(other, 5), load(path), path, [other]) == 0
    assert [(e.path, e.line) for e in load(path)] == [("other.py", 5), ("train.py", 3)]
    other.unlink()
    assert [e.path for e in compare(at(file, 3), load(path), path, [file]).stale] == ["other.py"]


def test_the_folder_that_gradlint_runs_in_does_not_matter(file: Path) -> None:
    path = written(file, at(file, 3))
    assert compare(replace(at(file, 3), root=Path("/")), load(path), path, [file]).accepted == 1


def test_refuted_findings_are_not_accepted(file: Path) -> None:
    result = at(file, 3)
    refuted = replace(result.findings[0], verdict=Verdict(Outcome.REFUTED, "measured"))
    assert load(written(file, replace(result, findings=(refuted,)))) == ()


def test_the_same_findings_give_the_same_bytes(file: Path) -> None:
    path = written(file, at(file, 3, 4))
    before = path.read_bytes()
    update(at(file, 3, 4), load(path), path, [file])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory .--update-baseline writes it"),
        (b"{", "not a baseline"),
        (b"[]", "not a baseline"),
        (b"\xff\xfe", "not a baseline"),
        (b'{"version": 2, "findings": []}', "version 2; this gradlint reads version 1"),
    ],
)
def test_what_is_no_baseline_is_said(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "baseline.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BaselineError, match=said) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_said(file: Path) -> None:
    with pytest.raises(BaselineError, match="No such file"):
        update(at(file, 3), (), file.parent / "missing" / "baseline.json", [file])
