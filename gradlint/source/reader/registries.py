"""What a project's registries give back to the source reader: `MODELS.get(name)`, `timm.create_model(name)`."""

from __future__ import annotations

from typing import Any

from gradlint.source.callers import importers_of
from gradlint.source.project import SourceFile
from gradlint.source.reader.machine import Machine
from gradlint.source.reader.values import Function, Instance, Native, Site, UserClass
from gradlint.source.registrations import KINDS, LOOK_UPS, TIMM_REGISTRY, TIMM_WORDS, is_registry, registered

_OUTSIDE = "*registry*"


def outside_registry(home: SourceFile) -> Instance:
    """A registry whose class is not written in the project."""
    return Instance(None, {_OUTSIDE: home}, open=True)


def created_by_timm(machine: Machine, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
    """What `timm.create_model` makes of a network that the project registered; None for timm's own."""
    key = args[0] if args else kwargs.get("model_name")
    found = _registered(machine, TIMM_REGISTRY, key, None) if isinstance(key, str) else None
    if found is None:
        return None
    # timm leaves out what is None, for the registered function to fill in.
    passed = {k: v for k, v in kwargs.items() if k not in TIMM_WORDS and v is not None}
    return machine.call(found, args[1:], passed, site)


def look_up(machine: Machine, registry: Instance, name: str, otherwise: Any) -> Any:
    """The method `name` of a registry; what it does not find among the decorators it asks `otherwise` for."""

    def taken(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        first = args[0] if args else None
        table = first.attributes if isinstance(first, Instance) and first.cls is None else first
        if name == "build":
            key = next((table[k] for k in KINDS if k in table), None) if isinstance(table, dict) else None
        else:
            key = first
        found = _of(machine, registry, key) if isinstance(key, str) else None
        if found is None:
            return machine.call(otherwise, args, kwargs, site)
        if name != "build":
            return found
        own = {k: v for k, v in table.items() if k not in KINDS} if isinstance(table, dict) else {}
        return machine.call(found, args[1:], own | kwargs, site)

    return Native(name, taken)


def is_look_up(value: Instance, name: str) -> bool:
    """Whether an attribute takes something out of a registry."""
    return name in LOOK_UPS and (is_registry(value.cls.name) if value.cls is not None else _OUTSIDE in value.attributes)


def _of(machine: Machine, registry: Instance, key: str) -> Any:
    for frame in list(machine.frames.values()):
        for name, value in list(frame.names.items()):
            found = _registered(machine, name, key, frame.file) if value is registry else None
            if found is not None:
                return found
    return None


def _registered(machine: Machine, registry: str, key: str, home: SourceFile | None) -> Any:
    place = registered(importers_of(machine.project), registry, key, home)
    found = machine.in_file(machine.file_frame(place[0]), place[1]) if place is not None else None
    return found if isinstance(found, (Function, UserClass)) else None
