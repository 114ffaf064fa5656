"""Reads programs for Python 3.6 and before, where `async` was a name: `x.cuda(async=True)`."""

from __future__ import annotations

import ast
import re

_NAME = re.compile(r"\basync\b(?!\s+(?:def|for|with)\b)")


def parse(text: str, path: str) -> ast.Module:
    """The syntax tree of a text; where `async` is used as a name, with `asyn_` for it, so that columns stay.

    Raises what `ast.parse` raises for the text as it stands.
    """
    try:
        return ast.parse(text, path)
    except SyntaxError as error:
        older = _NAME.sub("asyn_", text)
        if older == text:
            raise
        try:
            return ast.parse(older, path)
        except SyntaxError:
            raise error from None


def refusal(text: str, path: str) -> SyntaxError | None:
    """What the interpreter says of a program that `parse` reads as one of older Python, None if it is none."""
    if not _NAME.search(text):
        return None
    try:
        ast.parse(text, path)
    except SyntaxError as error:
        return error
    return None
