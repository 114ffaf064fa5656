"""Time and peak memory of `gradlint check`, as ratios to the bare work it does.

The floor is a process that imports torch, builds the fixture's model and runs three forward+backward passes, measured
in the same run. Run by hand: `python benchmarks/check.py [--repeat N]`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

FIXTURES = Path(__file__).parent.parent / "fixtures"

FLOOR = """
import torch
from torch import nn
torch.set_num_threads(1)
{build}
for _ in range(3):
    out = model({batch})
    out = out[0] if isinstance(out, tuple) else out
    out.float().pow(2).mean().backward()
"""


@dataclass(frozen=True)
class Case:
    """A fixture, and the expressions that build its model and one batch of 32 samples."""

    name: str
    model: str
    batch: str


CASES = (
    Case("cnn_batchnorm_lr", "Net()", "torch.randn(32, 3, 32, 32)"),
    Case("lstm_sentiment", "SentimentClassifier()", "torch.randint(0, 50, (32, 32))"),
    Case("resnet152_no_skip", "PlainNet152()", "torch.randn(32, 3, 16, 16)"),
)


@dataclass(frozen=True)
class Cost:
    """Wall-clock and CPU seconds, and peak resident MiB of the largest process."""

    wall: float
    cpu: float
    memory: float


def cost(command: list[str], repeat: int) -> Cost:
    """The median cost of a command, children included."""
    walls, cpus, memory = [], [], 0.0
    for _ in range(repeat):
        started = time.perf_counter()
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            if process.returncode not in (0, 1):
                sys.exit(f"{command[1:5]}: exit {process.returncode}\n{log.read()[-2000:].decode()}")
        walls.append(time.perf_counter() - started)
        cpus.append(used.ru_utime + used.ru_stime)
        memory = max(memory, used.ru_maxrss / 1024)
    return Cost(median(walls), median(cpus), memory)


def floor(case: Case, script: Path) -> list[str]:
    """A bare process that builds and runs the model of a fixture."""
    source = f"import runpy, sys\nsys.argv = ['x']\nns = runpy.run_path({str(script)!r}, run_name='bench')\n"
    source += "globals().update({k: v for k, v in ns.items() if not k.startswith('__')})\n" + FLOOR.format(
        build=f"model = {case.model}", batch=case.batch
    )
    return [sys.executable, "-c", source]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    check = [sys.executable, "-m", "gradlint", "check", "--exit-zero"]
    print(f"{'fixture':<20}{'what':<12}{'wall s':>8}{'ratio':>7}{'cpu s':>8}{'ratio':>7}{'peak MiB':>10}{'ratio':>7}")
    for case in CASES:
        script = FIXTURES / case.name / "bad.py"
        base = cost(floor(case, script), repeat)
        rows = {
            "floor": base,
            "--no-exec": cost([*check, "--no-exec", str(script)], repeat),
            "--no-probe": cost([*check, "--no-probe", str(script)], repeat),
            "probe": cost([*check, str(script)], repeat),
        }
        for what, seen in rows.items():
            print(
                f"{case.name:<20}{what:<12}{seen.wall:>8.2f}{seen.wall / base.wall:>7.2f}{seen.cpu:>8.2f}"
                f"{seen.cpu / base.cpu:>7.2f}{seen.memory:>10.0f}{seen.memory / base.memory:>7.2f}"
            )


if __name__ == "__main__":
    main()
