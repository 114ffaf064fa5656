"""The configuration that hydra would hand to a script's main function, composed from the files beside it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from gradlint.source import configuration
from gradlint.source.slice_names import dotted
from gradlint.source.slice_scopes import Scope

_INTERPOLATED = re.compile(r"^\$\{([A-Za-z_][\w.]*)\}$")
_MAX_DEPTH = 8


def hydra_configuration(scope: Scope, parameter: str, script: str) -> dict[str, Any] | None:
    """What the first parameter of a function under `@hydra.main(config_path=…, config_name=…)` is; None if unknown."""
    if scope.function is None or scope.parameters[:1] != [parameter]:
        return None
    for decorator in scope.function.decorator_list:
        if not isinstance(decorator, ast.Call) or not dotted(decorator.func).endswith("hydra.main"):
            continue
        words = {
            k.arg: k.value.value
            for k in decorator.keywords
            if isinstance(k.value, ast.Constant) and isinstance(k.value.value, str)
        }
        name = words.get("config_name", "config")
        folder = Path(script).parent / words.get("config_path", ".")
        composed = _composed(folder, name, 0)
        return _filled(composed, composed, 0) if composed is not None else None
    return None


def _composed(folder: Path, name: str, depth: int) -> dict[str, Any] | None:
    """A file with its defaults list: groups under their names, itself last unless `_self_` says otherwise."""
    path = folder / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
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
            found = _merged(found, _composed(folder, entry, depth + 1) or {})
        elif isinstance(entry, dict):
            for key, option in entry.items():
                group = str(key).removeprefix("override ").removeprefix("optional ").lstrip("/")
                part = _composed(folder / group, str(option), depth + 1) if isinstance(option, str) else None
                if part is not None:
                    found = _merged(found, {group.rpartition("/")[2]: part})
    return found


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _filled(value: Any, whole: dict[str, Any], depth: int) -> Any:
    """`${model.width}` replaced by what it names; other interpolations are left as they are written."""
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
        case bool() | int() | float() | str() | None:
            return value
    return str(value)
