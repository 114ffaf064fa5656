"""Where the training of a model begins: what is done to it before belongs to its start."""

from __future__ import annotations

import ast
import re

from gradlint.source.slice_names import FUNCTIONS, is_compound, names_bound, names_read, targets_of
from gradlint.source.slice_scopes import Scope, Scopes
from gradlint.source.walking import walk

_TRAINS = re.compile(r"\.(backward|step)\(")
_TRAINING_NAME = re.compile(r"^_?(pre_?)?(train|fit|learn|run|fine_?tune|optimi[sz]e|main)", re.IGNORECASE)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


def until_training(scopes: Scopes, scope: Scope, name: str, line: int) -> int:
    """The line of the first statement behind `line` that trains, or that puts another model in the name.

    `line` itself if there is none: what comes then may be anything.
    """
    defined = set(scopes.function_texts)
    training = {n for n, text in scopes.function_texts.items() if _TRAINING_NAME.match(n) or _TRAINS.search(text)}
    for statement in scope.statements:
        if statement.lineno <= line or isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
            continue
        if _rebinds(statement, name) or _trains(statement, defined, training):
            return statement.lineno
    return line


def _rebinds(statement: ast.stmt, name: str) -> bool:
    value = getattr(statement, "value", None)
    if value is None or not targets_of(statement):
        return False
    return name in names_bound(statement) and name not in names_read(value)


def _trains(statement: ast.stmt, defined: set[str], training: set[str]) -> bool:
    if is_compound(statement) and not isinstance(statement, _LOOPS):
        return False  # Its statements come one by one.
    if _TRAINS.search(ast.unparse(statement)):
        return True
    return any(isinstance(n, ast.Call) and _is_training(n, defined, training) for n in walk(statement))


def _is_training(call: ast.Call, defined: set[str], training: set[str]) -> bool:
    last = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if last in defined:
        return last in training
    mode = last == "train" and all(isinstance(a, ast.Constant) for a in call.args)
    return bool(_TRAINING_NAME.match(last)) and not mode
