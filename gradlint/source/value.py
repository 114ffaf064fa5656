"""A value that can reach a use in the source, with the way it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradlint.location import Location


@dataclass(frozen=True)
class Value:
    """One plain Python value (number, string, bool, None, tuple, list, dict) that can reach the use.

    `origin` is the place that decides it (the literal, the argparse default, the yaml line); `way` names the
    steps between ("argparse default of --lr"), outermost first, for messages. `conditional` is True when it
    only holds on some branch. `overridable` is True for command-line defaults: a user may pass another.
    """

    value: Any = field(hash=False)
    origin: Location
    way: tuple[str, ...] = ()
    conditional: bool = False
    overridable: bool = False


@dataclass(frozen=True)
class Resolution:
    """Every value that can reach a use, or why none is known. Nothing is ever guessed.

    Both may be present: some candidates, and a branch that could not be followed (`unknown`).
    """

    values: tuple[Value, ...] = ()
    unknown: str | None = None

    @property
    def only(self) -> Value | None:
        """The value, if there is exactly one and nothing is unknown."""
        return self.values[0] if len(self.values) == 1 and self.unknown is None else None

    def numbers(self) -> list[Value]:
        """The candidates that are numbers (bool excluded), smallest first."""
        found = [v for v in self.values if isinstance(v.value, (int, float)) and not isinstance(v.value, bool)]
        return sorted(found, key=lambda v: float(v.value))


UNKNOWN = Resolution(unknown="not written in the source")


@dataclass(frozen=True)
class Call:
    """A call as written: the callee's qualified-name candidates and where each argument resolves to.

    `callee` holds every candidate ("torch.optim.Adam"); `arguments` maps parameter names to resolutions,
    positional ones under their index as a string ("0").
    """

    callee: tuple[str, ...]
    location: Location
    arguments: dict[str, Resolution] = field(default_factory=dict, hash=False)
