"""Functions that are chosen by the type of a value or of a syntax node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class ByType(dict[type, Callable[..., Any]]):
    """The function for each type: that of the type itself or of the nearest of its bases, looked for once a type."""

    def __init__(self, registered: Mapping[type, Callable[..., Any]], otherwise: Callable[..., Any]) -> None:
        super().__init__(registered)
        self._registered = dict(registered)
        self._otherwise = otherwise

    def __missing__(self, kind: type) -> Callable[..., Any]:
        nearest = (self._registered[base] for base in kind.__mro__ if base in self._registered)
        found = self[kind] = next(nearest, self._otherwise)
        return found
