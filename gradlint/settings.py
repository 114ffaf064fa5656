"""What a run is set to: the configuration that holds for its paths, with the command line's options laid over it."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlint.config import Config, ConfigError, check_selectors, find, load, shown, with_options
from gradlint.finding import Severity


@dataclass(frozen=True)
class Settings:
    """The configuration of a run, and the file that it comes from (None: defaults)."""

    config: Config
    path: Path | None

    @property
    def home(self) -> Path:
        """The folder that paths and patterns of the configuration are told from."""
        return self.path.resolve().parent if self.path else Path.cwd()

    @property
    def exclude(self) -> tuple[str, ...]:
        """All patterns of files to leave out, told from `home`."""
        return (*self.config.exclude, *self.config.extend_exclude)

    @property
    def baseline(self) -> Path | None:
        """The file of accepted findings that the configuration names."""
        return self.home / self.config.baseline if self.config.baseline else None


def settings(config_path: Path | None, paths: Sequence[Path], options: Mapping[str, Any]) -> Settings:
    """The settings for these paths (none: the working folder); `options` that are None or () say nothing.

    Raises ConfigError.
    """
    start = Path(os.path.realpath(paths[0])) if paths else Path.cwd()
    folder = os.path.isdir(start)  # noqa: PTH112 -- `Path.is_dir` raises where a name is too long
    path = config_path or find(start if folder else start.parent)
    found = Settings(load(path), path)
    given = {k: v for k, v in options.items() if v not in (None, ())}
    for key in ("select", "ignore", "extend_select"):
        check_selectors(given.get(key, ()), f"--{key.replace('_', '-')}")
    if "execute" in given:
        given["exec"] = given.pop("execute")
    if "fail_on" in given:
        given["fail_on"] = Severity(given["fail_on"])
    if "script_args" in given:
        given["script_args"] = _words(given["script_args"])
    if "extend_exclude" in given:
        here = (told_from(found.home, pattern) for pattern in given["extend_exclude"])
        given["extend_exclude"] = (*found.config.extend_exclude, *here)
    config = with_options(found.config, given)
    if config.exec and config.python is not None and shutil.which(config.python) is None:
        where = "--python" if options.get("python") else f"{shown(path)}: tool.gradlint.python"
        raise ConfigError(f"{where}: no interpreter at {config.python}")
    return Settings(config, path)


def _words(line: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(line))
    except ValueError as error:
        raise ConfigError(f"--script-args: {str(error).lower()}: {line}") from error


def told_from(home: Path, pattern: str) -> str:
    """A gitignore pattern of the working folder as one of the folder `home` above it; others as they are."""
    here = Path.cwd().resolve()
    sign, plain = ("!", pattern[1:]) if pattern.startswith("!") else ("", pattern)
    if here == home or not here.is_relative_to(home) or "/" not in plain.rstrip("/"):
        return pattern
    return f"{sign}/{here.relative_to(home).as_posix()}/{plain.removeprefix('./').lstrip('/')}"
