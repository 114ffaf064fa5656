"""`--add-ignore` writes comments that suppress, and change nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

from gradlint.finding import Finding, Outcome, Severity, Verdict
from gradlint.fixing import FixedFile
from gradlint.ignoring import with_ignores
from gradlint.location import Location


def ignored(tmp_path: Path, text: str, *places: tuple[int, str]) -> FixedFile:
    path = tmp_path / "train.py"
    path.write_text(text)
    found = [Finding(code, "x", Severity.WARNING, "m", Location(str(path), line)) for line, code in places]
    (file,) = with_ignores(found, "old\n net")
    assert ast.dump(ast.parse(file.changes[0].after)) == ast.dump(ast.parse(text))
    return file


def test_the_comment_stands_at_the_line_with_its_reason(tmp_path: Path) -> None:
    file = ignored(tmp_path, "a = 1  \nb = 2\n", (1, "GL101"))
    assert file.changes[0].after == "a = 1  # gradlint: ignore[GL101] -- old net\nb = 2\n"


def test_codes_share_a_comment(tmp_path: Path) -> None:
    file = ignored(tmp_path, "a = 1  # gradlint: ignore[GL201] -- why\n", (1, "GL101"), (1, "GL501"))
    assert file.changes[0].after == "a = 1  # gradlint: ignore[GL201, GL101, GL501] -- why\n"


def test_what_is_suppressed_already_is_not_written_again(tmp_path: Path) -> None:
    file = ignored(tmp_path, "a = 1\n", (1, "GL101"), (1, "GL101"))
    assert file.changes[0].after.count("GL101") == 1 and len(file.applied) == 2


def test_other_comments_stay(tmp_path: Path) -> None:
    file = ignored(tmp_path, "a = 1  # noqa: E501\n", (1, "GL101"))
    assert file.changes[0].after == "a = 1  # noqa: E501  # gradlint: ignore[GL101] -- old net\n"


def test_within_a_string_the_comment_goes_to_an_end_of_the_statement(tmp_path: Path) -> None:
    file = ignored(tmp_path, 'a = f(1, """\nx\n""")\n', (2, "GL101"))
    assert file.changes[0].after == 'a = f(1, """\nx\n""")  # gradlint: ignore[GL101] -- old net\n'


def test_before_a_continuation_the_comment_goes_to_the_end_of_the_statement(tmp_path: Path) -> None:
    file = ignored(tmp_path, "a = 1 + \\\n    2\n", (1, "GL101"))
    assert file.changes[0].after == "a = 1 + \\\n    2  # gradlint: ignore[GL101] -- old net\n"


def test_no_place_is_counted_not_forced(tmp_path: Path) -> None:
    text = 'def f(): """\n x\n """; """\n y\n """\n'
    file = ignored(tmp_path, text, (2, "GL101"))
    assert file.dropped == 1 and file.changes[0].after == text


def test_refuted_findings_and_parse_errors_are_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "train.py")
    Path(path).write_text("a = 1\n")
    refuted = Finding("GL101", "x", Severity.INFO, "m", Location(path, 1), verdict=Verdict(Outcome.REFUTED, "measured"))
    unused = Finding("GL002", "x", Severity.INFO, "m", Location(path, 1))
    assert list(with_ignores([refuted, unused], "")) == []
