"""What `hydra.utils.instantiate(cfg.model)` makes for the source reader."""

from __future__ import annotations

from typing import Any

from gradlint.source.hydra_configuration import WORDS, is_open, target_of
from gradlint.source.reader.machine import Machine, canonical
from gradlint.source.reader.values import External, Frame, Instance, Native, Site, Unknown


def instantiated(machine: Machine, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
    """The value of `instantiate(config, *args, **kwargs)`."""
    table = _table(args[0] if args else kwargs.get("config"))
    if table is None:
        return Unknown("the configuration of what is instantiated is not known")
    given = {k: v for k, v in kwargs.items() if k != "config"}
    return _made(machine, table, args[1:], given, site)


def _made(machine: Machine, table: dict[str, Any], args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
    target, old = target_of(table)
    inside = (_table(table.get("params")) or {}) if old else table
    if not isinstance(target, str):
        return Unknown("no `_target_` is written")
    words = table | kwargs
    nested = words.get("_recursive_") is not False
    own = {k: _value(machine, k, v, site, nested) for k, v in inside.items() if k not in WORDS}
    passed = own | {k: v for k, v in kwargs.items() if k not in WORDS}
    callee = _named(machine, target, site)
    if words.get("_partial_") is True:
        return Native("partial", lambda a, k, s: machine.call(callee, [*args, *a], passed | k, s))
    return machine.call(callee, args, passed, site)


def _value(machine: Machine, name: str, value: Any, site: Site, nested: bool) -> Any:
    table = _table(value)
    if nested and table is not None and "_target_" in table:
        return _made(machine, table, [], {}, site)
    return Unknown(f"the configuration leaves `{name}` open") if is_open(value) else value


def _table(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Instance) and value.cls is None:
        return value.attributes
    return value if isinstance(value, dict) else None


def _named(machine: Machine, target: str, site: Site) -> Any:
    """What a dotted name means from anywhere in the project."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        file = machine.project.module(".".join(parts[:cut]), site.file)
        if file is not None:
            value: Any = machine.file_frame(file)
            for part in parts[cut:]:
                value = machine.attribute(value, part, site) if isinstance(value, Frame) else Unknown(f"`{target}`")
            return value
    return External(canonical(target))
