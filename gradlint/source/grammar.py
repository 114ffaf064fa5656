"""Tells a file that is no Python from one whose Python is newer than the interpreter's own."""

from __future__ import annotations


def is_newer_python(text: str) -> bool:
    """Whether a text that this interpreter's `ast` refuses is a program to libcst, whose grammar is its own.

    libcst is imported here only: it costs more than reading a whole project, and such files are rare.
    """
    import libcst

    try:
        libcst.parse_module(text)
    except (libcst.ParserSyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
