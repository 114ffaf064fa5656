"""What a script's first batch shows of its models, and what the rules say of the script."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlint.config import Config
    from gradlint.finding import Finding
    from gradlint.location import Location
    from gradlint.modelling import Modelled
    from gradlint.probe.real import RealOutcome
    from gradlint.progress import Progress
    from gradlint.report.profile import MeasuredModel, Probed
    from gradlint.source.script import Skipped

REAL_SECONDS = 120.0
"""Seconds that a script may take to its first optimizer step: it loads its data first."""


class ProbeError(Exception):
    """Nothing can be shown; the message is one line that says why and what to do."""


def measured(
    target: Path,
    config: Config,
    progress: Progress,
    arguments: Sequence[str] = (),
    steps: int = 1,
    line: int | None = None,
    synthetic: bool = False,
    input_spec: str | None = None,
    seconds: float = REAL_SECONDS,
    home: Path | None = None,
) -> Probed:
    """What the script's first batch shows of its models, and what the rules say of the script.

    `home` is the folder that patterns of the configuration are told from (the project's root, if None). Raises
    ProbeError where nothing was measured.
    """
    from gradlint.engine import default_root
    from gradlint.report.profile import Probed
    from gradlint.result import Result, ordered

    began = time.perf_counter()
    path = _runnable(target, config, synthetic)
    outcome, models = None, []
    if not synthetic:
        progress("run", target.name)
        outcome = _run(path, config, arguments, steps, line, seconds)
        models = _of_run(outcome, str(path))
        if not models:
            raise ProbeError(f"{target}: {outcome.failed}{_last_words(outcome)}")
    config = _for_the_rest(config, arguments)
    built, findings, skipped = _checked(path, config, progress, input_spec, home, baselines=synthetic)
    if synthetic:
        models = [m for m in map(_of_model, built) if m is not None]
        if not models:
            raise ProbeError(f"{target}: no model could be measured{_why(built, skipped)}")
    result = Result(
        root=default_root([target]),
        findings=ordered(findings),
        skipped=tuple(skipped),
        files=1,
        seconds=time.perf_counter() - began,
    )
    return Probed(tuple(models), result, (outcome.failed,) if outcome is not None and outcome.failed else ())


def rank_of(environment: Mapping[str, str]) -> int:
    """Which process of a distributed launch (torchrun) this is; 0 for one on its own."""
    count, rank = environment.get("WORLD_SIZE", ""), environment.get("RANK", "")
    return int(rank) if count.isdigit() and int(count) > 1 and rank.isdigit() else 0


def follow(
    target: Path,
    config: Config,
    arguments: Sequence[str] = (),
    steps: int = 1,
    line: int | None = None,
    seconds: float = REAL_SECONDS,
) -> None:
    """Run the script as one of several processes, of which another reports. Raises ProbeError where it failed."""
    outcome = _run(_runnable(target, config, False), config, arguments, steps, line, seconds)
    if not outcome.watched:
        raise ProbeError(f"{target}: {outcome.failed}{_last_words(outcome)}")


def _run(
    path: Path, config: Config, arguments: Sequence[str], steps: int, line: int | None, seconds: float
) -> RealOutcome:
    from gradlint.probe.real import run_script

    where = (str(path), line, line) if line else None
    return run_script(
        path, arguments, steps=steps, optimizer=where, seconds=seconds, python=config.python, cwd=Path.cwd()
    )


def _runnable(target: Path, config: Config, synthetic: bool) -> Path:
    """The file that TARGET is, where code may be run. Raises ProbeError."""
    from gradlint.worker.client import find_torch

    path = _program(target, synthetic)
    if not config.exec:
        raise ProbeError("the configuration forbids to run code (exec = false)")
    if find_torch(config.python) is None:
        raise ProbeError(f"torch is not installed for {config.python or sys.executable}")
    return path


def _program(target: Path, synthetic: bool) -> Path:
    """The file that TARGET is. Raises ProbeError."""
    if target.is_dir():
        raise ProbeError(f"{target}: a folder; name the training script in it")
    if not target.is_file():
        raise ProbeError(f"{target}: no such file")
    if target.suffix not in (".py", ".pyw", ".ipynb"):
        raise ProbeError(f"{target}: not a Python script or notebook")
    if target.suffix == ".ipynb" and not synthetic:
        raise ProbeError(f"{target}: a notebook cannot be run from here, use --synthetic")
    return target.resolve()


def _for_the_rest(config: Config, arguments: Sequence[str]) -> Config:
    """The settings under which models are built: the script's arguments, and no further run of the whole script."""
    import msgspec

    return msgspec.structs.replace(config, script_args=tuple(arguments) or config.script_args, real=False)


_WARNED = re.compile(r"^\S.*:\d+: \w*Warning: .*\n(?:[ \t]+.*\n?)?", re.MULTILINE)
"""What Python prints for a warning: the place and the text, then the line of the source."""


def _last_words(outcome: RealOutcome) -> str:
    """The last line that the script printed, warnings aside, where it says more than the reason does."""
    lines = [x.strip() for x in _WARNED.sub("", outcome.output).splitlines() if x.strip()]
    said = lines[-1][:160] if lines else ""
    known = outcome.failed or ""
    return "" if not said or said in known or said.rpartition(": ")[2] in known else f" (its last output: {said})"


def _why(built: Sequence[Modelled], skipped: Sequence[Skipped]) -> str:
    reasons = [m.unbuilt for m in built if m.unbuilt] or [s.reason for s in skipped]
    failed = [x.error for m in built for x in m.measured.values() if x.error]
    return f": {(failed or reasons)[0]}" if failed or reasons else ": none is constructed in it"


def _of_run(outcome: RealOutcome, path: str) -> list[MeasuredModel]:
    """The models that the script trained before it was stopped."""
    from gradlint.graph.signal import profile

    found = []
    for watched in outcome.watched:
        graph, samples = watched.graph, watched.samples
        predicted = profile(graph, batch_size=samples) if samples else profile(graph)
        found.append(
            _judged(
                path,
                graph,
                predicted,
                watched.measurement,
                watched.optimizer,
                watched.loss_at,
                learning_rates=watched.learning_rates,
                clipped=watched.clipped,
            )
        )
    return found


def _of_model(model: Modelled) -> MeasuredModel | None:
    """A model that a worker measured on a synthetic batch."""
    baseline = model.measurements.baseline if model.measurements else None
    if baseline is None:
        return None
    path = model.graph.location.path if model.graph.location else ""
    return _judged(path, model.graph, model.profile, baseline, model.context.algorithm)


def _judged(
    path: str,
    graph: Any,
    predicted: Any,
    measurement: Any,
    optimizer: str | None,
    loss_at: Location | None = None,
    **more: Any,
) -> MeasuredModel:
    from gradlint.report.measured import Report
    from gradlint.report.profile import MeasuredModel

    report = Report(graph, measurement, optimizer, loss_at)
    return MeasuredModel(
        path=path,
        graph=graph,
        profile=predicted,
        measurement=measurement,
        health=report.health,
        severity=report.severity,
        problems=report.problems,
        scale_free=report.scale_free,
        zero_gated=report.zero_gated,
        beside=report.beside,
        broken_at=report.broken_at,
        optimizer=optimizer,
        **more,
    )


def _checked(
    path: Path, config: Config, progress: Progress, input_spec: str | None, home: Path | None, baselines: bool
) -> tuple[list[Modelled], list[Finding], list[Skipped]]:
    """Models, settled findings and what was skipped, as `gradlint check` has them; every model measured on demand."""
    from gradlint.causes import merge, standing
    from gradlint.checking import checked, opened, wanted
    from gradlint.config import selected
    from gradlint.probe.experiment import Experiment
    from gradlint.settling import Probing, measurements
    from gradlint.source.project import UNPARSABLE, Project, UnreadableError, find_root
    from gradlint.source.read import read_script
    from gradlint.suppression import apply, suppressions
    from gradlint.worker.client import WorkerPool
    from gradlint.worker.protocol import Limits

    project = Project(find_root(path))
    try:
        source, _ = opened(path, project)
        script = read_script(source, project)
    except UnreadableError as error:
        raise ProbeError(f"{path.name}: {error}") from error
    except UNPARSABLE as error:
        raise ProbeError(f"{path.name} does not parse: {getattr(error, 'msg', error)}") from error
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(config.python, Limits(config.timeout, config.memory << 20)))
        probing = Probing(config, progress, pool)
        models, findings, skipped = checked(source, script, project, selected(config), probing, input_spec, stack)
        for model in models:
            if baselines and model.session is not None:
                measurements(model, [Experiment("baseline")], probing)
    kept, _ = apply(merge(findings), suppressions(source.path, source.text, source.tree))
    return models, list(standing(wanted(kept, home or project.root, config))), [*script.skipped, *skipped]
