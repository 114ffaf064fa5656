"""The cage of a job's child process: what user code is kept from, applied before any of it runs."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gradlint.worker import landlock, seccomp
from gradlint.worker.guard import is_secret, watch

OUTPUT_LIMIT = 4096
"""Bytes kept of what the user's code prints."""

_FILE_SIZE_LIMIT = 1 << 30
_PR_SET_PDEATHSIG = 1
_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE")
_SECRET_NAMES = frozenset(
    ["SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO", "KUBECONFIG", "DOCKER_HOST", "DBUS_SESSION_BUS_ADDRESS"]
)
_SECRET_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "GCP_", "GITHUB_", "GITLAB_", "CI_JOB_", "WANDB_", "OPENAI_")
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/proc", "/sys", "/nix/store", "/gnu/store")
_SETTINGS = ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "passwd", "group", "nsswitch.conf"]
_SETTINGS += ["os-release", "mime.types", "alternatives", "OpenCL", "vulkan", "machine-id", "nvidia", "magic"]
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm")
_GRAPHICS = ("/dev/dri", "/dev/kfd")
_SCAN_LIMIT = 4000


@dataclass(frozen=True)
class Cage:
    """What the kernel `guarantees` of this process, and the one folder `scratch` that it may write to."""

    scratch: str
    guarantees: tuple[str, ...]


class Printed(io.TextIOBase):
    """A text stream that keeps its first `OUTPUT_LIMIT` characters and counts the rest."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._kept = 0
        self.lost = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As a terminal's, for code that asks."""
        return "utf-8"

    def writable(self) -> bool:
        """Always: it is where the user's code prints to."""
        return True

    def write(self, text: str) -> int:
        """Keep what still fits."""
        room = OUTPUT_LIMIT - self._kept
        if room > 0:
            self._parts.append(str(text[:room]))
            self._kept += min(room, len(text))
        self.lost += max(0, len(text) - room)
        return len(text)

    @property
    def text(self) -> str:
        """What was printed, as far as it was kept."""
        tail = f"\n… {self.lost} more characters" if self.lost else ""
        return "".join(self._parts) + tail


def enter(scratch: str, root: str, script: str, extra_readable: Iterable[str] = (), *, graphics: bool = False) -> Cage:
    """Confine this process, for good. Call it in the child, before user code, with one thread alive.

    `scratch` is the only folder that may be written. With `graphics` the drivers of graphics cards can be opened, if
    there are any. What the kernel does not offer is left out of `guarantees`.
    """
    scratch = os.path.realpath(scratch)
    readable, listable = readable_paths(root, script, extra_readable)
    _strip_environment(scratch)
    os.chdir(scratch)
    guarantees = [*_limits(), "own session"]
    # Landlock first: afterwards seccomp refuses nothing that it needs, but the order frees us from checking.
    cards = _cards() if graphics else []
    cuda = any(name.startswith("/dev/nvidia") for name in cards)
    writable_files = [*_DEVICES, *cards, *(_own_threads() if cuda else [])]
    enforced = landlock.restrict(readable, [scratch], writable_files, listable, ["/dev/shm"] if cuda else [])
    guarantees += [f"landlock: {name}" for name in enforced]
    guarantees += [f"seccomp: {name}" for name in seccomp.restrict(listening=cuda)]
    watch(scratch)
    return Cage(scratch, tuple(guarantees))


def lead_session() -> None:
    """Make this process the leader of its own session, which dies when its parent does."""
    with contextlib.suppress(OSError):
        os.setsid()
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # If memory runs out in spite of the watch, this process goes first, not the user's editor.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def _limits() -> list[str]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_SIZE_LIMIT, _FILE_SIZE_LIMIT))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return ["no core dumps", "file size"]


