"""The warmed process that forks one child for every model and watches over it; it never runs user code.

Run as a script by any interpreter that has torch. It listens on the Unix socket whose number is its argument:
each message hands over two sockets of a session, one for the child's JSON lines, one on which this process
tells how the child ended. When a session's watch socket or the main socket closes, the children concerned are killed.
"""

from __future__ import annotations

import os
import sys


def _make_importable() -> None:
    """Serve the package `gradlint`, and nothing beside it, from the folder above this file."""
    import importlib.util

    if "gradlint" in sys.modules:
        return
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]  # noqa: PTH100
    package = os.path.dirname(here)  # noqa: PTH120
    spec = importlib.util.spec_from_file_location(
        "gradlint",
        os.path.join(package, "__init__.py"),  # noqa: PTH118
        submodule_search_locations=[package],
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gradlint"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _make_importable()

import contextlib  # noqa: E402
import json  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import time  # noqa: E402
from dataclasses import dataclass  # noqa: E402

from gradlint.worker import cage, warming  # noqa: E402
from gradlint.worker.memory import resident_memory  # noqa: E402

_POLL_SECONDS = 0.05
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class _Watched:
    """A child: its pid, the socket of its session, its memory limit in bytes, and whether it was killed."""

    pid: int
    session: socket.socket
    memory: int
    killed: bool = False

    def kill(self) -> None:
        """End it; it is reaped when it is gone, and until then nothing else is asked of it."""
        self.killed = True
        _kill(self.pid)


def warm() -> str:
    """Import what every job needs, without computing anything: a fork after a parallel operation deadlocks.

    Returns torch's version.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    import warnings

    warnings.simplefilter("ignore")
    with warming.without_compiler():
        import torch
    from gradlint.worker import child

    child.warm()
    return str(torch.__version__)


def serve(control: socket.socket) -> None:
    """Fork a child for every message until the other side is gone."""
    _adopt_orphans()
    version = warm()
    control.sendall(json.dumps({"ready": version}).encode() + b"\n")
    children: dict[int, _Watched] = {}
    wishes = warming.Wishes()
    ended = _ended_children()
    looked = time.monotonic()
    while True:
        watched = {c.session.fileno(): c for c in children.values() if not c.killed}
        timeout = _POLL_SECONDS if watched else None
        readable, _, _ = select.select([control, ended, *(c.session for c in watched.values())], [], [], timeout)
        for ready in readable:
            if ready is ended:
                _received(ended)
            elif ready is control:
                if not _open_session(control, children, wishes):
                    for child in children.values():
                        child.kill()
                    return
            elif not _received(ready):
                watched[ready.fileno()].kill()
        _reap(children)
        if time.monotonic() - looked >= _POLL_SECONDS:
            _check_memory(children)
            looked = time.monotonic()


def _check_memory(children: dict[int, _Watched]) -> None:
    for child in [c for c in children.values() if not c.killed]:
        used = resident_memory(child.pid)
        if used > child.memory:
            _tell(child.session, {"ended": "memory", "used": used})
            child.kill()


def _ended_children() -> socket.socket:
    """A socket that has something to read when a child has ended, so that nobody waits for the next look."""
    ours, signalled = socket.socketpair()
    signalled.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(signalled.detach(), warn_on_full_buffer=False)
    return ours


def _received(session: socket.socket) -> bytes:
    try:
        return session.recv(4096)
    except OSError:
        return b""


def _open_session(control: socket.socket, children: dict[int, _Watched], wishes: warming.Wishes) -> bool:
    """Fork the child of a new session; False when the other side is gone."""
    try:
        message, descriptors, _, _ = socket.recv_fds(control, 65536, 2)
    except OSError:
        return False
    if not message or len(descriptors) != 2:
        return False
    order = json.loads(message)
    wishes.grant()
    with contextlib.suppress(OSError):
        cage.warm(order["root"], order["script"])
    jobs, session = (socket.socket(fileno=d) for d in descriptors)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            control.close()
            session.close()
            for other in children.values():
                other.session.close()
            from gradlint.worker import child

            child.run(jobs, order["scratch"], wishes.note)
            status = 0
        finally:
            os._exit(status)
    jobs.close()
    children[pid] = _Watched(pid, session, int(order["memory"]))
    _tell(session, {"pid": pid})
    return True


def _reap(children: dict[int, _Watched]) -> None:
    """Report every child that has ended, and leave no zombie, not even of processes that were orphaned to us."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        ended = children.pop(pid, None)
        if ended is None:
            continue
        # The leader is gone, but a group may hold others where the kernel could not forbid them.
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        _kill_orphans(children)
        code = os.waitstatus_to_exitcode(status)
        _tell(ended.session, {"ended": "signal" if code < 0 else "exit", "code": abs(code)})
        ended.session.close()


def _kill(pid: int) -> None:
    for end in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            end(pid, signal.SIGKILL)


def _adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent dies, so that none escapes."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_orphans(children: dict[int, _Watched]) -> None:
    """Kill processes that fled into a session of their own: whoever is our child without being a session's."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listed:  # noqa: PTH123
            adopted = [int(pid) for pid in listed.read().split()]
    except (OSError, ValueError):
        return
    for pid in adopted:
        if pid not in children:
            _kill(pid)


def _tell(session: socket.socket, event: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        session.sendall(json.dumps(event).encode() + b"\n")


def main() -> None:
    """Serve on the socket that is our argument, or run one job on standard input and output (`--once`)."""
    if sys.argv[1] == "--once":
        from gradlint.worker import child

        warm()
        child.run_once(sys.argv[2])
        return
    control = socket.socket(fileno=int(sys.argv[1]))
    # Interrupts go to gradlint, which closes our socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(control)
    os._exit(0)  # nothing to save, and torch's own shutdown takes its time


if __name__ == "__main__":
    main()
