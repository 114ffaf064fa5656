"""What one more trivial model costs a run: processor time of the server and of the child that it forks.

Run by hand on Linux: `python benchmarks/worker.py [--jobs N]`. The floor is a fork and exit of the same warmed process,
measured in the same run; no worker can be cheaper.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

from gradlint.worker import server
from gradlint.worker.client import WorkerPool
from gradlint.worker.protocol import Built, ModelJob, Slice

SCRIPT = "from torch import nn\nnet = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))\n"
_TICK = 1000.0 / os.sysconf("SC_CLK_TCK")


def floor(jobs: int) -> float:
    """Milliseconds of processor time of a fork and an exit of a process that has imported what the server has."""
    server.warm()
    before = _used(resource.RUSAGE_SELF) + _used(resource.RUSAGE_CHILDREN)
    for _ in range(jobs):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
    return (_used(resource.RUSAGE_SELF) + _used(resource.RUSAGE_CHILDREN) - before) / jobs


def _used(who: int) -> float:
    return 1000.0 * sum(resource.getrusage(who)[:2])


def _used_by(pid: int) -> tuple[float, float]:
    """Milliseconds of processor time of a process, and of the children it has reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, children = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
    return own * _TICK, children * _TICK


def main() -> None:
    """Build the same small model again and again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder, WorkerPool() as pool:
        script = Path(folder) / "train.py"
        script.write_text(SCRIPT)
        job = ModelJob(Slice(str(script), folder, SCRIPT, "net"))

        def build() -> float:
            start = time.perf_counter()
            with pool.open(job) as session:
                assert isinstance(session.built, Built), session.built
            return 1000.0 * (time.perf_counter() - start)

        first = build()
        for _ in range(3):
            build()
        assert pool._server is not None
        pid = pool._server._process.pid
        before = _used_by(pid)
        walls = [build() for _ in range(jobs)]
        own, children = (b - a for a, b in zip(before, _used_by(pid), strict=True))
    least = floor(jobs)
    print(f"first model {first:.0f} ms of wall time (starts the interpreter, imports torch)")
    print(
        f"each further one: server {own / jobs:.1f} ms + child {children / jobs:.1f} ms of processor time, "
        f"{(own + children) / jobs / least:.1f} times the floor of {least:.1f} ms; "
        f"wall time {statistics.median(walls):.0f} ms (median), {min(walls):.0f} ms (least)"
    )


if __name__ == "__main__":
    main()
