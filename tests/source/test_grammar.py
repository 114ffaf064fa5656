"""Newer Python is told from no Python."""

import pytest

from gradlint.source.grammar import is_newer_python


@pytest.mark.parametrize("text", ["type X = int\n", "def f[T](x: T): pass\n", 'x = f"{f"{y}"}"\n'])
def test_newer_syntax_is_a_program(text: str) -> None:
    assert is_newer_python(text)


@pytest.mark.parametrize("text", ["print 'python 2'\n", "def f(:\n", "x = (\n"])
def test_a_syntax_error_is_none(text: str) -> None:
    assert not is_newer_python(text)
