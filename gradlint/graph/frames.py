"""Which line of the user's own source is running: a walk up the call stack."""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from pathlib import Path
from types import FrameType

from gradlint.location import Location


def _library_folders() -> tuple[str, ...]:
    """Folders of installed code, each ended by a separator so that `…/torch` is not `…/torchvision`."""
    names = {sysconfig.get_paths().get(key, "") for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    names.update(getattr(site, "getsitepackages", list)())
    names.add(site.getusersitepackages() if hasattr(site, "getusersitepackages") else "")
    return tuple(sorted({os.path.join(os.path.realpath(n), "") for n in names if n}))  # noqa: PTH118


_LIBRARIES = _library_folders()
_GRADLINT = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "")  # noqa: PTH118, PTH120
_EXECUTE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "execute.py")  # noqa: PTH100, PTH118, PTH120
_known: dict[tuple[str, str], bool] = {}


def is_user_file(filename: str, root: str = "") -> bool:
    """Whether code of that file belongs to the user.

    That is everything under the project root that is not an installed package, and everything outside the
    interpreter's libraries and gradlint itself.
    """
    key = (filename, root)
    if key not in _known:
        _known[key] = _decide(filename, root)
    return _known[key]


def _decide(filename: str, root: str) -> bool:
    if filename.startswith("<"):
        return False
    real = _real(filename)
    if real.startswith(_GRADLINT):
        return False
    below = os.path.join(_real(root), "") if root else ""  # noqa: PTH118
    installed = not {"site-packages", "dist-packages"}.isdisjoint(Path(real.removeprefix(below)).parts)
    if below and real.startswith(below):
        return not installed
    return not installed and not real.startswith(_LIBRARIES)


_real = functools.cache(os.path.realpath)


def user_frame(frame: FrameType | None, root: str = "") -> FrameType | None:
    """The innermost frame, from `frame` outwards, that runs the user's own code."""
    while frame is not None and not is_user_file(frame.f_code.co_filename, root):
        if frame.f_code.co_filename == _EXECUTE:  # what called gradlint is not the user's code under check
            return None
        frame = frame.f_back
    return frame


def user_location(root: str = "", depth: int = 1) -> Location | None:
    """Where the user's code called what is running now; None when no user code is on the stack."""
    frame = user_frame(sys._getframe(depth), root)
    return None if frame is None else location_of(frame)


def location_of(frame: FrameType) -> Location:
    """The expression that a frame is executing: exact columns on Python 3.11 and later, else the line."""
    code = frame.f_code
    line = frame.f_lineno or code.co_firstlineno
    positions = getattr(code, "co_positions", None)
    if positions is None:
        return Location(code.co_filename, line)
    try:
        start, end, column, end_column = _nth(positions(), frame.f_lasti // 2)
    except StopIteration:
        return Location(code.co_filename, line)
    if start is None or column is None:
        return Location(code.co_filename, line)
    # Columns count UTF-8 bytes; the line's text is not at hand here, and source lines are nearly always ASCII.
    return Location(code.co_filename, start, column + 1, end or start, (end_column or column) + 1)


def _nth(positions: object, index: int) -> tuple[int | None, int | None, int | None, int | None]:
    from itertools import islice

    found: tuple[int | None, int | None, int | None, int | None] = next(islice(positions, index, None))  # type: ignore[call-overload]
    return found
