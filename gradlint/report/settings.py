"""What `--show-settings` prints: the settings that a run would use, and where they come from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from gradlint.config import Config, selected


def render(config: Config, path: Path | None) -> str:
    """TOML: the configuration with the command line laid over it, the rules that are on, and all their options."""
    rules = selected(config)
    lines = [f"# {path or 'no configuration file: defaults'}", "[tool.gradlint]"]
    tables = ("per-file-ignores", "models", "rules")
    settings = msgspec.to_builtins(config)
    lines += [f"{key} = {_toml(value)}" for key, value in settings.items() if key not in tables and value is not None]
    for key in tables[:2]:
        if settings[key]:
            lines += ["", f"[tool.gradlint.{key}]", *_pairs(settings[key])]
    lines += ["", f"# rules that are on: {', '.join(r.code for r in rules) or 'none'}"]
    for rule in rules:
        options = msgspec.to_builtins(rule.options)
        if options:
            lines += ["", f"[tool.gradlint.rules.{rule.name}]", *_pairs(options)]
    return "\n".join(lines) + "\n"


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{_key(k)} = {_toml(v)}" for k, v in table.items() if v is not None]


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else _toml(key)


def _toml(value: Any) -> str:
    match value:
        case dict():
            return "{ " + ", ".join(_pairs(value)) + " }" if value else "{}"
        case list() | tuple():
            return f"[{', '.join(_toml(v) for v in value)}]"
        case float() if not math.isfinite(value):
            return str(value)
        case _:
            return msgspec.json.encode(value).decode()
