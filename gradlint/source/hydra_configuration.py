"""The configuration that hydra hands to a function under `@hydra.main`, composed from the files beside the script."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlint.source import configuration
from gradlint.source.index import dotted

MAKERS = frozenset(["hydra.utils.instantiate", "hydra.utils.call"])
WORDS = frozenset(["_target_", "_partial_", "_args_", "_recursive_", "_convert_", "_self_"])
"""Keys of a table that say how it is instantiated, and are no arguments."""

_INTERPOLATED = re.compile(r"^\$\{([A-Za-z_][\w.]*)\}$")
_PACKAGE = re.compile(r"#\s*@package\s+(\S+)")
_FLOAT = re.compile(r"[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+")
_MAX_DEPTH = 8


def composed(decorators: Iterable[ast.expr], script: str, looked_at: set[str]) -> dict[str, Any] | None:
    """What `@hydra.main(config_path=…, config_name=…)` among the decorators passes on; None if there is none or its
    files are not at hand. The paths of the files are added to `looked_at`, whether they are there or not.
    """
    for decorator in decorators:
        if not isinstance(decorator, ast.Call) or not (dotted(decorator.func) or "").endswith("hydra.main"):
            continue
        given = dict(zip(("config_path", "config_name"), decorator.args, strict=False))
        given |= {k.arg: k.value for k in decorator.keywords if k.arg}
        words = {
            name: node.value
            for name, node in given.items()
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        if given.keys() & {"config_path"} > words.keys() & {"config_path"}:
            return None
        folder, name = Path(script).parent / words.get("config_path", "."), words.get("config_name", "config")
        unpackaged = folder.suffix in (".yaml", ".yml")
        if unpackaged:  # As hydra before 1.0 was told; its groups stand at the top.
            folder, name = folder.parent, folder.name
        found = _Composition(folder, looked_at, unpackaged).of(folder, name, 0)
        return _filled(found, found, 0) if found is not None else None
    return None


@dataclass
class _Composition:
    """Reads files with their defaults lists below `root`; `unpackaged`: no group stands under its name."""

    root: Path
    looked_at: set[str]
    unpackaged: bool

    def of(self, folder: Path, name: str, depth: int) -> dict[str, Any] | None:
        """A file with its groups under their names, itself last unless `_self_` says otherwise."""
        path = _file(folder, name)
        self.looked_at.add(str(path))
        loaded = configuration.load(path)
        if loaded is None or not isinstance(loaded.value, dict) or depth > _MAX_DEPTH:
            return None
        own = {k: v for k, v in loaded.value.items() if k not in ("defaults", "hydra")}
        defaults = loaded.value.get("defaults") or []
        found: dict[str, Any] = {}
        for entry in [*defaults, *([] if "_self_" in defaults else ["_self_"])]:
            if entry == "_self_":
                found = _merged(found, own)
            elif isinstance(entry, str):
                found = _merged(found, self.of(folder, entry, depth + 1) or {})
            elif isinstance(entry, dict):
                for key, option in entry.items():
                    found = _merged(found, self._group(folder, str(key), option, depth) or {})
        return found

    def _group(self, folder: Path, key: str, option: Any, depth: int) -> dict[str, Any] | None:
        """`- model: small`, as it is merged into the file that lists it."""
        group, _, package = key.removeprefix("override ").removeprefix("optional ").partition("@")
        base, group = (self.root, group[1:]) if group.startswith("/") else (folder, group)
        part = self.of(base / group, option, depth + 1) if isinstance(option, str) else None
        package = package or _declared_package(_file(base / group, f"{option}")) or group.replace("/", ".")
        if part is None or self.unpackaged or package == "_global_":
            return part
        for step in reversed(package.replace("_group_", group.replace("/", ".")).split(".")):
            part = {step: part}
        return part


def _file(folder: Path, name: str) -> Path:
    return folder / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")


def _declared_package(path: Path) -> str | None:
    """What `# @package …` at the head of a file says."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            found = _PACKAGE.match(lines.readline())
    except (OSError, UnicodeDecodeError):
        return None
    return found.group(1) if found else None


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def interpolated(content: Any) -> Any:
    """A configuration as OmegaConf reads it: `${model.width}` is what it names, `1e-3` is a number."""
    return _filled(content, content, 0)


def _filled(value: Any, whole: Any, depth: int) -> Any:
    """A part of `interpolated`; interpolations of another kind are left as they are written."""
    match value:
        case dict():
            return {str(k): _filled(v, whole, depth) for k, v in value.items()}
        case list():
            return [_filled(v, whole, depth) for v in value]
        case str() if depth < _MAX_DEPTH and (named := _INTERPOLATED.match(value)):
            found: Any = whole
            for key in named.group(1).split("."):
                if not isinstance(found, dict) or key not in found:
                    return value
                found = found[key]
            return _filled(found, whole, depth + 1)
        case str() if _FLOAT.fullmatch(value):
            return float(value)
        case bool() | int() | float() | str() | None:
            return value
    return str(value)


def target_of(table: dict[str, Any]) -> tuple[Any, bool]:
    """What a table names to be called, and whether as hydra before 1.0 was told: `class`, its arguments in `params`."""
    if table.get("_target_") is not None:
        return table["_target_"], False
    return next((table[k] for k in ("class", "cls", "target") if isinstance(table.get(k), str)), None), True


def is_open(value: object) -> bool:
    """Whether a configuration leaves a value to the command line (`???`) or to what is not read (`${oc.env:HOME}`)."""
    return isinstance(value, str) and (value == "???" or "${" in value)
