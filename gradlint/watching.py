"""`gradlint check --watch`: the same check again whenever a file under the paths changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from gradlint.cache import Digests
from gradlint.exit_code import WRONG

REFUSED = {
    "apply_fixes": "--fix",
    "show_diff": "--diff",
    "update_baseline": "--update-baseline",
    "add_ignore": "--add-ignore",
    "stdin_filename": "--stdin-filename",
    "show_files": "--show-files",
    "show_settings": "--show-settings",
    "real": "--real",
}
"""Options that make no sense again and again, or write what is watched."""

NAMES = frozenset({"pyproject.toml", ".gitignore"})
SUFFIXES = (".py", ".ipynb", ".toml", ".yaml", ".yml", ".json")
"""Files that a report may depend on: sources, and configurations that scripts read."""

UNWATCHED = frozenset({".git", ".venv", "venv", "__pycache__", "node_modules", "site-packages", ".gradlint_cache"})

TICK = 250
"""Milliseconds after which a watch without a change says that it is on."""


def watched(options: dict[str, Any], run: Callable[..., int]) -> int:
    """Run the check now and after every change until it is interrupted; the exit code.

    Code of the project is built only where `--exec` is given: what is half-written should not be run unasked.
    """
    refused = [flag for name, flag in REFUSED.items() if options.get(name)]
    if refused or Path("-") in options["paths"]:
        click.echo(f"error: --watch only reports: leave {', '.join(refused) or 'standard input'} out", err=True)
        return WRONG
    try:
        from watchfiles import watch
    except ModuleNotFoundError:
        click.echo("error: --watch needs watchfiles: install the extra `gradlint-torch[watch]`", err=True)
        return WRONG
    options = {**options, "execute": bool(options["execute"])}
    keeps = options.pop("use_cache", True)
    roots = _roots(options["paths"] or (Path(),))
    missing = [path for path in options["paths"] if not path.exists()]
    if missing:
        click.echo(f"error: {missing[0]}: no such file or folder", err=True)
        return WRONG
    # The first look is taken once the watch is on, so that no change falls between the two.
    first = True
    watching = watch(
        *roots, watch_filter=lambda _, path: is_of_interest(path), rust_timeout=TICK, yield_on_timeout=True
    )
    with suppress(KeyboardInterrupt):  # between changes, or in the middle of a check
        for changes in watching:
            if first or changes:
                # A digest holds for one look at the files.
                options["digests"] = Digests() if keeps else None
                _once(options, run, sorted({Path(path).name for _, path in changes}))
                click.echo("watching for changes, end with Ctrl+C", err=True)
            first = False
    return 0


def is_of_interest(path: str) -> bool:
    """Whether a change of that file may change the report."""
    file = Path(path)
    return (file.suffix in SUFFIXES or file.name in NAMES) and UNWATCHED.isdisjoint(file.parts)


def _roots(paths: Iterable[Path]) -> list[Path]:
    """The folders to watch: a script is read together with the modules beside it."""
    folders = {(p if p.is_dir() else p.parent).resolve() for p in paths}
    return sorted(f for f in folders if not any(other in f.parents for other in folders))


def _once(options: Mapping[str, Any], run: Callable[..., int], changed: Iterable[str] = ()) -> None:
    if sys.stdout.isatty():
        click.clear()
    names = list(changed)
    if names:
        click.echo(f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''} changed", err=True)
    try:
        run(**options)
    except click.UsageError as error:
        error.show()
    sys.stdout.flush()
