"""What a person at a terminal sees while models are built and measured: stage, model, and the time left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

Item = TypeVar("Item")

PATIENCE = 1.0
"""Seconds of work before anything is shown: what is over sooner needs no bar."""


class Progress(Protocol):
    """Told by the pipeline where it is."""

    def __call__(self, stage: str, name: str) -> None:
        """A stage ("read", "build", "probe", "run") of a file or model begins."""

    def expect(self, units: int) -> None:
        """So many files, models or measurements are to be done beside those told before."""

    def done(self, units: int = 1) -> None:
        """So many of them are done."""


class Silent:
    """Shows nothing: in pipes, in other processes, and for callers that do not care."""

    def __call__(self, stage: str, name: str) -> None:
        pass

    def expect(self, units: int) -> None:
        pass

    def done(self, units: int = 1) -> None:
        pass


def counted(items: Sequence[Item], progress: Progress) -> Iterator[Item]:
    """So many items, each told as done when the next one is asked for."""
    progress.expect(len(items))
    yield from told(items, progress)


def told(items: Iterable[Item], progress: Progress) -> Iterator[Item]:
    """The items, each told as done when the next one is asked for."""
    for item in items:
        yield item
        progress.done()


class Shown:
    """A bar on standard error that goes away at the end.

    It appears when the work has taken a while. Between events it is redrawn by a thread, but only once models are
    built: while files are read, further processes are forked, which is unsafe beside a thread.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._bar: Bar | None = None
        self._expected = 0
        self._done = 0
        self._now = "reading"

    def __call__(self, stage: str, name: str) -> None:
        self._now = f"{stage} {name}"
        if self._bar is None and stage != "read":
            self._start(ticking=True)
        self._draw()

    def expect(self, units: int) -> None:
        self._expected += units
        self._draw()

    def done(self, units: int = 1) -> None:
        self._done += units
        if self._bar is None and self._expected > self._done and time.monotonic() - self._began > PATIENCE:
            self._start(ticking=False)
        self._draw()

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _start(self, ticking: bool) -> None:
        from rich import progress as rich
        from rich.console import Console
        from rich.table import Column

        about = rich.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
        self._bar = rich.Progress(
            rich.SpinnerColumn(),
            about,
            rich.BarColumn(bar_width=20),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("left"),
            rich.TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=ticking,
        )
        self._task = self._bar.add_task(self._now, total=None)
        self._bar.start()

    def _draw(self) -> None:
        if self._bar is not None:
            total = self._expected or None
            self._bar.update(self._task, description=self._now, completed=self._done, total=total)
            if not self._bar.live.auto_refresh:
                self._bar.refresh()


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar where a terminal is there to see it, else nothing."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield Silent()
        return
    shown = Shown()
    try:
        yield shown
    finally:
        shown.stop()
