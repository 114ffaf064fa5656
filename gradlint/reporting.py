"""Where reports go: in which format, to the screen, to files, and to the job summary of GitHub Actions."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradlint.formats import FORMATS

if TYPE_CHECKING:
    from rich.console import Console

    from gradlint.config import Config
    from gradlint.result import Result


def further_report(text: str) -> tuple[str, Path]:
    """The format and the file of a `--report FORMAT=FILE`. Raises BadParameter."""
    form, sign, path = text.partition("=")
    if not (sign and path) or form not in FORMATS:
        raise click.BadParameter(f"expected FORMAT=FILE with one of {', '.join(FORMATS)}", param_hint="--report")
    return form, Path(path)


def report(
    result: Result, config: Config, refuted: bool, statistics: bool, output_file: Path | None, aside: bool = False
) -> bool:
    """Write the report of a run where it belongs (`aside`: standard error); False where that failed."""
    on_github = config.output_format is None and bool(os.environ.get("GITHUB_ACTIONS"))
    form = config.output_format or ("github" if on_github else "text")
    if form == "github":
        _job_summary(result, refuted)
    if statistics:
        from gradlint.report.statistics import render as counts

        click.echo(counts(result), nl=False, err=aside)
        return True
    if output_file is not None:
        return written(render(result, form, refuted), output_file)
    screen = _screen(aside)
    coloured = screen.is_terminal and not screen.no_color and not screen.is_dumb_terminal
    width = screen.width if screen.file.isatty() else None
    click.echo(render(result, form, refuted, coloured, width), nl=False, err=aside, color=coloured)
    return True


def render(result: Result, form: str, refuted: bool, colour: bool = False, width: int | None = None) -> str:
    """The report in that format; each reporter is imported only when it is asked for.

    `colour` and `width` are for text on a terminal.
    """
    reporter: Any = import_module(f"gradlint.report.{form}")
    if form == "json":
        return str(reporter.render(result))
    if form == "text":
        return str(reporter.render(result, refuted, colour=colour, width=width))
    return str(reporter.render(result, refuted))


def _screen(stderr: bool) -> Console:
    """Standard output or error, with what rich knows of it (NO_COLOR and FORCE_COLOR hold)."""
    from rich.console import Console

    return Console(stderr=stderr)


def written(report: str, path: Path) -> bool:
    """Write a report to a file; False where that failed."""
    try:
        path.write_text(report, encoding="utf-8")
    except OSError as error:
        click.echo(f"error: {path}: {error.strerror or error}", err=True)
        return False
    return True


def _job_summary(result: Result, refuted: bool) -> None:
    """Append the Markdown report to the job summary that GitHub Actions offers."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        from gradlint.report.markdown import render as as_markdown

        with suppress(OSError), Path(path).open("a", encoding="utf-8") as summary:
            summary.write(as_markdown(result, refuted))
