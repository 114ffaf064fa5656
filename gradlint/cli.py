"""The command line: parse arguments, call the engine, choose a reporter."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradlint import __version__
from gradlint.probe_command import probe

if TYPE_CHECKING:
    from gradlint.cache import Cache

FORMATS = ("text", "concise", "json", "github", "gitlab", "sarif", "junit", "markdown", "html")
ADOPTION = ("baseline", "update_baseline", "changed_since", "add_ignore", "reason")
"""Options of `check` that a team adopts gradlint with, see `gradlint.adoption`."""

WRONG = 2
"""Exit code for wrong usage, wrong config, unreadable input and internal errors."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradlint")
def cli() -> None:
    """Find what makes gradients vanish or explode in PyTorch training scripts, and prove it with one batch."""


def _split(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for item in value for part in item.split(",") if part.strip())


def _codes(flag: str, text: str) -> Callable[[Any], Any]:
    return click.option(flag, multiple=True, callback=_split, metavar="CODES", help=text)


@cli.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@_codes("--select", "Rules to run: codes, prefixes or names, comma-separated.")
@_codes("--ignore", "Rules to leave out.")
@_codes("--extend-select", "Rules to run beside the configured ones.")
@click.option("--exec/--no-exec", "execute", default=None, help="Build models in a sandboxed worker, or only read.")
@click.option("--probe/--no-probe", default=None, help="Measure one batch to settle findings.")
@click.option("--real/--no-real", default=None, help="Run the scripts for their first steps to settle findings.")
@click.option("--input", "input_spec", metavar="SPEC", help='Model input, as "1x3x224x224" or "int64:1x128<30522".')
@click.option("--model", "models", multiple=True, metavar="TARGET", help="FILE.py:EXPR or module:attribute to check.")
@click.option("--script-args", metavar="ARGS", help="Arguments the script would get on its command line.")
@click.option("--python", metavar="PATH", help="Interpreter whose torch and packages build the models.")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option("--seeds", type=click.IntRange(1), help="How many initialisations are drawn.")
@click.option("--seed", type=int, help="The first seed.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for one model.")
@click.option("--fail-on", type=click.Choice(["error", "warning", "info"]), help="Lowest severity that fails the run.")
@click.option("--show-refuted", is_flag=True, help="Show findings that the measurement refuted.")
@click.option("--output-format", type=click.Choice(FORMATS), help="Format of the report.")
@click.option("--output-file", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write the report there.")
@click.option("--report", "reports", multiple=True, metavar="FORMAT=FILE", help="Write a further report to a file.")
@click.option("--fix", "apply_fixes", is_flag=True, help="Write the fixes that are safe.")
@click.option("--unsafe-fixes", is_flag=True, help="With --fix or --diff: those that may change behaviour too.")
@click.option("--diff", "show_diff", is_flag=True, help="Print what --fix would change, write nothing.")
@click.option("--baseline", type=click.Path(path_type=Path, dir_okay=False), help="File of accepted findings.")
@click.option("--update-baseline", is_flag=True, help="Accept what is found now: write it to the --baseline file.")
@click.option("--changed-since", metavar="REF", help="Only findings on lines changed since that commit or branch.")
@click.option("--add-ignore", is_flag=True, help="Write suppression comments for what is found.")
@click.option("--reason", default="accepted", show_default=True, help="With --add-ignore: why.")
@click.option("--statistics", is_flag=True, help="Print how often each rule found something.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever was found.")
@click.option("--extend-exclude", multiple=True, metavar="PATTERN", help="Leave out files beside the configured ones.")
@click.option("--force-exclude", is_flag=True, help="Apply exclusions to named files too.")
@click.option("--stdin-filename", type=click.Path(path_type=Path), help="Check standard input as this file.")
@click.option("--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Configuration file.")
@click.option("--jobs", "-j", type=click.IntRange(1), help="Processes that read files (default: one for each core).")
@click.option("--cache/--no-cache", "use_cache", default=True, help="With --no-exec: repeat what has not changed.")
@click.option("--show-files", is_flag=True, help="List the files that would be checked.")
@click.option("--show-settings", is_flag=True, help="Print the settings that would be used.")
def check(**options: Any) -> None:
    """Lint training scripts, notebooks and folders (default: the working folder)."""
    from gradlint.cache import remembered

    sys.exit(remembered(options, _check))


def _check(
    paths: tuple[Path, ...],
    config_path: Path | None,
    models: tuple[str, ...],
    input_spec: str | None,
    show_refuted: bool,
    output_file: Path | None,
    reports: tuple[str, ...],
    exit_zero: bool,
    force_exclude: bool,
    stdin_filename: Path | None,
    apply_fixes: bool,
    unsafe_fixes: bool,
    show_diff: bool,
    statistics: bool,
    show_files: bool,
    show_settings: bool,
    jobs: int | None,
    cache: Cache | None = None,
    **overrides: Any,
) -> int:
    from gradlint.adoption import Adoption, AdoptionError
    from gradlint.baseline import BaselineError
    from gradlint.cache import Seen
    from gradlint.changes import ChangesError
    from gradlint.config import ConfigError
    from gradlint.discover import MissingPathError, discover
    from gradlint.engine import Engine, default_root
    from gradlint.rule import RuleError
    from gradlint.source.project import UnreadableError, decode
    from gradlint.targets import TargetError, configured_targets, parse_target

    more = [_further_report(text) for text in reports]
    adoption = Adoption(**{option: overrides.pop(option) for option in ADOPTION})
    try:
        config = _settings(config_path, paths, overrides)
        if show_settings:
            return _show_settings(config, config_path, paths)
        targets = [parse_target(text, Path.cwd()) for text in models]
        if not paths and not models and not stdin_filename:
            targets += configured_targets(config.models, _config_folder(config_path))
        named = list(paths) or ([] if stdin_filename or models else [Path()])
        files = discover(named, (*config.exclude, *config.extend_exclude), force_exclude)
        if show_files:
            click.echo("".join(f"{file.as_posix()}\n" for file in files), nl=False)
            return 0
        stdin = (stdin_filename, decode(sys.stdin.buffer.read())) if stdin_filename else None
        inside = [t.path for t in targets if t.path] if not named else []
        root = default_root([*named, *inside, *([stdin_filename] if stdin_filename else [])])
        engine = Engine(config, root, targets=targets)
        first = named[0] if named else root
        adoption.prepare(first if first.is_dir() else first.parent)
    except (
        AdoptionError, BaselineError, ChangesError, ConfigError, MissingPathError, RuleError, TargetError,
        UnreadableError,
    ) as error:  # fmt: skip
        click.echo(f"error: {error}", err=True)
        return WRONG
    engine.input_spec = input_spec
    engine.jobs = jobs or 0
    with _progress() as progress:
        engine.progress = progress
        result = adoption.narrowed(engine.run(files, stdin), files)
    if adoption.writes:
        try:
            click.echo("".join(f"{line}\n" for line in adoption.write(result, files)), err=True, nl=False)
        except (AdoptionError, BaselineError) as error:
            click.echo(f"error: {error}", err=True)
            return WRONG
        return WRONG if result.failures else 0
    if show_diff or apply_fixes:
        result = _fix(result, unsafe_fixes, write=apply_fixes and not show_diff)
        if result is None:
            return WRONG
    if not show_diff and not _report(result, config, show_refuted, statistics, output_file):
        return WRONG
    if not all(_written(_render(result, form, show_refuted, colour=False), path) for form, path in more):
        return WRONG
    if not files and stdin is None and not targets:
        click.echo("warning: no Python files or notebooks found", err=True)
    for skipped in result.unbuilt:
        click.echo(f"error: {skipped.reason}", err=True)
    if result.failures or result.unbuilt:
        return WRONG
    if cache is not None and files and not config.exec and not targets and config.extend is None:
        start = named[0].resolve()
        settings = [p / "pyproject.toml" for p in (start, *start.parents)] + [p for p in (config_path,) if p]
        cache.seen = Seen(root, files, (*config.exclude, *config.extend_exclude), [*settings, *engine.named])
    return 1 if result.reaches(config.fail_on) and not exit_zero else 0


def _settings(config_path: Path | None, paths: tuple[Path, ...], overrides: dict[str, Any]) -> Any:
    """The configuration with the command line's options laid over it. Raises ConfigError."""
    import shlex

    import msgspec

    from gradlint.config import check_selectors, find, load
    from gradlint.finding import Severity

    start = paths[0].resolve() if paths else Path.cwd()
    config = load(config_path or find(start if start.is_dir() else start.parent))
    given: dict[str, Any] = {k: v for k, v in overrides.items() if v not in (None, ())}
    for key in ("select", "ignore", "extend_select"):
        check_selectors(given.get(key, ()), f"--{key.replace('_', '-')}")
    if "execute" in given:
        given["exec"] = given.pop("execute")
    if "fail_on" in given:
        given["fail_on"] = Severity(given["fail_on"])
    if "script_args" in given:
        given["script_args"] = tuple(shlex.split(given["script_args"]))
    if "extend_exclude" in given:
        given["extend_exclude"] = (*config.extend_exclude, *given["extend_exclude"])
    return msgspec.structs.replace(config, **given)


def _show_settings(config: Any, config_path: Path | None, paths: tuple[Path, ...]) -> int:
    from gradlint.config import find
    from gradlint.report.settings import render

    start = paths[0].resolve() if paths else Path.cwd()
    click.echo(render(config, config_path or find(start if start.is_dir() else start.parent)), nl=False)
    return 0


def _config_folder(config_path: Path | None) -> Path:
    """The folder that paths in the configuration are relative to."""
    from gradlint.config import find

    found = config_path or find(Path.cwd())
    return found.resolve().parent if found else Path.cwd()


def _fix(result: Any, unsafe: bool, write: bool) -> Any:
    """Write the fixes, or print them as a diff; the result without what was fixed, None after a failed write."""
    from dataclasses import replace

    from gradlint import fixing

    cured: set[int] = set()
    for file in fixing.fixed(result.findings, unsafe):
        name = result.relative(str(file.path))
        if not write:
            click.echo(file.diff(name), nl=False)
            continue
        try:
            fixing.write(file)
        except (OSError, UnicodeEncodeError) as error:
            click.echo(f"error: {name}: {error}", err=True)
            return None
        dropped = f", {file.dropped} thrown away" if file.dropped else ""
        click.echo(f"fixed {name}: {len(file.applied)} applied{dropped}", err=True)
        cured.update(map(id, file.applied))
    return replace(result, findings=tuple(f for f in result.findings if id(f) not in cured))


def _report(result: Any, config: Any, refuted: bool, statistics: bool, output_file: Path | None) -> bool:
    """Write the report where it belongs; False where that failed."""
    on_github = config.output_format is None and bool(os.environ.get("GITHUB_ACTIONS"))
    form = config.output_format or ("github" if on_github else "text")
    report = _render(result, form, refuted, colour=output_file is None)
    if form == "github":
        _job_summary(result, refuted)
    if statistics:
        from gradlint.report.statistics import render

        report = render(result)
    if output_file is None:
        click.echo(report, nl=False)
        return True
    return _written(report, output_file)


def _further_report(text: str) -> tuple[str, Path]:
    """The format and the file of a `--report`."""
    form, sign, path = text.partition("=")
    if not (sign and path) or form not in FORMATS:
        raise click.BadParameter(f"expected FORMAT=FILE with one of {', '.join(FORMATS)}", param_hint="--report")
    return form, Path(path)


def _written(report: str, path: Path) -> bool:
    """Write a report to a file; False where that failed."""
    try:
        path.write_text(report, encoding="utf-8")
    except OSError as error:
        click.echo(f"error: {path}: {error.strerror or error}", err=True)
        return False
    return True


def _render(result: Any, form: str, refuted: bool, colour: bool) -> str:
    """The report in that format; each reporter is imported only when it is asked for."""
    from importlib import import_module

    reporter: Any = import_module(f"gradlint.report.{form}")
    if form == "json":
        return str(reporter.render(result))
    if form == "text" and colour:
        from rich.console import Console

        console = Console()
        return str(reporter.render(result, refuted, colour=console.is_terminal and not console.no_color))
    return str(reporter.render(result, refuted))


def _job_summary(result: Any, refuted: bool) -> None:
    """Append the Markdown report to the job summary that GitHub Actions offers."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        from gradlint.report.markdown import render

        with suppress(OSError), Path(path).open("a", encoding="utf-8") as summary:
            summary.write(render(result, refuted))


@contextmanager
def _progress() -> Iterator[Callable[[str, str], None]]:
    """Shows on stderr which model is in which stage, where a terminal is there to see it."""
    if not sys.stderr.isatty():
        yield lambda stage, name: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading") as status:
        yield lambda stage, name: status.update(f"{stage} {name}")


@cli.command()
@click.argument("rule", required=False)
def explain(rule: str | None) -> None:
    """Show the documentation of a rule (by code or name), or the table of all rules."""
    from rich.console import Console

    from gradlint.report.explain import UnknownRuleError, documentation, table

    console = Console()
    try:
        console.print(table() if rule is None else documentation(rule))
    except UnknownRuleError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(WRONG)


cli.add_command(probe)


@cli.command()
def lsp() -> None:
    """Serve diagnostics to an editor over standard input and output; never runs code of the project."""
    try:
        from gradlint.lsp import main as serve
    except ModuleNotFoundError as error:
        if error.name not in ("pygls", "lsprotocol"):
            raise
        click.echo("error: the editor server needs pygls: install the extra `gradlint-torch[lsp]`", err=True)
        sys.exit(WRONG)
    serve()


@cli.command()
def init() -> None:
    """Write configuration, pre-commit hook and workflow for the project in this folder; overwrite nothing."""
    from gradlint.initialise import initialise

    failed = False
    for step in initialise(Path.cwd()):
        failed |= step.action == "failed"
        click.echo(f"{step.action} {step.path}{f': {step.note}' if step.note else ''}".rstrip())
    sys.exit(WRONG if failed else 0)


def main() -> None:
    """Run the command; an error of gradlint's own is one traceback that asks to be reported, exit code 2."""
    try:
        cli(standalone_mode=True)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception:
        import traceback

        traceback.print_exc()
        click.echo("gradlint failed: this is an error of gradlint itself, please report it", err=True)
        sys.exit(WRONG)
