"""The command `gradlint probe`: measure one batch of a script and show it beside the prediction."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gradlint.config import Config
    from gradlint.finding import Finding
    from gradlint.modelling import Modelled
    from gradlint.probe.real import RealOutcome
    from gradlint.progress import Progress
    from gradlint.report.profile import MeasuredModel, Probed
    from gradlint.rule import Rule
    from gradlint.settling import Probing
    from gradlint.source.project import Project, SourceFile
    from gradlint.source.script import Script, Skipped

WRONG = 2
"""Exit code for wrong usage, and where nothing could be measured."""

REAL_SECONDS = 120.0
"""Seconds that a script may take to its first optimizer step: it loads its data first."""


class ProbeError(Exception):
    """Nothing can be shown; the message is one line that says why and what to do."""


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--steps", type=click.IntRange(1), default=1, show_default=True, help="Optimizer steps to watch.")
@click.option("--line", type=click.IntRange(1), help="Watch only the optimizer that is constructed on this line.")
@click.option("--synthetic", is_flag=True, help="Build the models alone and measure a batch that is made up.")
@click.option("--input", "input_spec", metavar="SPEC", help="With --synthetic: the input, as `1x3x224x224`.")
@click.option("--seeds", type=click.IntRange(1), help="With --synthetic: how many initialisations are drawn.")
@click.option("--device", metavar="DEVICE", help="With --synthetic: auto, cpu, cuda or mps.")
@click.option("--python", metavar="PATH", help="Interpreter whose torch and packages run the script.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for the script or one model.")
@click.option("--fail-on", type=click.Choice(["error", "warning", "info"]), help="Lowest severity that fails the run.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever was measured.")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", help="Format of the report.")
@click.option("--output-file", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write the report there.")
@click.option("--histograms", is_flag=True, help="Show weights and gradients by absolute value too.")
@click.option(
    "--compare", type=click.Path(path_type=Path, dir_okay=False), help="An earlier JSON report to set beside."
)
@click.option("--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Configuration file.")
def probe(**options: Any) -> None:
    """Run TARGET up to its first optimizer step and show what that batch does to every layer.

    The script is run as it is, with the ARGUMENTS after `--`, its data and its own loss; what it saves is thrown
    away. With --synthetic nothing but the model is built, in a sandbox.
    """
    sys.exit(_probe(**options))


def _probe(
    target: Path,
    arguments: tuple[str, ...],
    steps: int,
    line: int | None,
    synthetic: bool,
    input_spec: str | None,
    exit_zero: bool,
    output_format: str,
    output_file: Path | None,
    compare: Path | None,
    histograms: bool,
    config_path: Path | None,
    **overrides: Any,
) -> int:
    from gradlint.config import ConfigError
    from gradlint.progress import progress
    from gradlint.rule import RuleError
    from gradlint.settings import settings
    from gradlint.source.project import UnreadableError

    try:
        if not synthetic and (input_spec or overrides["seeds"] or overrides["device"]):
            raise ProbeError("--input, --seeds and --device need --synthetic: the script has its own")
        if synthetic and (steps > 1 or line):
            raise ProbeError("--steps and --line watch the script's own steps: leave --synthetic out")
        before = _earlier(compare) if compare else None
        patience = overrides.get("timeout")
        config = settings(config_path, (target,), overrides).config
        with progress() as shown:
            seconds = patience or max(REAL_SECONDS, config.timeout)
            probed = measured(target, config, shown, arguments, steps, line, synthetic, input_spec, seconds=seconds)
    except (ProbeError, ConfigError, RuleError, UnreadableError) as error:
        click.echo(f"error: {error}", err=True)
        return WRONG
    if not _write(probed, output_format, output_file, before, histograms):
        return WRONG
    return 1 if _fails(probed, config) and not exit_zero else 0


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
) -> Probed:
    """What the script's first batch shows of its models, and what the rules say of the script.

    Raises ProbeError where nothing was measured, and UnreadableError for a file that cannot be read.
    """
    from gradlint.engine import default_root
    from gradlint.probe.real import run_script
    from gradlint.report.profile import Probed
    from gradlint.result import Result, ordered
    from gradlint.worker.client import find_torch

    began = time.perf_counter()
    path = _program(target, synthetic)
    if not config.exec:
        raise ProbeError("the configuration forbids to run code (exec = false)")
    if find_torch(config.python) is None:
        raise ProbeError(f"torch is not installed for {config.python or sys.executable}")
    outcome, models = None, []
    if not synthetic:
        progress("run", target.name)
        where = (str(path), line, line) if line else None
        outcome = run_script(
            path, arguments, steps=steps, optimizer=where, seconds=seconds, python=config.python, cwd=Path.cwd()
        )
        models = _of_run(outcome, str(path))
        if not models:
            raise ProbeError(f"{target}: {outcome.failed}{_last_words(outcome)}")
    config = _with_arguments(config, arguments)
    built, findings, skipped = _checked(path, config, progress, input_spec, baselines=synthetic)
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


def _with_arguments(config: Config, arguments: Sequence[str]) -> Config:
    import msgspec

    return msgspec.structs.replace(config, script_args=tuple(arguments)) if arguments else config


def _last_words(outcome: RealOutcome) -> str:
    """The last line that the script printed, where it says more than the reason does."""
    lines = [x.strip() for x in outcome.output.splitlines() if x.strip()]
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
        samples = _samples(watched.graph.input)
        graph = watched.graph
        predicted = profile(graph, batch_size=samples) if samples else profile(graph)
        found.append(
            _judged(
                path,
                graph,
                predicted,
                watched.measurement,
                watched.optimizer,
                learning_rates=watched.learning_rates,
                clipped=watched.clipped,
            )
        )
    return found


def _samples(spec: str | None) -> int | None:
    """The first size of "32x3x8x8, 32"."""
    first = (spec or "").split(",")[0].split("x")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


def _of_model(model: Modelled) -> MeasuredModel | None:
    """A model that a worker measured on a synthetic batch."""
    baseline = model.measurements.baseline if model.measurements else None
    if baseline is None:
        return None
    path = model.graph.location.path if model.graph.location else ""
    return _judged(path, model.graph, model.profile, baseline, model.context.algorithm)


def _judged(
    path: str, graph: Any, predicted: Any, measurement: Any, optimizer: str | None, **more: Any
) -> MeasuredModel:
    from gradlint.report.measured import Report
    from gradlint.report.profile import MeasuredModel

    report = Report(graph, measurement, optimizer)
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
        optimizer=optimizer,
        **more,
    )


def _checked(
    path: Path, config: Config, progress: Progress, input_spec: str | None, baselines: bool
) -> tuple[list[Modelled], list[Finding], list[Skipped]]:
    """Models, settled findings and what was skipped, as `gradlint check` has them; every model measured on demand."""
    from gradlint.config import selected
    from gradlint.graph.signal import profile
    from gradlint.modelling import modelled
    from gradlint.settling import Probing, probe_job, settle
    from gradlint.source.project import Project, find_root
    from gradlint.source.read import read_script
    from gradlint.worker.client import WorkerPool
    from gradlint.worker.protocol import Limits, Probed

    project = Project(find_root(path))
    source = _source(path, project)
    try:
        script = read_script(source, project)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ProbeError(f"{path.name} does not parse: {getattr(error, 'msg', error)}") from error
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(config.python, Limits(config.timeout, config.memory << 20)))
        probing = Probing(config, progress, pool)
        models, skipped = modelled(source, project, script, probing, input_spec, stack)
        for model in models:
            model.profile = profile(model.graph, batch_size=config.batch_size)
            if baselines and model.session is not None:
                progress("probe", model.graph.name)
                from gradlint.probe.experiment import Experiment, Measurement

                asked = Experiment("baseline")
                answer = model.session.probe(probe_job(model, (asked,), config))
                seen = answer.measurements.of.get("baseline") if isinstance(answer, Probed) else None
                why = None if isinstance(answer, Probed) else answer.reason
                model.measured[asked] = seen or Measurement("baseline", error=why or "not measured")
        findings = _settled(selected(config), models, script, probing, settle)
    return models, findings, [*script.skipped, *skipped]


def _settled(
    rules: list[Rule], models: list[Modelled], script: Script, probing: Probing, settle: Callable[..., list[Finding]]
) -> list[Finding]:
    from gradlint.causes import merge
    from gradlint.suppression import apply, suppressions

    asked = [f for rule in rules for f in rule.check_script(script)]
    for model in models:
        asked += [f for rule in rules for f in rule.check_graph(model.graph, model.profile, model.context)]
    settled = merge(settle(asked, rules, models, script, probing))
    kept, _ = apply(settled, suppressions(script.path, script.text, None))
    return list(kept)


def _source(path: Path, project: Project) -> SourceFile:
    """The file as a module of its project. Raises UnreadableError."""
    from gradlint.source.notebook import read_notebook
    from gradlint.source.project import SourceFile, UnreadableError, read_text

    if path.suffix != ".ipynb":
        return project.file(path) or SourceFile(str(path), read_text(path), project.module_name(path))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from error
    source = read_notebook(str(path), raw).file
    project.add(str(path), source)
    return source


def _earlier(path: Path) -> dict[str, Any]:
    """The JSON report of an earlier run. Raises ProbeError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProbeError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ProbeError(f"{path}: not JSON; write it with --output-format json") from error
    models = found.get("models") if isinstance(found, dict) else None
    fitting = isinstance(models, list) and all(isinstance(m, dict) and _has_layers(m) for m in models)
    if not fitting:
        raise ProbeError(f"{path}: not a report of gradlint; write it with --output-format json")
    return dict(found)


