"""gradlint's own side of the process boundary: sessions with workers, without ever importing torch."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from gradlint.probe.experiment import ON_CPU_INSTEAD
from gradlint.worker import wire
from gradlint.worker.channel import Channel, ForkedChannel, Server, SpawnedChannel, Unavailable
from gradlint.worker.protocol import Built, Failed, Limits, ModelJob, Probed, ProbeJob

_PROBE_GRACE_SECONDS = 10.0
_ANSWERS: dict[str, type[Any]] = {"Built": Built, "Failed": Failed, "Probed": Probed}
_CAN_FORK = hasattr(os, "fork") and sys.platform != "win32"


@functools.cache
def find_torch(python: str | None = None) -> str | None:
    """The version of the torch that an interpreter (None: this one) can import, or None; imports nothing."""
    if python is None or Path(python).absolute() == Path(sys.executable).absolute():
        if importlib.util.find_spec("torch") is None:
            return None
        try:
            return importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            return "unknown"
    question = (
        "import importlib.util as u, importlib.metadata as m\n"
        "try: print(m.version('torch') if u.find_spec('torch') else '')\n"
        "except m.PackageNotFoundError: print('unknown')"
    )
    try:
        asked = subprocess.run([python, "-c", question], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


class WorkerPool:
    """Workers of one run: a warmed server, and a fresh child for every model.

    `python` is the interpreter that holds the project's torch (None: this one). `fork` False starts a fresh
    interpreter for every model instead, as on Windows. Safe to use from several threads.
    """

    def __init__(self, python: str | None = None, limits: Limits | None = None, *, fork: bool | None = None) -> None:
        self.python = python or sys.executable
        self.limits = limits or Limits()
        self._fork = _CAN_FORK if fork is None else fork
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._sessions = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, job: ModelJob) -> Session:
        """Start building a model. The job's limits are used; nothing is raised, `Session.built` tells."""
        with self._lock:
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="gradlint-", ignore_cleanup_errors=True)
            self._sessions += 1
            scratch = Path(self._scratch.name) / str(self._sessions)
            scratch.mkdir()
            channel = self._channel(str(scratch), job)
        return Session(channel, job, scratch, functools.partial(self._open_again, str(scratch)))

    def _open_again(self, scratch: str, job: ModelJob) -> Channel | Failed:
        with self._lock:
            return self._channel(scratch, job)

    def _channel(self, scratch: str, job: ModelJob) -> Channel | Failed:
        """A channel to a new child; the server is started when it is not there, and once more when it died."""
        for attempt in range(2):
            try:
                if not self._fork:
                    return SpawnedChannel(self.python, scratch, job.limits.memory)
                if self._server is None:
                    self._server = Server(self.python)
                return ForkedChannel(self._server, scratch, job.limits.memory, job.slice.root, job.slice.path)
            except Unavailable as error:
                if self._server is not None:
                    self._server.close()
                    self._server = None
                if attempt or not error.retry:
                    return Failed("internal", str(error), traceback=error.details)
        return Failed("internal", "the worker cannot be started")

    def close(self) -> None:
        """End the server and every child, and remove their scratch folders."""
        with self._lock:
            if self._server is not None:
                self._server.close()
                self._server = None
            if self._scratch is not None:
                self._scratch.cleanup()
                self._scratch = None


