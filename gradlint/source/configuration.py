"""Configuration files that a script reads: yaml, json, toml and ini, found next to it."""

from __future__ import annotations

import configparser
import json
import re
import sys
from pathlib import Path

from gradlint.location import Location
from gradlint.source.project import Project, SourceFile
from gradlint.source.value import Value

MAX_BYTES = 1 << 20

LOADERS = (
    "yaml.safe_load",
    "yaml.load",
    "yaml.full_load",
    "json.load",
    "toml.load",
    "tomllib.load",
    "tomli.load",
    "omegaconf.OmegaConf.load",
    "json.loads",
)
"""Calls whose value is the content of the file, or of the path, that they are given."""


def find(name: str, file: SourceFile, project: Project) -> Path | None:
    """The file that a relative name means to a script: next to it, in a folder above, within the project's root."""
    folder, root = Path(file.path).parent, project.root
    if Path(name).is_absolute() or not name or len(name) > 512:
        return None
    for base in (folder, *folder.parents):
        candidate = (base / name).resolve()
        project.trail.files |= {str(base / name), str(candidate)}  # A link may come to lead to another file.
        if candidate.is_file() and root in candidate.parents:
            return candidate
        if base == root:
            break
    return None


def load(path: Path) -> Value | None:
    """The content of a configuration file as one plain value, or None if it cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        text = path.read_text(encoding="utf-8-sig")
        content = _parse(text, path.suffix.lower())
    except (OSError, ValueError, RecursionError, configparser.Error):
        return None
    if not isinstance(content, (dict, list)):
        return None
    return Value(content, Location(str(path), 1), (f"`{path.name}`",))


def _parse(text: str, suffix: str) -> object:
    if suffix == ".json":
        return json.loads(text)
    if suffix == ".toml":
        return _toml(text)
    if suffix in {".ini", ".cfg", ".conf"}:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(text)
        return {s: dict(parser.items(s)) for s in parser.sections()}
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _toml(text: str) -> object:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def line_of(path: str, key: str) -> int | None:
    """The line of a configuration file that sets a key, if exactly one does."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    pattern = re.compile(rf"""^\s*["']?{re.escape(key)}["']?\s*[:=]""")
    found = [i for i, line in enumerate(lines, 1) if pattern.match(line)]
    return found[0] if len(found) == 1 else None
