"""Newer Python is told from no Python."""

import ast

import pytest

from gradlint.source.grammar import is_newer_python


def refusal(text: str) -> BaseException:
    """What the interpreter says of the text; one that it reads stands for any that it would refuse."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error
    return SyntaxError("invalid syntax")


@pytest.mark.parametrize("text", ["type X = int\n", "def f[T](x: T): pass\n", 'x = f"{f"{y}"}"\n'])
def test_newer_syntax_is_a_program(text: str) -> None:
    assert is_newer_python(text, refusal(text))


@pytest.mark.parametrize("text", ["print 'python 2'\n", "def f(:\n", "x = (\n"])
def test_a_syntax_error_is_none(text: str) -> None:
    assert not is_newer_python(text, refusal(text))


def test_brackets_beyond_the_parsers_stack_are_none_and_end_nothing() -> None:
    text = f"x = {'[' * 3000}{']' * 3000}\n"
    assert not is_newer_python(text, refusal(text))


def test_a_sum_beyond_the_parsers_stack_is_none_at_once() -> None:
    assert not is_newer_python(f"x = {'+'.join(['1'] * 20000)}\n", RecursionError("too deep"))
