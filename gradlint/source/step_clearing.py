"""Whether anything clears the gradient that an optimizer steps on."""

from __future__ import annotations

import ast

from gradlint.source.evaluate import Evaluator
from gradlint.source.events import Event
from gradlint.source.models import Models
from gradlint.source.optimizers import Optimizers
from gradlint.source.script import Model
from gradlint.source.step_order import exclusive


class Clearing:
    """Matches each `zero_grad` with the optimizers whose parameters it clears."""

    def __init__(self, evaluator: Evaluator, models: Models, optimizers: Optimizers) -> None:
        self.evaluator = evaluator
        self.models = models
        self.optimizers = optimizers

    def may_clear(self, events: list[Event], step: int, models: tuple[Model, ...]) -> bool:
        """Whether some `zero_grad` that can run with a step is not surely one of other parameters."""
        target = events[step]
        own = self.optimizers.keys(target.things)
        return any(
            e.kind == "zero_grad" and not exclusive(e.path, target.path) and not self._clears_others(e, own, models)
            for e in events
        )

    def _clears_others(self, event: Event, own: set[int], models: tuple[Model, ...]) -> bool:
        """Whether a `zero_grad` is that of optimizers that hold none of these models."""
        function = event.site.node.func
        if not own or not models or not isinstance(function, ast.Attribute):
            return False
        things = self.evaluator.ask(function.value, event.site.scope, event.frame)
        roots = self.optimizers.roots(things)
        if not roots or len(roots) < len(things) or {r.key for r in roots} & own:
            return False
        theirs = [m for o in self.optimizers.of(things) for m in o.models]
        return bool(theirs) and not any(_kin(a, b) for a in theirs for b in models)


def _kin(a: Model, b: Model) -> bool:
    """Whether two models may share parameters: one and the same, of one class if only that is known, or nested."""
    if a == b or ((a.candidates or b.candidates) and set(a.classes) & set(b.classes)):
        return True
    longer, shorter = sorted((a.name.split("."), b.name.split(".")), key=len, reverse=True)
    return len(longer) > len(shorter) and longer[: len(shorter)] == shorter
