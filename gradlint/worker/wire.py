"""Frozen dataclasses to JSON lines and back, with the standard library alone."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def encode(value: Any) -> bytes:
    """A dataclass as one line of JSON; NaN and infinities are written as Python's `json` reads them."""
    return json.dumps(_plain(value), separators=(",", ":")).encode() + b"\n"


def tagged(value: Any) -> bytes:
    """As `encode`, with the class name under "type", for a reader that expects one of several classes."""
    return encode({"type": type(value).__name__, **{f.name: getattr(value, f.name) for f in dataclasses.fields(value)}})


def _plain(value: Any) -> Any:
    match value:
        case bool() | None:
            return value
        case str():
            return str(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case dict():
            return {str(k): _plain(v) for k, v in value.items()}
        case tuple() | list() | set() | frozenset():
            return [_plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return str(value)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def decode(cls: type[T], data: Any) -> T:
    """Plain JSON data as that dataclass; unknown keys are dropped. Raises TypeError for what does not fit."""
    found: T = _typed(cls, data)
    return found


def _typed(hint: Any, data: Any) -> Any:
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        return _typed(next(a for a in arguments if a is not type(None)), data)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(data, dict):
            raise TypeError(f"{hint.__name__} expected, not {type(data).__name__}")
        hints = _hints(hint)
        return hint(**{k: _typed(hints[k], v) for k, v in data.items() if k in hints})
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_typed(arguments[0], v) for v in data)
        return tuple(_typed(a, v) for a, v in zip(arguments, data, strict=True))
    if origin is list:
        return [_typed(arguments[0], v) for v in data]
    if origin is dict:
        return {_typed(arguments[0], k): _typed(arguments[1], v) for k, v in data.items()}
    if hint is float and isinstance(data, int):
        return float(data)
    if isinstance(hint, type) and hint in (str, int, float, bool) and not isinstance(data, hint):
        raise TypeError(f"{hint.__name__} expected, not {type(data).__name__}")
    return data