def allow_cpu(seconds: float, threads: int) -> None:
    """Let this process use that much CPU time more from now on; beyond it the kernel ends it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    soft = int(used + seconds * max(1, threads) + 2)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def _strip_environment(scratch: str) -> None:
    home = os.path.expanduser("~")  # noqa: PTH111
    cache = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", home + "/.cache"), "huggingface")  # noqa: PTH118
    for name in list(os.environ):
        upper = name.upper()
        if upper in _SECRET_NAMES or upper.startswith(_SECRET_PREFIXES) or any(w in upper for w in _SECRET_WORDS):
            del os.environ[name]
    for name in ("HOME", "TMPDIR", "TMP", "TEMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME", "MPLCONFIGDIR"):
        os.environ[name] = scratch
    os.environ.update(
        HF_HOME=cache if os.path.isdir(cache) else scratch,  # noqa: PTH112
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_TOKEN_PATH=os.devnull,
        WANDB_MODE="disabled",
        MPLBACKEND="Agg",
        PYTHONDONTWRITEBYTECODE="1",
    )
    sys.dont_write_bytecode = True
    import tempfile

    tempfile.tempdir = scratch


def readable_paths(root: str, script: str, extra: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """The paths below which user code may read, and those of which it may list the names.

    These are the system's libraries, the interpreter, everything on `sys.path`, the project (without its
    secrets), and the configuration files in the cache of the Hugging Face hub.
    """
    libraries = _libraries()
    projects = list(dict.fromkeys(_real(p) for p in (root, os.path.dirname(script), *extra) if p))  # noqa: PTH120
    on_path = [p for p in map(_real, filter(None, sys.path)) if not _is_below(p, libraries)]
    prefix = _real(sys.prefix)
    readable: list[str] = []
    for path in libraries:
        holes = [p for p in projects if p.startswith(path + "/") and not _is_below(p, [prefix])]
        readable += _around(path, holes) if holes else [path]
    listable = list(dict.fromkeys([*projects, *on_path]))
    for path in listable:
        readable += _without_secrets(path)
    return list(dict.fromkeys(readable)), listable


_real = functools.cache(os.path.realpath)


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Where the system, the interpreter and the hubs keep what any project may read."""
    home = _real(os.path.expanduser("~"))  # noqa: PTH111
    hub = os.environ.get("HF_HOME") or home + "/.cache/huggingface"
    found = [*_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS)]
    found += [sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()]
    found += [hub + "/hub", hub + "/modules", home + "/.cache/torch/hub", str(Path(__file__).resolve().parents[1])]
    return tuple(p for p in dict.fromkeys(map(_real, found)) if p != "/")


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == f or path.startswith(f + "/") for f in folders)


def _around(folder: str, holes: list[str]) -> Iterator[str]:
    """The paths that cover a folder but for those inside it: a project in /opt or /usr/src has secrets, too."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name) if os.path.isdir(folder) else []:  # noqa: PTH112
        if entry.path in holes:
            continue
        inner = [h for h in holes if h.startswith(entry.path + "/")]
        if inner:
            yield from _around(entry.path, inner)
        else:
            yield entry.path


def warm(root: str = "", script: str = "") -> None:
    """Look through the folders of `sys.path` and of a project, in the server: once a run, not once a model."""
    readable_paths(root, script)


@functools.cache
def _without_secrets(folder: str) -> tuple[str, ...]:
    """The fewest paths that cover a folder but for its secret files, found by a bounded scan."""
    secret_below: set[str] = set()
    seen = 0
    for parent, folders, files in os.walk(folder):
        seen += len(folders) + len(files)
        if seen > _SCAN_LIMIT:
            break
        found = [n for n in (*folders, *files) if is_secret(os.path.join(parent, n))]  # noqa: PTH118
        if found:
            here = parent
            while len(here) >= len(folder) and here not in secret_below:
                secret_below.add(here)
                here = os.path.dirname(here)  # noqa: PTH120
        folders[:] = [n for n in folders if n not in found and n not in {".git", "node_modules", "__pycache__"}]
    return tuple(_cover(folder, secret_below | {folder}))


def _cover(folder: str, open_up: set[str]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError:
        return
    for entry in entries:
        if is_secret(entry.path) or entry.name == ".git":
            continue
        if entry.path in open_up:
            yield from _cover(entry.path, open_up)
        else:
            yield entry.path


def _own_threads() -> list[str]:
    """The folder of this process's threads: the CUDA driver names each of its own there, and gives up where it cannot.

    It is kept open, for procfs may make another inode for a folder that nobody holds, which the kernel's list would
    not know.
    """
    with contextlib.suppress(OSError):
        _held.append(os.open("/proc/self/task", os.O_PATH | os.O_CLOEXEC))
        return ["/proc/self/task"]
    return []


_held: list[int] = []
"""Descriptors that stay open for the life of the process."""


def _cards() -> list[str]:
    """The device files of graphics cards on this machine: /dev/nvidia0, nvidiactl, nvidia-uvm, nvidia-caps/ …"""
    try:
        return sorted(str(path) for path in [*Path("/dev").glob("nvidia*"), *map(Path, _GRAPHICS)] if path.exists())
    except OSError:
        return []
