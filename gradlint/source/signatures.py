"""What a call passes for a parameter of a project function, and what the parameter holds by default."""

from __future__ import annotations

import ast

from gradlint.source.index import (
    Scope,
)


def argument(call: ast.Call, function: Scope, name: str) -> ast.expr | None:
    """The expression that a call passes for a parameter of a project function, or None."""
    arguments = function.parameters
    if arguments is None:
        return None
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if name not in names:
        return None
    shift = 1 if function.owner_class is not None and not function.is_static else 0
    position = names.index(name) - shift
    given = call.args[: position + 1]
    if position < 0 or len(given) <= position or any(isinstance(a, ast.Starred) for a in given):
        return None
    return given[position]


def parameter_default(function: Scope, name: str) -> ast.expr | None:
    """The default expression of a parameter, or None."""
    arguments = function.parameters
    if arguments is None:
        return None
    positional = [*arguments.posonlyargs, *arguments.args]
    offset = len(positional) - len(arguments.defaults)
    for i, parameter in enumerate(positional):
        if parameter.arg == name:
            return arguments.defaults[i - offset] if i >= offset else None
    for parameter, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if parameter.arg == name:
            return default
    return None
