"""Expressions that `eval` is handed as text."""

from __future__ import annotations

import ast

from gradlint.source.walking import walk

MAX_TEXT = 500
"""Characters of the longest expression that `eval` is followed into."""


def parsed(text: str, node: ast.AST) -> ast.expr | None:
    """The expression that a text holds, placed where `node` stands; None where it does not parse."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for inner in walk(tree):
        ast.copy_location(inner, node)
    return tree
