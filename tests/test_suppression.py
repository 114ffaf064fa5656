"""Comments that switch findings off."""

from __future__ import annotations

import ast

import pytest

from gradlint.finding import Finding, Severity
from gradlint.location import Location
from gradlint.suppression import apply, suppressions, unused

ACTIVE = ["GL002", "GL101", "GL201"]


def found(line: int, code: str = "GL201", name: str = "rectifier-init") -> Finding:
    return Finding(code, name, Severity.WARNING, "message", Location("t.py", line))


def left(text: str, *findings: Finding) -> tuple[list[int], list[str]]:
    comments = suppressions("t.py", text, ast.parse(text))
    kept, idle = apply(findings, comments)
    return [f.location.line for f in kept], [f.message for f in unused(idle, ACTIVE)]


@pytest.mark.parametrize(
    "comment",
    [
        "# gradlint: ignore[GL201]",
        "# gradlint: ignore[GL101, GL201] -- the scale is set elsewhere",
        "# gradlint: ignore[rectifier-init]",
        "# gradlint:ignore[GL2]",
        "# gradlint: ignore",
        "# noqa: GL201",
        "# noqa:E501,GL201",
        "# type: ignore  # noqa: GL201",
    ],
)
def test_a_comment_on_the_line_suppresses(comment: str) -> None:
    assert left(f"x = 1  {comment}\ny = 2\n", found(1), found(2)) == ([2], [])


def test_either_end_of_a_statement_serves() -> None:
    text = "x = f(\n    1,\n)  # gradlint: ignore[GL201]\n"
    assert left(text, found(1)) == ([], [])
    assert left("x = f(  # gradlint: ignore[GL201]\n    1,\n)\n", found(3)) == ([], [])


def test_a_comment_on_a_header_does_not_reach_into_the_body() -> None:
    text = "class Net:  # gradlint: ignore[GL201]\n    x = 1\n"
    assert left(text, found(2))[0] == [2]


def test_a_whole_file() -> None:
    assert left("# gradlint: ignore-file[GL201]\nx = 1\ny = 2\n", found(2), found(3)) == ([], [])


def test_in_a_string_it_is_no_comment() -> None:
    assert left('x = "# gradlint: ignore[GL201]"\n', found(1)) == ([1], [])


def test_an_unused_one_is_reported() -> None:
    assert left("x = 1  # gradlint: ignore[GL201]\n") == ([], ["the suppression of `GL201` suppresses nothing"])


def test_one_for_a_rule_that_did_not_run_is_not() -> None:
    assert left("x = 1  # gradlint: ignore[GL401]\n") == ([], [])


def test_a_code_that_is_no_rule_is_reported() -> None:
    assert left("x = 1  # gradlint: ignore[GL999]\n") == ([], ["`GL999` in a suppression is no rule"])


def test_other_tools_codes_are_none_of_ours() -> None:
    assert left("x = 1  # noqa: E501\ny = 1  # noqa\n", found(2)) == ([2], [])