def _has_layers(model: dict[str, Any]) -> bool:
    layers = model.get("layers")
    if not isinstance(layers, list) or not all(isinstance(x, dict) and isinstance(x.get("name"), str) for x in layers):
        return False
    parts = [x.get(key) for x in layers for key in ("predicted", "measured")]
    return all(part is None or isinstance(part, dict) for part in parts)


def _write(probed: Probed, form: str, file: Path | None, before: dict[str, Any] | None, histograms: bool) -> bool:
    """Write the report where it belongs; False where that failed."""
    from gradlint.report.profile import render, render_json

    if form == "json":
        text = render_json(probed, before)
    elif file is not None:
        text = render(probed, before, histograms=histograms)
    else:
        from rich.console import Console

        console = Console()
        text = render(probed, before, console.is_terminal and not console.no_color, max(120, console.width), histograms)
    if file is None:
        click.echo(text, nl=False)
        return True
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        click.echo(f"error: {file}: {error.strerror or error}", err=True)
        return False
    return True


def _fails(probed: Probed, config: Config) -> bool:
    """Whether a finding or a measured profile is at or above the severity that fails the run."""
    profiles = any(m.severity is not None and m.severity.rank >= config.fail_on.rank for m in probed.models)
    return profiles or probed.result.reaches(config.fail_on)
