"""The real batch: runs a training script in its own process up to its first optimizer steps and reads what was seen."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradlint.graph.model import ModelGraph
from gradlint.location import Location
from gradlint.probe.experiment import Measurement
from gradlint.worker.wire import decode, encode

OUTPUT_LIMIT = 4096
"""Characters of the script's own output that are kept, from the end."""


@dataclass(frozen=True)
class RealJob:
    """Run `path` as `__main__` with `argv` and watch its first `steps` optimizer steps.

    `optimizer`, where set, is (path, first line, last line) of the call that constructs the one optimizer to watch:
    what the script trains with others (a pre-training) runs as it would. `learning_rate`, where set, replaces that of
    every optimizer that is watched: the same script at another rate. `result` is the file that the child writes,
    `scratch` the folder that checkpoints go to instead of where the script wants them.
    """

    path: str
    argv: tuple[str, ...] = ()
    steps: int = 1
    learning_rate: float | None = None
    result: str = ""
    scratch: str = ""
    optimizer: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Watched:
    """A model that the script trains, as measured at the first step of the optimizer that holds it.

    `measurement` is the baseline on the script's batch (`batch` "real"), with the curve over the steps in `losses`
    and `gradient_norms` (before any clipping). `optimizer` is the class name, `learning_rates` those of its groups.
    `clipped` is True where the script clipped the gradient before the step; `calls` how often the model was called
    for one step. `loss_at` is the line that called backward, `samples` how many the batch holds, over all ranks.
    """

    graph: ModelGraph
    measurement: Measurement
    model: str
    optimizer: str
    learning_rates: tuple[float, ...] = ()
    momentum: float = 0.0
    weight_decay: float = 0.0
    clipped: bool = False
    calls: int = 1
    loss_at: Location | None = None
    samples: int = 0


@dataclass(frozen=True)
class RealOutcome:
    """What a run of the script showed. `failed` says in one line why nothing, or not everything, was measured."""

    watched: tuple[Watched, ...] = ()
    failed: str | None = None
    output: str = ""
    seconds: float = 0.0
    steps: int = 0


@dataclass
class _Lines:
    """What the child has written: the first sight of each model, and every step by optimizer."""

    models: dict[int, dict[str, Any]] = field(default_factory=dict)
    steps: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    failed: str | None = None
    finished: bool = False


def run_script(
    path: str | Path,
    argv: Sequence[str] = (),
    *,
    steps: int = 1,
    learning_rate: float | None = None,
    optimizer: tuple[str, int, int] | None = None,
    seconds: float = 120.0,
    python: str | None = None,
    cwd: str | Path | None = None,
) -> RealOutcome:
    """Run a training script up to `steps` steps of each of its optimizers, then stop it.

    `optimizer` is (path, first line, last line) of the construction of the one optimizer to watch, None for all.
    The script runs with its own children, network and data in a process group of its own, for at most `seconds`;
    what it saves goes to a folder that is deleted. Nothing that it does is raised here.
    """
    began = time.monotonic()
    script = Path(path).resolve()
    with tempfile.TemporaryDirectory(prefix="gradlint-") as scratch:
        result, log, job_file = (Path(scratch) / name for name in ("result.jsonl", "output.txt", "job.json"))
        job = RealJob(str(script), tuple(argv), max(1, steps), learning_rate, str(result), scratch, optimizer)
        job_file.write_bytes(encode(job))
        ended = _execute([python or sys.executable, str(_CHILD), str(job_file)], log, cwd or script.parent, seconds)
        lines = _read(result)
        text = log.read_text(errors="replace") if log.exists() else ""
    watched = tuple(_watched(key, lines, steps) for key in sorted(lines.models))
    failed = lines.failed or (None if lines.finished else ended)
    if not watched and failed is None:
        failed = "the script ended without an optimizer step"
    return RealOutcome(
        watched=watched,
        failed=failed,
        output=text[-OUTPUT_LIMIT:],
        seconds=time.monotonic() - began,
        steps=max((len(s) for s in lines.steps.values()), default=0),
    )


_CHILD = Path(__file__).with_name("real_child.py")


def _execute(command: list[str], log: Path, cwd: str | Path, seconds: float) -> str | None:
    """Run the command to its end or its limit; why it ended, None for a normal end."""
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "WANDB_MODE": "offline",
        "MPLBACKEND": "Agg",
    }
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            return f"the script could not be started: {error.strerror or error}"
        try:
            with _ended_softly():
                code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"no more than this was seen within {seconds:.0f} s"
        finally:
            # Whatever ends the wait, an interrupt too: nothing of the script goes on behind the user's back.
            _end(process)
    if code == 0:
        return None
    return f"the script was ended by signal {-code}" if code < 0 else f"the script ended with status {code}"


@contextlib.contextmanager
def _ended_softly() -> Iterator[None]:
    """Let a request to end (a launcher stops its ranks by SIGTERM) unwind the stack, as an interrupt does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return


def _read(result: Path) -> _Lines:
    lines = _Lines()
    if not result.exists():
        return lines
    for raw in result.read_bytes().splitlines():
        try:
            line = json.loads(raw)
        except ValueError:
            continue  # The process was killed while it wrote this line.
        match line.get("type"):
            case "model":
                lines.models.setdefault(int(line["key"]), line)
            case "step":
                lines.steps.setdefault(int(line["key"]), []).append(line)
            case "failed":
                lines.failed = str(line["reason"])
            case "finished":
                lines.finished = True
    return lines


def _watched(key: int, lines: _Lines, steps: int) -> Watched:
    watched: Watched = decode(Watched, lines.models[key]["watched"])
    taken = lines.steps.get(key, [])[:steps]
    losses = tuple(float(s["loss"]) for s in taken if s.get("loss") is not None)
    norms = tuple(float(s["norm"]) for s in taken if s.get("norm") is not None)
    broken = next((i for i, s in enumerate(taken, 1) if s.get("nonfinite")), None)
    nonfinite = taken[broken - 1]["nonfinite"] if broken else None
    measurement = replace(
        watched.measurement,
        losses=losses,
        gradient_norms=norms or watched.measurement.gradient_norms,
        first_nonfinite=watched.measurement.first_nonfinite or nonfinite,
        nonfinite_step=broken,
    )
    return replace(
        watched,
        measurement=measurement,
        clipped=watched.clipped or any(s.get("clipped") for s in taken),
    )
