"""Who draws a parameter: a torch module by default, or somebody's init code at a line."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from gradlint.graph.frames import is_user_file, location_of, user_frame
from gradlint.location import Location

_TORCH = os.path.join(os.path.dirname(os.path.realpath(torch.__file__)), "")  # noqa: PTH118, PTH120
_MODULES = os.path.join(_TORCH, "nn", "modules", "")  # noqa: PTH118


def origin_of_write(root: str) -> tuple[str, Location | None]:
    """Whether a torch module's own code makes the write, and the user's line that led to it."""
    frame = sys._getframe(1)
    default = False
    step: Any = frame
    while step is not None:
        name = step.f_code.co_filename
        if is_user_file(name, root):
            return ("default" if default else "explicit"), location_of(step)
        if name.startswith(_MODULES):
            default = True
        elif not name.startswith(_TORCH) and "gradlint" not in name and not default:
            # Code of another library initialises explicitly; go on to the user's line.
            user = user_frame(step, root)
            return "explicit", location_of(user) if user else None
        step = step.f_back
    return ("default" if default else "explicit"), None
