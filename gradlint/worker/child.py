"""What one job's process does: enter the cage, build, trace, then measure as often as asked."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from gradlint.location import Location
from gradlint.worker import cage, guard, wire
from gradlint.worker.protocol import Built, Failed, ModelJob, Probed, ProbeJob

_MAX_REASON = 300


def warm() -> None:
    """Import what every job needs; called in the server, before any fork."""
    from gradlint.worker import warming

    with contextlib.suppress(Exception):
        _rehearse()
    cage.warm()
    wire.decode(ModelJob, {"slice": {"path": "", "root": "", "text": "", "target": ""}})
    warming.settle()


def _rehearse() -> None:
    """Build and trace a layer of torch's own on meta, which computes nothing: what is loaded late is loaded now."""
    from torch import nn

    from gradlint.graph.build import rehearse
    from gradlint.graph.trace import trace_module
    from gradlint.graph.trace_custom import intercept

    intercept()
    wire.tagged(Built(trace_module(rehearse(lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU()))).graph))
    for late in ("gradlint.probe.run", "numpy.random"):  # numpy loads its random numbers at their first use
        with contextlib.suppress(ImportError):
            __import__(late)


def run(jobs: socket.socket, scratch: str, imported: Callable[[], None] = lambda: None) -> None:
    """Serve one session on a socket, in a process forked for it; `imported` is told when a job may have imported."""
    cage.lead_session()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    kept = os.dup2(jobs.fileno(), 3) if jobs.fileno() != 3 else 3
    os.closerange(4, 4096)
    with os.fdopen(kept, "rb", closefd=False) as incoming, os.fdopen(kept, "wb", closefd=False) as outgoing:
        _serve(incoming, outgoing, scratch, imported)


def run_once(scratch: str) -> None:
    """Serve one session on standard input and output, where processes cannot be forked."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    _serve(incoming, outgoing, scratch)
    os._exit(0)


def _serve(incoming: BinaryIO, outgoing: BinaryIO, scratch: str, imported: Callable[[], None] = lambda: None) -> None:
    import torch

    def answer(value: Any) -> None:
        imported()
        outgoing.write(wire.tagged(value))
        outgoing.flush()

    line = incoming.readline()
    if not line:
        return
    started = time.monotonic()
    printed = cage.Printed()
    sys.stdout = sys.stderr = printed
    root = ""
    try:
        with _stage("internal"):
            job = wire.decode(ModelJob, _loads(line))
            root = job.slice.root
            torch.set_num_threads(1)
            caged = cage.enter(scratch, job.slice.root, job.slice.path, graphics=job.device != "cpu")
            cage.allow_cpu(job.limits.seconds, job.limits.threads)
        built, traced = _prepare(job)
    except BaseException as error:
        answer(failure(error, printed.text, root))
        return
    torch.set_num_threads(max(1, job.limits.threads))
    answer(
        Built(
            traced.graph,
            seconds=time.monotonic() - started,
            output=printed.text,
            guarantees=caged.guarantees,
        )
    )
    for line in incoming:
        started = time.monotonic()
        probe_job = wire.decode(ProbeJob, _loads(line))
        cage.allow_cpu(probe_job.seconds, job.limits.threads)
        try:
            with _stage("probe"):
                from gradlint.probe.run import run as measure

                measurements = measure(probe_job, traced, built)
            answer(Probed(measurements, seconds=time.monotonic() - started))
        except BaseException as error:
            answer(failure(error, printed.text, root))


def _prepare(job: ModelJob) -> tuple[Any, Any]:
    from gradlint.graph.build import build

    with _stage("build"):
        built = build(job.slice, job.seed)
    with _stage("trace"):
        from gradlint.graph.trace import trace_model

        return built, trace_model(built, job.hint)


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not hasattr(error, "gradlint_stage"):
            with contextlib.suppress(Exception):
                error.gradlint_stage = name  # type: ignore[attr-defined]
        raise


def failure(error: BaseException, output: str = "", root: str = "") -> Failed:
    """Why a stage failed, as one line, with the user's line where it was the user's code."""
    stage = getattr(error, "gradlint_stage", "internal")
    details: dict[str, Any] = {"output": output} if output else {}
    if guard.refusals:
        details["refused"] = list(guard.refusals)
    location = getattr(error, "location", None)
    if type(error).__module__.startswith("gradlint.") and not isinstance(error, guard.RefusedError):
        return Failed(stage, one_line(str(error)), location, details=details)
    location = location or user_location_of(error, root)
    if _is_out_of_memory(error):
        return Failed("limit", "out of memory: " + one_line(str(error)), location, details=details)
    reason = one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    if location is None and not isinstance(error, (SystemExit, KeyboardInterrupt, guard.RefusedError)):
        shown = "".join(traceback.format_exception(error))[-8000:]
        return Failed("internal", f"{stage}: {reason}", traceback=shown, details=details)
    return Failed(stage, reason, location, details=details)


def one_line(text: str) -> str:
    """The first lines of a message joined into one, cut to a readable length."""
    joined = " ".join(text.split())
    return joined if len(joined) <= _MAX_REASON else joined[: _MAX_REASON - 1] + "…"


def user_location_of(error: BaseException, root: str = "") -> Location | None:
    """The innermost line of the user's code in an exception's traceback."""
    from gradlint.graph.frames import is_user_file

    found = None
    step = error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if is_user_file(name, root):
            found = Location(name, step.tb_lineno)
        step = step.tb_next
    return found


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "not enough memory" in str(error))


_loads: Callable[[bytes], Any] = __import__("json").loads