class Session:
    """One model in one child process; in a second one, on the CPU, where the model breaks the device.

    `open_again` gives the channel to a fresh child for a job.
    """

    def __init__(
        self,
        channel: Channel | Failed,
        job: ModelJob,
        scratch: Path,
        open_again: Callable[[ModelJob], Channel | Failed],
    ) -> None:
        self._scratch = scratch
        self._open_again = open_again
        self._left_device: str | None = None
        self._begin(channel, job)

    def _begin(self, channel: Channel | Failed, job: ModelJob) -> None:
        self._job = job
        self._channel = None if isinstance(channel, Failed) else channel
        self._dead: Failed | None = channel if isinstance(channel, Failed) else None
        if self._channel is not None:
            self._channel.send(wire.encode(job))

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @functools.cached_property
    def built(self) -> Built | Failed:
        """The traced model, or why there is none. Waits for it, at most for the job's time limit."""
        return self._receive_built()

    def _receive_built(self) -> Built | Failed:
        answer = self._receive(self._job.limits.seconds)
        if isinstance(answer, Failed):
            self._dead = self._dead or answer
            self._hang_up()
        return answer if isinstance(answer, (Built, Failed)) else Failed("internal", "unexpected answer of the worker")

    def probe(self, job: ProbeJob) -> Probed | Failed:
        """Run experiments on the model. A child that dies over it fails this and later probes, nothing else."""
        if isinstance(self.built, Failed):
            return self.built
        answer = self._probe(job)
        if isinstance(answer, Failed) and answer.stage == "device":
            answer = self._probe_on_cpu(job, answer.reason)
        if isinstance(answer, Probed) and self._left_device is not None:
            return replace(answer, measurements=answer.measurements.with_notes([self._left_device]))
        return answer

    def _probe_on_cpu(self, job: ProbeJob, reason: str) -> Probed | Failed:
        self._hang_up()
        self._left_device = f"{reason}, {ON_CPU_INSTEAD}"
        on_cpu = replace(self._job, device="cpu")
        self._begin(self._open_again(on_cpu), on_cpu)
        built = self._receive_built()
        return built if isinstance(built, Failed) else self._probe(job)

    def _probe(self, job: ProbeJob) -> Probed | Failed:
        if self._dead is not None or self._channel is None:
            return self._dead or Failed("probe", "the session is closed")
        if self._left_device is not None:
            job = replace(job, device="cpu")
        self._channel.send(wire.encode(job))
        answer = self._receive(job.seconds + _PROBE_GRACE_SECONDS, stage="probe")
        return answer if isinstance(answer, (Probed, Failed)) else Failed("internal", "unexpected answer of the worker")

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._hang_up()
        self._dead = self._dead or Failed("internal", "the session is closed")
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _receive(self, seconds: float, stage: str = "build") -> Built | Probed | Failed:
        if self._channel is None:
            return self._dead or Failed("internal", "the session is closed")
        line = self._channel.receive(seconds)
        if line:
            return _decoded(line)
        self._dead = _ending(self._channel.ending(), seconds, stage)
        self._hang_up()
        return self._dead


def _decoded(line: bytes) -> Built | Probed | Failed:
    try:
        data = json.loads(line)
        answer: Built | Probed | Failed = msgspec.convert(data, _ANSWERS[data.pop("type")])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, msgspec.ValidationError) as error:
        return Failed("internal", f"unreadable answer of the worker: {error}")
    return answer


def _ending(event: dict[str, Any], seconds: float, stage: str) -> Failed:
    match event:
        case {"ended": "time"}:
            return Failed("limit", f"still running after {seconds:g} s, the time limit (`--timeout`)")
        case {"ended": "output"}:
            return Failed("internal", "the worker's answer is larger than any model's")
        case {"ended": "memory", "used": int(used)}:
            return Failed("limit", f"stopped at {used / 1e9:.1f} GB of memory, the limit of one job")
        case {"ended": "signal", "code": int(code)} if code == getattr(signal, "SIGXCPU", 0):
            return Failed("limit", "used more CPU time than the time limit allows")
        case {"ended": "signal", "code": int(code)}:
            name = str(code)
            with contextlib.suppress(ValueError):
                name = signal.Signals(code).name
            why = {"SIGSEGV": "a crash in native code", "SIGKILL": "killed, perhaps for want of memory"}.get(name)
            return Failed(stage, f"the process died of {name}" + (f" ({why})" if why else ""))
        case {"ended": "exit", "code": int(code)}:
            return Failed(stage, f"the code ended its process (exit code {code})")
    return Failed("internal", "the worker's server died")
