"""The audit hook: refuses what user code does by accident, with a message that says so."""

from __future__ import annotations

import os
import sys
from typing import Any

_SECRET_FOLDERS = frozenset(
    [".ssh", ".aws", ".gnupg", ".kube", ".docker", ".azure", ".config/gcloud", ".password-store"]
)
_SECRET_FILES = frozenset(
    [".netrc", "_netrc", ".git-credentials", ".pypirc", ".npmrc", ".pgpass", ".htpasswd", ".vault-token", ".env"]
)
_SECRET_SUFFIXES = (".pem", ".key", ".p12", ".pfx", ".kdbx")
_KEY_NAMES = ("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519")

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PROCESS_EVENTS = frozenset(
    [
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.startfile",
        "os.system",
        "subprocess.Popen",
        "pty.spawn",
    ]
)
_PATH_EVENTS = frozenset(
    [
        "os.remove",
        "os.rmdir",
        "os.mkdir",
        "os.rename",
        "os.link",
        "os.symlink",
        "os.chmod",
        "os.chown",
        "os.truncate",
        "os.utime",
        "os.setxattr",
        "os.removexattr",
        "shutil.rmtree",
        "shutil.move",
        "shutil.unpack_archive",
    ]
)
_NETWORK_PREFIXES = ("socket.", "urllib.Request", "http.client.connect", "ftplib.", "smtplib.", "poplib.", "imaplib.")
_HARMLESS_SOCKET_EVENTS = frozenset(["socket.gethostname"])


class RefusedError(PermissionError):
    """User code tried what the cage does not allow; the message is one line."""


refusals: list[str] = []
"""What was refused so far, for the report of the job."""


def is_secret(path: str) -> bool:
    """Whether a path names what holds credentials on most machines."""
    parts = path.replace("\\", "/").split("/")
    name = parts[-1]
    return (
        name in _SECRET_FILES
        or name.startswith((".env.", *_KEY_NAMES))
        or (name.endswith(_SECRET_SUFFIXES) and "site-packages" not in parts and "certifi" not in parts)
        or not _SECRET_FOLDERS.isdisjoint(parts)
        or (name == "token" and "huggingface" in parts)
    )


def watch(scratch: str) -> None:
    """Install the hook; it cannot be removed from Python."""
    inside = os.path.join(os.path.realpath(scratch), "")  # noqa: PTH118
    realpath, fsdecode = os.path.realpath, os.fsdecode

    def writable(path: Any) -> bool:
        if isinstance(path, int):
            return True
        real: str = realpath(fsdecode(path))
        return (real + "/").startswith(inside) or real.startswith("/dev/")

    def refuse(what: str) -> None:
        if len(refusals) < 20:
            refusals.append(what)
        raise RefusedError(f"{what} is not allowed while gradlint builds a model")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, (str, bytes)):
                return
            name = fsdecode(path)
            writes = bool(isinstance(flags, int) and flags & _WRITES) or (
                isinstance(mode, str) and any(c in mode for c in "wax+")
            )
            if writes and not writable(name):
                refuse(f"writing {name}")
            if is_secret(name):
                refuse(f"reading {name}")
        elif event in _PROCESS_EVENTS:
            refuse(f"starting a process ({event})")
        elif event in _PATH_EVENTS:
            for path in arguments[:2]:
                if isinstance(path, (str, bytes)) and not writable(path):
                    refuse(f"changing {fsdecode(path)} ({event})")
        elif event.startswith(_NETWORK_PREFIXES) and event not in _HARMLESS_SOCKET_EVENTS:
            refuse(f"using the network ({event})")

    sys.addaudithook(hook)
