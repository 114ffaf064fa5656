"""A line-wise channel to one child process, and the server that forks children."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from gradlint.worker.memory import resident_memory

_SERVER = str(Path(__file__).with_name("server.py"))
_START_SECONDS = 120.0
_SPAWN_SECONDS = 20.0
_WATCH_SECONDS = 0.1
_MAX_LINE = 1 << 28
"""A graph of 100,000 nodes is 50 MB of JSON; a longer line is no answer of ours."""


class Unavailable(Exception):  # noqa: N818
    """The worker cannot be reached; the message is one line. `retry`: a new server may do better."""

    def __init__(self, reason: str, details: str | None = None, retry: bool = True) -> None:
        super().__init__(reason)
        self.details = details
        self.retry = retry


class Channel(Protocol):
    """Lines to and from one child."""

    def send(self, line: bytes) -> None:
        """Send a line; a child that is gone shows at the next `receive`."""

    def receive(self, seconds: float) -> bytes:
        """The next line, or nothing when the child ended or the time is over: then see `ending`."""

    def ending(self) -> dict[str, Any]:
        """How the child ended: {"ended": "time" | "memory" | "exit" | "signal" | "output", …}."""

    def close(self) -> None:
        """End the child."""


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONSTARTUP"}
    kept["OMP_NUM_THREADS"] = kept["MKL_NUM_THREADS"] = "1"
    # Asking for graphics cards must not start their driver before a fork, which it does not survive.
    kept["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # What torch.jit compiles has no Python to follow; without it, script modules are plain modules.
    kept["PYTORCH_JIT"] = "0"
    # Libraries read these when they are imported, which may be before a job's own environment is set.
    kept.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_TOKEN_PATH=os.devnull)
    kept.setdefault("OBJC_DISABLE_INITIALIZE_FORK_SAFETY", "YES")
    return kept


class Server:
    """The warmed process that forks children; `version` is its torch's."""

    def __init__(self, python: str) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        try:
            self._process = subprocess.Popen(
                [python, _SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            self._control.close()
            raise Unavailable(f"{python} cannot be started: {error.strerror or error}", retry=False) from error
        finally:
            theirs.close()
        self._control.settimeout(_START_SECONDS)
        try:
            greeting = self._control.recv(4096)
        except OSError:
            greeting = b""
        self._control.settimeout(None)
        if not greeting:
            complaint = self._complaint()
            last = complaint.strip().splitlines()[-1] if complaint.strip() else "no message"
            raise Unavailable(f"the worker of {python} does not start: {last}", complaint or None, retry=False)
        self.version = str(json.loads(greeting).get("ready"))

    def _complaint(self) -> str:
        self.close()
        try:
            _, said = self._process.communicate(timeout=5)
        except (subprocess.TimeoutExpired, ValueError):
            return ""
        return said.decode(errors="replace")[-8000:]

    def open(self, scratch: str, memory: int, root: str, script: str) -> tuple[socket.socket, socket.socket]:
        """Fork a child for a script of a project; its line socket and its watch socket."""
        jobs, child_jobs = socket.socketpair()
        watch, server_watch = socket.socketpair()
        order = json.dumps({"scratch": scratch, "memory": memory, "root": root, "script": script}).encode()
        try:
            with self._lock:
                socket.send_fds(self._control, [order], [child_jobs.fileno(), server_watch.fileno()])
                watch.settimeout(_START_SECONDS)
                forked = watch.recv(4096)
        except OSError as error:
            forked, reason = b"", str(error)
        else:
            reason = "it ended"
        finally:
            child_jobs.close()
            server_watch.close()
        if not forked:
            jobs.close()
            watch.close()
            raise Unavailable(f"the worker's server does not answer: {reason}")
        return jobs, watch

    def close(self) -> None:
        """Close the socket, upon which the server kills its children and ends; wait for that."""
        with contextlib.suppress(OSError):
            self._control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None and not self._process.stderr.closed and self._process.returncode == 0:
            self._process.stderr.close()


class _Lines:
    """Lines assembled from chunks."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> bytes | None:
        """The line that this chunk completes, if it does."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if b"\n" not in chunk:
            return None
        line, _, rest = b"".join(self._chunks).partition(b"\n")
        self._chunks, self._size = [rest], len(rest)
        return line

    @property
    def too_long(self) -> bool:
        """More came without an end of line than any answer holds."""
        return self._size > _MAX_LINE


class ForkedChannel:
    """A child forked by the server."""

    def __init__(self, server: Server, scratch: str, memory: int, root: str, script: str) -> None:
        self._jobs, self._watch = server.open(scratch, memory, root, script)
        self._jobs.settimeout(30.0)
        self._lines = _Lines()
        self._ending: dict[str, Any] = {}

    def send(self, line: bytes) -> None:
        """See `Channel`."""
        with contextlib.suppress(OSError):
            self._jobs.sendall(line)

    def receive(self, seconds: float) -> bytes:
        """See `Channel`."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(self._jobs, selectors.EVENT_READ)
            ready.register(self._watch, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._ending = {"ended": "time"}
                    return b""
                for key, _ in ready.select(left):
                    try:
                        chunk = key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
                    except OSError:
                        chunk = b""
                    if key.fileobj is self._watch:
                        # What the child said before it ended is still to be read.
                        ready.unregister(self._watch)
                        self._note(chunk)
                        continue
                    if not chunk:
                        self._ending = self._ending or self._last_word(deadline)
                        return b""
                    line = self._lines.feed(chunk)
                    if line is not None:
                        return line
                    if self._lines.too_long:
                        self._ending = {"ended": "output"}
                        return b""

    def _last_word(self, deadline: float) -> dict[str, Any]:
        """What the server tells of a child that closed its side; a child that only closed it is out of time."""
        self._watch.settimeout(max(0.1, min(5.0, deadline - time.monotonic())))
        with contextlib.suppress(OSError):
            self._note(self._watch.recv(4096))
        return self._ending or {"ended": "time"}

    def _note(self, chunk: bytes) -> None:
        first = chunk.split(b"\n")[0]
        with contextlib.suppress(ValueError):
            self._ending = json.loads(first)

    def ending(self) -> dict[str, Any]:
        """See `Channel`."""
        return self._ending

    def close(self) -> None:
        """Close the sockets, upon which the server kills the child; wait until it did."""
        self._jobs.close()
        with contextlib.suppress(OSError):
            self._watch.shutdown(socket.SHUT_WR)
            self._watch.settimeout(5.0)
            while self._watch.recv(4096):
                pass
        self._watch.close()


class SpawnedChannel:
    """A child in a fresh interpreter of its own, where processes cannot be forked."""

    def __init__(self, python: str, scratch: str, memory: int) -> None:
        try:
            self._process = subprocess.Popen(
                [python, _SERVER, "--once", scratch],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"{python} cannot be started: {error.strerror or error}", retry=False) from error
        self._ending: dict[str, Any] = {}
        threading.Thread(target=self._watch, args=(memory,), daemon=True).start()

    def _watch(self, memory: int) -> None:
        """End the child when it holds more memory than it may; ends with it."""
        while self._process.poll() is None:
            used = resident_memory(self._process.pid)
            if used > memory:
                self._ending = {"ended": "memory", "used": used}
                self._kill()
                return
            time.sleep(_WATCH_SECONDS)

    def _kill(self) -> None:
        """End the child and what it started."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def send(self, line: bytes) -> None:
        """See `Channel`."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def receive(self, seconds: float) -> bytes:
        """See `Channel`. The start of the interpreter and of torch is not counted."""
        assert self._process.stdout is not None
        stdout, found = self._process.stdout, [b""]

        def read() -> None:
            with contextlib.suppress(OSError, ValueError):
                found[0] = stdout.readline(_MAX_LINE)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(seconds + _SPAWN_SECONDS)
        if reader.is_alive():
            self._ending = self._ending or {"ended": "time"}
            return b""
        return found[0]

    def ending(self) -> dict[str, Any]:
        """See `Channel`."""
        if not self._ending:
            try:
                code = self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                return {"ended": "time"}
            return self._ending or {"ended": "signal" if code < 0 else "exit", "code": abs(code)}
        return self._ending

    def close(self) -> None:
        """See `Channel`."""
        self._kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
