"""The names of a function's parameters."""

import ast

from gradlint.source.reader.signatures import Signature, signature_of


def function(text: str) -> ast.FunctionDef:
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def test_parameters_are_told_apart_by_how_calls_bind_them() -> None:
    node = function("def f(a, /, b, c=1, *rest, d, e=2, **more): ...")
    assert signature_of(node) == Signature(("a", "b", "c"), ("d", "e"), "rest", "more")


def test_what_a_function_does_not_take_is_none() -> None:
    assert signature_of(function("def f(): ...")) == Signature((), (), None, None)


def test_a_definition_keeps_its_signature() -> None:
    node = function("def f(a): ...")
    assert signature_of(node) is signature_of(node)
