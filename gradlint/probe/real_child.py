"""Runs a training script as `__main__` under a capture, and ends the process when enough was seen.

Started as a script by the interpreter that the training script runs with: `python real_child.py JOB.json`.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlint.probe.real import RealJob


def _make_importable() -> None:
    """Serve the package `gradlint`, and nothing beside it, from the folder above this file's."""
    import importlib.util

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


class Result:
    """The file of findings, one JSON object a line, written through at once."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._process = os.getpid()

    def emit(self, line: dict[str, Any]) -> None:
        """Write one finding."""
        os.write(self._descriptor, json.dumps(line, allow_nan=False).encode() + b"\n")

    def finish(self) -> None:
        """Say that all was seen and end the process, whatever it is doing."""
        if os.getpid() != self._process:
            return
        self.emit({"type": "finished"})
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def redirect_writes(scratch: str) -> None:
    """Let files that the script opens for writing, and checkpoints, land in the scratch folder; read them there too.

    Guards a project against a run that it did not ask for; it is no cage against malice.
    """
    import torch

    overlay = os.path.join(scratch, "written")  # noqa: PTH118
    original_open, original_save = io.open, torch.save

    def moved(path: Any) -> str | None:
        """Where a path lies in the overlay; None for what is no path, a device, or in a temporary folder."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None
        absolute = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if absolute.startswith(("/dev/", "/proc/", os.path.join(scratch, ""))):  # noqa: PTH118
            return None
        return os.path.join(overlay, absolute.lstrip(os.sep).replace(":", "_"))  # noqa: PTH118

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        target = moved(file) if isinstance(mode, str) else None
        if target is not None and (set(mode) & set("wax+")):
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
            if not set(mode) & set("wx") and not os.path.exists(target) and os.path.isfile(file):  # noqa: PTH110, PTH113
                with original_open(file, "rb") as source, original_open(target, "wb") as copy:
                    copy.write(source.read())
            return original_open(target, mode, *args, **kwargs)
        if target is not None and os.path.exists(target):  # noqa: PTH110
            return original_open(target, mode, *args, **kwargs)
        return original_open(file, mode, *args, **kwargs)

    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        target = moved(f)
        if target is not None:
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        return original_save(obj, target or f, *args, **kwargs)

    original_load = torch.load

    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        target = moved(f)
        found = target if target is not None and os.path.exists(target) else f  # noqa: PTH110
        return original_load(found, *args, **kwargs)

    builtins.open = io.open = opened
    torch.save, torch.load = save, load


def main(job: RealJob) -> None:
    """Run the script; this does not return once enough was seen."""
    from gradlint.probe.capture import Capture
    from gradlint.probe.live import Constructors, trace_call

    result = Result(job.result)
    constructors = Constructors()
    constructors.install()

    def trace(module: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        return trace_call(module, args, kwargs, constructors.of(module))

    capture = Capture(job.steps, trace, result.emit, result.finish)
    capture.learning_rate = job.learning_rate
    capture.wanted = job.optimizer
    capture.install()
    redirect_writes(job.scratch)
    sys.argv = [job.path, *job.argv]
    sys.path.insert(0, str(Path(job.path).parent))
    try:
        runpy.run_path(job.path, run_name="__main__")
    except SystemExit as ended:
        if ended.code not in (None, 0):
            result.emit({"type": "failed", "reason": f"the script ended itself: {str(ended.code)[:200]}"})
    except BaseException as error:
        import traceback

        traceback.print_exc()
        first = str(error).strip().splitlines()[:1]
        reason = f"{type(error).__name__}: {first[0][:200]}" if first else type(error).__name__
        result.emit({"type": "failed", "reason": f"the script failed with {reason}"})
    result.finish()


if __name__ == "__main__":
    _make_importable()
    from gradlint.probe.real import RealJob as _RealJob
    from gradlint.worker.wire import decode

    main(decode(_RealJob, json.loads(Path(sys.argv[1]).read_bytes())))
