"""What a call passes under a name: a keyword that is written out, or an entry of a `**mapping`."""

from __future__ import annotations

import ast

from gradlint.source.evaluation import Evaluation
from gradlint.source.index import Scope
from gradlint.source.things import Frame, Things, Unknown


def passed(evaluator: Evaluation, call: ast.Call, name: str, scope: Scope, frame: Frame | None) -> Things:
    """What a call passes as `name=`, or in the mappings that it spreads; empty if nothing that can be read."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return evaluator.evaluate(keyword.value, scope, frame)
    return spread(evaluator, call, name, scope, frame)


def spread(evaluator: Evaluation, call: ast.Call, name: str, scope: Scope, frame: Frame | None) -> Things:
    """What the `**mapping` of a call holds under a name; empty if it has none or holds nothing there."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            continue
        things = evaluator.evaluate(keyword.value, scope, frame)
        found = tuple(e for t in things for e in evaluator.item(t, name) if not isinstance(e, Unknown))
        if found:
            return found
    return ()
