"""Whether the factor of a GradScaler is still on the gradient where it is clipped."""

from __future__ import annotations

import ast

from gradlint.source.evaluate import Evaluator
from gradlint.source.events import Event
from gradlint.source.index import CONDITIONAL, Path
from gradlint.source.resolve import resolve
from gradlint.source.step_order import exclusive
from gradlint.source.things import ClassThing, FunctionThing, Instance

_DIVIDES = frozenset({"unscale_", "unscale", "unscale_grads", "get_scale", "inv_scale", "loss_scale"})
"""Words of a helper, or of a clip's own arguments, that takes the factor into account itself."""


class Scaling:
    """Follows the factor of a GradScaler from `scaler.scale(loss).backward()` on."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def still_on(self, events: list[Event], clip: int, step: int) -> bool:
        """Whether a clip before `scaler.step(optimizer)` surely bounds the scaled gradient."""
        event, target = events[clip], events[step]
        if target.framework != "scaler" or self._own_scaler(target) or self._never_enabled(target):
            return False
        if self._divides(event):
            return False
        for i in range(clip - 1, -1, -1):
            earlier = events[i]
            if exclusive(earlier.path, event.path) or contrary(earlier.path, event.path):
                continue
            if earlier.kind == "unscale" or (earlier.kind == "clip" and self._divides(earlier)):
                return False
            if earlier.kind == "backward" and is_scaled(earlier):
                return not exclusive(earlier.path, target.path)
        return False

    def _divides(self, event: Event) -> bool:
        """Whether a clip takes the factor off itself: by hand, in a helper, or by a bound that grows with it."""
        if event.how == "by hand":
            return True
        if any(word in ast.unparse(a) for a in _arguments(event.site.node) for word in ("scale", "inv_")):
            return True
        called = self.evaluator.ask(event.site.node.func, event.site.scope, event.frame)
        return any(isinstance(t, FunctionThing) and t.scope.words & _DIVIDES for t in called)

    def _own_scaler(self, step: Event) -> bool:
        """Whether the scaler is of a class that the project wrote, which may unscale wherever it likes."""
        return any(isinstance(t.cls, ClassThing) for t in self._scalers(step))

    def _never_enabled(self, step: Event) -> bool:
        """Whether the scaler is switched off by a literal."""
        return any(isinstance(value, ast.Constant) and not value.value for value, _ in self._switches(step))

    def off_by_default(self, step: Event) -> bool:
        """Whether the scaler is off under the defaults of the script, as behind a flag for mixed precision."""
        found = [
            resolve(self.evaluator, value, scaler.scope, scaler.frame).only for value, scaler in self._switches(step)
        ]
        return any(value is not None and not value.value for value in found)

    def _switches(self, step: Event) -> list[tuple[ast.expr, Instance]]:
        """`enabled` of the scaler, as it is written where the scaler is made."""
        return [
            (keyword.value, scaler)
            for scaler in self._scalers(step)
            for keyword in (scaler.call.keywords if scaler.call is not None else ())
            if keyword.arg == "enabled"
        ]

    def _scalers(self, step: Event) -> list[Instance]:
        function = step.site.node.func
        if not isinstance(function, ast.Attribute):
            return []
        return [t for t in self.evaluator.ask(function.value, step.site.scope, step.frame) if isinstance(t, Instance)]


def is_scaled(backward: Event) -> bool:
    """Whether a backward starts from `scaler.scale(loss)`."""
    match backward.site.node.func:
        case ast.Attribute(value=ast.Call(func=ast.Attribute(attr="scale"))):
            return True
    return False


def contrary(a: Path, b: Path) -> bool:
    """Whether two places stand under opposite outcomes of conditions that read alike, in different statements."""
    told = {_condition(x.test, x.branch) for x in a if x.kind in CONDITIONAL and x.test is not None}
    return any(
        (text, not holds) in told for x in b if x.test is not None for text, holds in [_condition(x.test, x.branch)]
    )


def _condition(test: ast.expr, branch: int) -> tuple[str, bool]:
    """A condition's text without its `not`s, and whether it holds in a branch."""
    holds = branch == 0
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, holds = test.operand, not holds
    return ast.unparse(test), holds


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(k.value for k in call.keywords)]
