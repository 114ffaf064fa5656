"""Tells a file that is no Python from one whose Python is newer than the interpreter's own."""

from __future__ import annotations

import subprocess
import sys

SECONDS = 20.0
"""What is not read by then is no program that a person wrote."""

_PYTHON_2 = "Missing parentheses in call to"
"""What CPython says of Python 2, by far the most common text that it refuses."""

_READ = "import sys; sys.path[:] = sys.argv[1:]; import libcst; libcst.parse_module(sys.stdin.buffer.read().decode())"


def is_newer_python(text: str, refusal: BaseException) -> bool:
    """Whether a text that this interpreter's `ast` refuses is a program to libcst, whose grammar is its own.

    `refusal` is what `ast` raised. libcst reads in a process of its own: on deep nesting it overflows the stack, which
    no `except` catches, and long sums take it minutes.
    """
    if not isinstance(refusal, SyntaxError) or refusal.msg.startswith(_PYTHON_2):
        return False
    command = [sys.executable, "-I", "-c", _READ, *sys.path]
    try:
        return (
            subprocess.run(command, input=text.encode(), capture_output=True, timeout=SECONDS, check=False).returncode
            == 0
        )
    except (OSError, subprocess.SubprocessError, UnicodeEncodeError):
        return False
