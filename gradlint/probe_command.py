"""The command `gradlint probe`: measure one batch of a script and show it beside the prediction."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradlint.exit_code import WRONG
from gradlint.measuring import REAL_SECONDS, ProbeError, follow, measured, rank_of

if TYPE_CHECKING:
    from gradlint.config import Config
    from gradlint.report.profile import Probed

FORMATS = ["text", "json", "html"]


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
@click.option("--output-format", type=click.Choice(FORMATS), default="text", help="Format of the report.")
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
    from gradlint.graph.input_grammar import InputSpecError, parse_spec
    from gradlint.progress import progress
    from gradlint.rule import RuleError
    from gradlint.settings import settings

    try:
        if not synthetic and (input_spec is not None or overrides["seeds"] or overrides["device"]):
            raise ProbeError("--input, --seeds and --device need --synthetic: the script has its own")
        if synthetic and (steps > 1 or line):
            raise ProbeError("--steps and --line watch the script's own steps: leave --synthetic out")
        if input_spec is not None:
            parse_spec(input_spec)
        before = _earlier(compare) if compare else None
        patience = overrides.get("timeout")
        found = settings(config_path, (target,), overrides)
        config = found.config
        seconds = patience or max(REAL_SECONDS, config.timeout)
        if rank_of(os.environ):
            # One process of several reports, of a batch that all of them measure.
            if not synthetic:
                follow(target, config, arguments, steps, line, seconds)
            return 0
        with progress() as shown:
            probed = measured(
                target, config, shown, arguments, steps, line, synthetic, input_spec, seconds=seconds, home=found.home
            )
    except (ProbeError, ConfigError, InputSpecError, RuleError) as error:
        rank = rank_of(os.environ)
        click.echo(f"error: {f'rank {rank}: ' if rank else ''}{error}", err=True)
        return WRONG
    if not _write(probed, output_format, output_file, before, histograms):
        return WRONG
    return 1 if _fails(probed, config) and not exit_zero else 0


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
    from gradlint.report import profile_html
    from gradlint.report.profile import render_json
    from gradlint.report.profile_text import render
    from gradlint.reporting import written

    if form == "json":
        text = render_json(probed, before)
    elif form == "html":
        text = profile_html.render(probed, before)
    elif file is not None:
        text = render(probed, before, histograms=histograms)
    else:
        from rich.console import Console

        console = Console()
        text = render(probed, before, console.is_terminal and not console.no_color, max(120, console.width), histograms)
    if file is None:
        click.echo(text, nl=False)
        return True
    return written(text, file)


def _fails(probed: Probed, config: Config) -> bool:
    """Whether a finding or a measured profile is at or above the severity that fails the run."""
    profiles = any(m.severity is not None and m.severity.rank >= config.fail_on.rank for m in probed.models)
    return profiles or probed.result.reaches(config.fail_on)
