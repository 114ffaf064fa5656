"""`timm.optim.create_optimizer(args, model)` as the constructor that it comes to."""

from __future__ import annotations

import ast

_ALGORITHMS = {
    "sgd": "SGD",
    "nesterov": "SGD",
    "momentum": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adamax": "Adamax",
    "adadelta": "Adadelta",
    "adagrad": "Adagrad",
    "adamp": "AdamP",
    "sgdp": "SGDP",
    "rmsprop": "RMSprop",
    "lamb": "Lamb",
    "lion": "Lion",
}
"""What the option `opt` names (timm's documentation of `create_optimizer_v2`)."""


def algorithm_of(option: object) -> str | None:
    """The algorithm that a value of the option `opt` names, or None."""
    return _ALGORITHMS.get(option.lower()) if isinstance(option, str) else None


def spelled_out(call: ast.Call) -> ast.Call | None:
    """`create_optimizer(args, model)` with `params`, `lr`, `momentum` and `opt` as keywords; None for another call."""
    named = {k.arg: k.value for k in call.keywords}
    match call.args:
        case [arguments, model, *_]:
            pass
        case [arguments] if "model" in named:
            model = named["model"]
        case _:
            return None
    if isinstance(arguments, ast.Starred) or isinstance(model, ast.Starred):
        return None
    taken = {n: ast.copy_location(ast.Attribute(arguments, n, ast.Load()), call) for n in ("lr", "momentum", "opt")}
    parameters = ast.copy_location(ast.Attribute(model, "parameters", ast.Load()), call)
    given = {"params": ast.copy_location(ast.Call(parameters, [], []), call), **taken}
    return ast.copy_location(ast.Call(call.func, [], [ast.keyword(n, v) for n, v in given.items()]), call)
