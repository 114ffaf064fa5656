"""The command `gradlint check`: parse options, run the engine over the files, hand its result to reports and fixes."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradlint.exit_code import WRONG
from gradlint.formats import FORMATS
from gradlint.sections import SectionedCommand, section

if TYPE_CHECKING:
    from gradlint.cache import Cache, Digests
    from gradlint.engine import Engine
    from gradlint.result import Result
    from gradlint.settings import Settings
    from gradlint.targets import Target

ADOPTION = ("baseline", "no_baseline", "update_baseline", "changed_since", "add_ignore", "reason")
"""Options that a team adopts gradlint with, see `gradlint.adoption`."""

STDIN = Path("-")
"""The path that stands for standard input."""

_rules = section("Rules")
_models = section("Models and measuring")
_reports = section("Report")
_fixes = section("Fixes and suppressions")
_adoption = section("New findings only")
_files = section("Files")


def _split(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for item in value for part in item.split(",") if part.strip())


def _codes(flag: str, text: str) -> Callable[[Any], Any]:
    return _rules(flag, multiple=True, callback=_split, metavar="CODES", help=text)


def _file(flag: str, *names: str, at: Callable[..., Any], text: str) -> Callable[[Any], Any]:
    kind = click.Path(path_type=Path, dir_okay=False)
    return at(flag, *names, type=kind, metavar="FILE", help=text)  # type: ignore[no-any-return]


@click.command(cls=SectionedCommand, short_help="Lint training scripts, notebooks and folders.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@_codes("--select", "Rules to run: codes, prefixes or names, comma-separated.")
@_codes("--ignore", "Rules to leave out.")
@_codes("--extend-select", "Rules to run beside the configured ones.")
@_models("--exec/--no-exec", "execute", default=None, help="Build models in a sandboxed worker, or only read.")
@_models("--probe/--no-probe", default=None, help="Measure one batch to settle findings.")
@_models("--real/--no-real", default=None, help="Run the scripts for their first steps to settle findings.")
@_models("--model", "models", multiple=True, metavar="TARGET", help="FILE.py:EXPR or module:attribute to check.")
@_models("--input", "input_spec", metavar="SPEC", help='Model input, as "1x3x224x224" or "int64:1x128<30522".')
@_models("--script-args", metavar="ARGS", help="Arguments the script would get on its command line.")
@_models("--python", metavar="PATH", help="Interpreter whose torch and packages build the models.")
@_models("--device", metavar="DEVICE", help="auto, cpu, cuda or mps.")
@_models("--seeds", type=click.IntRange(1), metavar="N", help="How many initialisations are drawn.")
@_models("--seed", type=int, metavar="N", help="The first seed.")
@_models(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Most that one model may take."
)
@_reports("--output-format", type=click.Choice(FORMATS), metavar="FORMAT", help=f"One of {', '.join(FORMATS)}.")
@_file("--output-file", "-o", at=_reports, text="Write the report there.")
@_reports("--report", "reports", multiple=True, metavar="FORMAT=FILE", help="Write a further report to a file.")
@_reports("--fail-on", type=click.Choice(["error", "warning", "info"]), help="Lowest severity that fails the run.")
@_reports("--exit-zero", is_flag=True, help="Exit 0 whatever was found.")
@_reports("--show-refuted", is_flag=True, help="Show findings that the measurement refuted.")
@_reports("--statistics", is_flag=True, help="Print how often each rule found something.")
@_fixes("--fix", "apply_fixes", is_flag=True, help="Write the fixes that are safe.")
@_fixes("--unsafe-fixes", is_flag=True, help="With --fix or --diff: those that may change behaviour too.")
@_fixes("--diff", "show_diff", is_flag=True, help="Print what --fix would change, write nothing.")
@_fixes("--add-ignore", is_flag=True, help="Write suppression comments for what is found.")
@_fixes("--reason", default="accepted", show_default=True, help="With --add-ignore: why.")
@_file("--baseline", at=_adoption, text="File of accepted findings.")
@_adoption("--no-baseline", is_flag=True, help="Leave the configured baseline aside.")
@_adoption("--update-baseline", is_flag=True, help="Accept what is found now: write it to the baseline.")
@_adoption("--changed-since", metavar="REF", help="Only findings on lines changed since that commit or branch.")
@_files("--extend-exclude", multiple=True, metavar="PATTERN", help="Leave out files beside the configured ones.")
@_files("--force-exclude", is_flag=True, help="Apply exclusions to what is named, too.")
@_files("--stdin-filename", type=click.Path(path_type=Path), metavar="FILE", help="Check standard input as this file.")
@_file("--config", "config_path", at=_files, text="Configuration file.")
@_files("--show-files", is_flag=True, help="List the files that would be checked.")
@_files("--show-settings", is_flag=True, help="Print the settings that would be used.")
@click.option("--watch", is_flag=True, help="Check again whenever a file changes; runs no code without --exec.")
@click.option(
    "--jobs", "-j", type=click.IntRange(1), metavar="N", help="Processes that read files [one for each core]."
)
@click.option("--cache/--no-cache", "use_cache", default=True, help="With --no-exec: repeat what has not changed.")
def check(watch: bool, **options: Any) -> None:
    """Lint training scripts, notebooks and folders (default: the working folder; `-` is standard input).

    Exits 0 where nothing is found at or above `--fail-on`, 1 with findings, 2 where something is wrong.
    """
    if watch:
        from gradlint.watching import watched

        sys.exit(watched(options, run))
    from gradlint.cache import remembered

    sys.exit(remembered(options, run))


@dataclass
class _Task:
    """What one run is to look at."""

    settings: Settings
    engine: Engine
    files: list[Path]
    stdin: tuple[Path, str] | None
    targets: list[Target]


def run(
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
    digests: Digests | None = None,
    **overrides: Any,
) -> int:
    """One run of `gradlint check`; the exit code."""
    from gradlint.adoption import Adoption, AdoptionError
    from gradlint.baseline import BaselineError
    from gradlint.changes import ChangesError
    from gradlint.collecting import collect_seldom
    from gradlint.config import ConfigError
    from gradlint.discover import MissingPathError
    from gradlint.graph.input_grammar import InputSpecError, parse_spec
    from gradlint.progress import progress
    from gradlint.reporting import further_report, render, report, written
    from gradlint.rule import RuleError
    from gradlint.settings import settings
    from gradlint.source.project import UnreadableError
    from gradlint.targets import TargetError

    more = [further_report(text) for text in reports]
    adoption = Adoption(**{option: overrides.pop(option) for option in ADOPTION})
    if STDIN in paths:
        paths, stdin_filename = tuple(p for p in paths if p != STDIN), stdin_filename or STDIN
    try:
        found = settings(config_path, paths or ((stdin_filename,) if stdin_filename else ()), overrides)
        if show_settings:
            from gradlint.report import settings as shown

            click.echo(shown.render(found.config, found.path), nl=False)
            return 0
        if show_files:
            click.echo("".join(f"{f.as_posix()}\n" for f in _found(paths or (Path(),), found, force_exclude)), nl=False)
            return 0
        if input_spec is not None:
            parse_spec(input_spec)
        if stdin_filename and adoption.writes:
            raise AdoptionError("--add-ignore and --update-baseline take files, not standard input")
        task = _task(paths, models, found, force_exclude, stdin_filename)
        start = paths[0] if paths else stdin_filename or Path()
        adoption.prepare(start if start.is_dir() else start.parent, found.baseline)
    except (
        AdoptionError, BaselineError, ChangesError, ConfigError, InputSpecError, MissingPathError, RuleError,
        TargetError, UnreadableError,
    ) as error:  # fmt: skip
        return _wrong(error)
    collect_seldom()
    engine, files, stdin = task.engine, task.files, task.stdin
    engine.input_spec, engine.jobs, engine.digests = input_spec, jobs or 0, digests
    with progress() as engine.progress:
        result = adoption.narrowed(engine.run(files, stdin), files)
    unread = _unread(result, [*paths, *([stdin_filename] if stdin_filename else [])])
    if adoption.writes:
        try:
            click.echo("".join(f"{line}\n" for line in adoption.write(result, files)), err=True, nl=False)
        except (AdoptionError, BaselineError) as error:
            return _wrong(error)
        return WRONG if result.failures or unread else 0
    if show_diff or apply_fixes:
        result = _fix(result, unsafe_fixes, apply_fixes and not show_diff, stdin)
        if result is None:
            return WRONG
    aside = stdin is not None and apply_fixes  # then standard output is the fixed text
    if not show_diff and not report(result, found.config, show_refuted, statistics, output_file, aside):
        return WRONG
    if not all(written(render(result, form, show_refuted), path) for form, path in more):
        return WRONG
    if not files and stdin is None and not task.targets:
        click.echo("warning: no Python files or notebooks found", err=True)
    for reason in (*unread, *(s.reason for s in result.unbuilt)):
        click.echo(f"error: {reason}", err=True)
    if result.failures or unread or result.unbuilt:
        return WRONG
    if cache is not None:
        _remember(cache, task, paths, config_path, adoption.baseline)
    return 1 if result.reaches(found.config.fail_on) and not exit_zero else 0


def _wrong(error: Exception) -> int:
    click.echo(f"error: {error}", err=True)
    return WRONG


def _found(paths: Sequence[Path], found: Settings, force_exclude: bool) -> list[Path]:
    from gradlint.discover import discover

    return discover(paths, found.exclude, force_exclude, found.home)


def _task(
    paths: tuple[Path, ...], models: tuple[str, ...], found: Settings, force_exclude: bool, stdin_filename: Path | None
) -> _Task:
    """What to look at: the paths and models that are named, else the working folder and the configured models."""
    from gradlint.discover import Exclusion
    from gradlint.engine import Engine, default_root
    from gradlint.source.project import decode
    from gradlint.targets import configured_targets, parse_target

    targets = [parse_target(text, Path.cwd()) for text in models]
    if not paths and not models and not stdin_filename:
        targets += configured_targets(found.config.models, found.home)
    named = list(paths) or ([] if stdin_filename or models else [Path()])
    files = _found(named, found, force_exclude)
    stdin = None
    if stdin_filename:
        _lead_somewhere(stdin_filename)
    if stdin_filename and not (force_exclude and Exclusion(found.home, found.exclude).covers(stdin_filename)):
        stdin = (stdin_filename, decode(sys.stdin.buffer.read()))
    inside = [t.path for t in targets if t.path] if not named else []
    root = default_root([*named, *inside, *([stdin_filename] if stdin_filename else [])])
    return _Task(found, Engine(found.config, root, targets=targets, home=found.home), files, stdin, targets)


def _lead_somewhere(path: Path) -> None:
    """Raises UnreadableError for a path whose links go round in a circle."""
    from gradlint.source.project import UnreadableError

    try:
        path.resolve()
        path.stat()  # Since Python 3.13 a circle is resolved to itself.
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) or error.errno == errno.ELOOP:
            raise UnreadableError(f"{path}: its links go round in a circle") from error


def _unread(result: Result, named: Sequence[Path]) -> list[str]:
    """What is to be said of files that were named, not merely met, and could not be read."""
    wanted = {str(path.resolve()) for path in named}
    return [f"{result.relative(s.location.path)}: {s.reason}" for s in result.unread if s.location.path in wanted]


def _remember(
    cache: Cache, task: _Task, paths: Sequence[Path], config_path: Path | None, baseline: Path | None
) -> None:
    """Tell the cache what the run has read, where a later run can tell whether it still holds."""
    from gradlint.cache import Seen
    from gradlint.rule import files_of_packs

    found = task.settings
    if not task.files or task.stdin or task.targets or found.config.exec or found.config.extend is not None:
        return
    start = (paths[0] if paths else Path()).resolve()
    read = [p / "pyproject.toml" for p in (start, *start.parents)] + [p for p in (config_path, baseline) if p]
    read += map(Path, files_of_packs(task.engine.rules))
    cache.seen = Seen(task.engine.root, task.files, found.exclude, read, task.engine.trail, found.home)


def _fix(result: Result, unsafe: bool, write: bool, stdin: tuple[Path, str] | None) -> Any:
    """Write the fixes, or print them as a diff; the result without what was fixed, None after a failed write.

    Standard input is printed as it is with its fixes.
    """
    from gradlint import fixing
    from gradlint.source.project import UnreadableError

    cured: set[int] = set()
    piped, text = (str(stdin[0].resolve()), stdin[1]) if stdin else (None, "")
    for file in fixing.fixed(result.findings, unsafe, {piped: text} if piped else None):
        name = result.relative(str(file.path))
        if not write:
            click.echo(file.diff(name), nl=False)
            continue
        if str(file.path) == piped:
            text = file.changes[0].after
        else:
            try:
                fixing.write(file)
            except (OSError, UnicodeEncodeError, UnreadableError) as error:
                click.echo(f"error: {name}: not fixed: {error}", err=True)
                return None
            dropped = f", {file.dropped} thrown away" if file.dropped else ""
            click.echo(f"fixed {name}: {len(file.applied)} applied{dropped}", err=True)
        cured.update(map(id, file.applied))
    if write and piped is not None:
        click.echo(text, nl=False)
    return replace(result, findings=tuple(f for f in result.findings if id(f) not in cured))
