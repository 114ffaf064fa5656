"""Files read by several processes at once; what comes out does not depend on how many there were."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from gradlint.collecting import collect_seldom

Found = TypeVar("Found")

WORTHWHILE = 16
"""Fewer files are read sooner than further processes start."""

CHUNK = 4
"""Files handed out at a time: few, for one file can take as long as twenty others."""

_work: list[Callable[[Path], Any]] = []
"""What a process does with every file, set when it starts."""


def processes(jobs: int, files: int) -> int:
    """How many processes to use: `jobs`, or one for each core where it is 0; 1 where more would not pay."""
    return min(jobs or _cores(), files // CHUNK) if files >= WORTHWHILE else 1


def check_all(
    check: Callable[[Path], Found], files: Sequence[Path], jobs: int, done: Callable[[], None] = lambda: None
) -> list[Found]:
    """`check` of every file, in the order of `files`; `check` and what it returns must be picklable.

    `done` is told of each one.
    """
    count = processes(jobs, len(files))
    if count < 2:
        return [check(path) for path in files]
    # A fork is cheap, but unsafe beside threads (the one that draws the progress).
    method = "fork" if sys.platform == "linux" and threading.active_count() == 1 else "spawn"
    try:
        with ProcessPoolExecutor(count, get_context(method), _start, (check,)) as pool:
            return list(_told(pool.map(_run, files, chunksize=CHUNK), done))
    except (BrokenProcessPool, OSError):  # No memory or no right to start processes: slower is better than not at all.
        return [check(path) for path in files]


def _told(found: Iterable[Found], done: Callable[[], None]) -> Iterator[Found]:
    for item in found:
        yield item
        done()


def _start(check: Callable[[Path], Any]) -> None:
    collect_seldom()
    _work[:] = [check]


def _run(path: Path) -> Any:
    return _work[0](path)


def _cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
