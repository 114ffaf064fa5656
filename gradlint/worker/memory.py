"""How much memory another process holds."""

from __future__ import annotations

import subprocess
import sys
import time


def resident_memory(pid: int) -> int:
    """Bytes of anonymous and shared memory that a process holds, without the libraries it maps; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
            fields = dict(line.split(":", 1) for line in status if line.startswith(("RssAnon", "RssShmem")))
    except (OSError, ValueError):
        return 0 if sys.platform.startswith("linux") else _resident_by_ps(pid)
    return sum(int(value.split()[0]) for value in fields.values()) * 1024


_last_ps: dict[int, float] = {}


def _resident_by_ps(pid: int) -> int:
    """The same through `ps`, at most twice a second, for systems without /proc."""
    if time.monotonic() - _last_ps.get(pid, 0.0) < 0.5:
        return 0
    _last_ps[pid] = time.monotonic()
    try:
        found = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return int(found.stdout.strip() or 0) * 1024
    except (OSError, ValueError):
        return 0
