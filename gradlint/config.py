"""Settings from `[tool.gradlint]` of the nearest pyproject.toml, validated."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from pathspec import GitIgnoreSpec

from gradlint.finding import Finding, Severity
from gradlint.formats import Format
from gradlint.rule import MOST, Count, Rule, RuleOptions, registry

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover -- the backport has the same interface
    import tomli as tomllib

Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Device = Annotated[str, msgspec.Meta(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


class ConfigError(Exception):
    """The configuration cannot be used; the message is one line with the file and the key's path."""


class ModelTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A model listed under `[tool.gradlint.models]`: `target` is `FILE.py:EXPR` or `module:attr`, `input` its
    input ("1x3x224x224")."""

    target: str
    input: str | None = None


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """What `[tool.gradlint]` may say; the command line's options of the same name win.

    `select`, `ignore` and the like hold codes, prefixes of codes ("GL4") or names. `exec` False never runs code
    of the project. `real` runs training scripts for their first steps to settle what their own batches alone can.
    `seeds` is how many inits are drawn, `seed` the first of them. `timeout` is the wall-clock
    limit for one model in seconds, `memory` the resident limit in MiB. `baseline`, a file of accepted findings, and the
    path of an interpreter in `python` are relative to the file that names them. Patterns are told from its folder.
    """

    select: tuple[str, ...] = ("GL",)
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = (
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "venv",
        ".tox",
        ".nox",
        ".eggs",
        ".ipynb_checkpoints",
        "node_modules",
        "__pycache__",
        "site-packages",
        "build",
        "dist",
    )
    extend_exclude: tuple[str, ...] = ()
    per_file_ignores: dict[str, tuple[str, ...]] = {}
    extend: str | None = None
    baseline: str | None = None
    exec: bool = True
    probe: bool = True
    real: bool = False
    device: Device = "auto"
    seeds: Count = 3
    seed: Seed = 0
    batch_size: Count = 32
    timeout: Seconds = 60.0
    memory: Count = 8192
    fail_on: Severity = Severity.WARNING
    output_format: Format | None = None
    python: str | None = None
    script_args: tuple[str, ...] = ()
    models: dict[str, str | ModelTarget] = {}
    rules: dict[str, dict[str, Any]] = {}


def find(start: Path) -> Path | None:
    """The nearest pyproject.toml at or above `start` that has a `[tool.gradlint]` table."""
    for folder in (start, *start.parents):
        candidate = folder / "pyproject.toml"
        if candidate.is_file() and _table(candidate, required=False) is not None:
            return candidate
    return None


def load(path: Path | None) -> Config:
    """The settings in that file, or the defaults for None. Raises ConfigError."""
    if path is None:
        return Config()
    table = _extended(path, seen=())
    try:
        config = msgspec.convert(table, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{shown(path)}: {_explain(str(error))}") from error
    if config.python is not None:
        config = msgspec.structs.replace(config, python=_interpreter(config.python, path.resolve().parent))
    for name in config.rules:
        options_of(name, config, path)
    for key in ("select", "extend_select", "ignore"):
        _check_selectors(getattr(config, key), f"tool.gradlint.{key.replace('_', '-')}", path)
    for pattern, codes in config.per_file_ignores.items():
        _check_selectors(codes, f'tool.gradlint.per-file-ignores."{pattern}"', path)
    return config


def with_options(config: Config, options: Mapping[str, Any]) -> Config:
    """The settings with options of the command line laid over them. Raises ConfigError for an impossible value."""
    laid = msgspec.structs.replace(config, **options)
    try:
        msgspec.convert(msgspec.to_builtins(laid), Config, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), "-").replace("-.", "--", 1)) from error
    return laid


def options_of(name: str, config: Config, path: Path | None = None) -> RuleOptions:
    """A rule's options by its name or code as validated, its defaults where the table says nothing."""
    rule = _rule(name)
    if rule is None:
        close = difflib.get_close_matches(name, [r.name for r in registry().values()], n=1)
        hint = f", did you mean `{close[0]}`?" if close else ""
        raise ConfigError(f"{shown(path)}: tool.gradlint.rules.{name}: no such rule{hint}")
    table = {**config.rules.get(rule.code, {}), **config.rules.get(rule.name, {})}
    try:
        return msgspec.convert(table, rule.Options, strict=True)
    except msgspec.ValidationError as error:
        detail = _explain(str(error), f"tool.gradlint.rules.{name}", rule.Options)
        raise ConfigError(f"{shown(path)}: {detail}") from error


def selected(config: Config) -> list[Rule]:
    """The rules that are switched on, with their options, by code.

    As in ruff the most specific selector wins: `select = ["GL4"]`, `ignore = ["GL401"]` leaves the rest of GL4.
    """
    rules = []
    for code, rule in registry().items():
        wanted = max((_weight(s, rule) for s in (*config.select, *config.extend_select)), default=0)
        unwanted = max((_weight(s, rule) for s in config.ignore), default=0)
        if wanted > unwanted:
            rules.append(rule(options_of(code, config)))
    return rules


