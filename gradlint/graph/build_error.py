"""The one error of building a model."""

from __future__ import annotations

from gradlint.location import Location


class BuildError(Exception):
    """The model cannot be built; the message is one line, `location` the user's line that failed."""

    def __init__(self, reason: str, location: Location | None = None) -> None:
        super().__init__(reason)
        self.location = location