def matches(selector: str, code: str, name: str) -> bool:
    """Whether a selector (code, prefix of a code, or name) means this rule."""
    return selector == name or (selector.isupper() and code.startswith(selector)) or selector == "ALL"


def _weight(selector: str, rule: type[Rule]) -> int:
    """How specific a matching selector is, 0 where it does not match."""
    if not matches(selector, rule.code, rule.name):
        return 0
    return 99 if selector == rule.name else 1 if selector == "ALL" else len(selector)


def ignored_in(finding: Finding, path: str, config: Config) -> bool:
    """Whether `per-file-ignores` switches the finding off in the file of that path (relative to the root)."""
    return any(
        any(matches(c, finding.code, finding.name) for c in codes)
        and GitIgnoreSpec.from_lines([pattern]).match_file(path)
        for pattern, codes in config.per_file_ignores.items()
    )


def check_selectors(selectors: tuple[str, ...], where: str) -> None:
    """Raise ConfigError for a selector that means no rule."""
    for selector in selectors:
        if not any(matches(selector, r.code, r.name) for r in registry().values()):
            names = [*registry(), *(r.name for r in registry().values())]
            close = difflib.get_close_matches(selector, names, n=1)
            hint = f", did you mean `{close[0]}`?" if close else ""
            raise ConfigError(f"{where}: `{selector}` means no rule{hint}")


def _check_selectors(selectors: tuple[str, ...], key: str, path: Path) -> None:
    check_selectors(selectors, f"{shown(path)}: {key}")


def _rule(name: str) -> type[Rule] | None:
    return next((r for r in registry().values() if name in (r.code, r.name)), None)


def _table(path: Path, required: bool = True) -> dict[str, Any] | None:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{shown(path)}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown(path)}: not valid TOML: {error}") from error
    tool = document.get("tool", {})
    table = tool.get("gradlint") if isinstance(tool, dict) else None
    if table is None and required:
        # A file of its own (`--config gradlint.toml`) may leave the `[tool.gradlint]` header out.
        table = {} if path.name == "pyproject.toml" else document
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"{shown(path)}: tool.gradlint: expected a table")
    return table


def _extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The table with the one it extends beneath it; tables in it are merged key by key."""
    if path in seen:
        raise ConfigError(f"{shown(path)}: tool.gradlint.extend: the files extend each other in a circle")
    table = _table(path) or {}
    base = table.get("extend")
    if not isinstance(base, str):
        return table
    extended = (path.parent / Path(base).expanduser()).resolve()
    under, folder = _extended(extended, (*seen, path)), extended.parent
    if isinstance(under.get("baseline"), str):
        under["baseline"] = str(folder / under["baseline"])
    if isinstance(under.get("python"), str):
        under["python"] = _interpreter(under["python"], folder)
    merged = {**under, **table}
    for key in ("per-file-ignores", "models", "rules"):
        if isinstance(under.get(key), dict) and isinstance(table.get(key), dict):
            merged[key] = {**under[key], **table[key]}
    return merged


def _interpreter(python: str, folder: Path) -> str:
    """An interpreter that a configuration in `folder` names: a path as seen from there, a bare name as it is."""
    named = Path(python).expanduser()
    return python if named.name == python else str(folder / named)


_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)


def _explain(message: str, base: str = "tool.gradlint", struct: type[msgspec.Struct] = Config) -> str:
    """msgspec's message with the key's full path in front: "tool.gradlint.seeds: expected `int`, got `str`"."""
    found = _AT.match(message)
    assert found is not None
    what, where = found["what"].replace("Object ", "Table ").replace("`object`", "`table`"), found["path"] or ""
    what = what.replace(f"`float` <= {MOST}", "a finite number")
    if "matching regex" in what:  # of all keys, `device` alone has a pattern
        what = "expected auto, cpu, cuda, cuda:N or mps"
    if "[...]" in where:  # msgspec does not name the key of a mapping's value
        where = where.replace("[...]", "")
    unknown = re.search(r"unknown field `(.*?)`", what)
    key = f"{base}{where}"
    if unknown:
        known = [f.encode_name for f in msgspec.structs.fields(struct)] if not where else []
        close = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f", did you mean `{close[0]}`?" if close else ""
        return f"{key}.{unknown[1]}: unknown key{hint}"
    if what.startswith("Invalid enum value") and (choices := _choices(struct, where.lstrip("."))):
        what += f", expected {', '.join(f'`{c}`' for c in choices)}"
    return f"{key}: {what[:1].lower()}{what[1:]}"


def _choices(struct: type[msgspec.Struct], key: str) -> list[str]:
    """The values that a key of closed choice may have, none where the key is deeper than that."""
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    kinds = [f.type for f in info.fields if f.encode_name == key]
    found: list[str] = []
    for kind in kinds:
        match kind:
            case msgspec.inspect.EnumType(cls=choices):
                found += [c.value for c in choices]
            case msgspec.inspect.UnionType(types=types):
                found += [str(v) for t in types if isinstance(t, msgspec.inspect.LiteralType) for v in t.values]
    return found


def shown(path: Path | None) -> str:
    """A configuration file as messages name it: from the working folder, where it lies below that."""
    if path is None:
        return "configuration"
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative.replace(os.sep, "/")
