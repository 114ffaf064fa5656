"""Which clipping bounds the gradient of a step, and where one stands that does not."""

from __future__ import annotations

import ast
from dataclasses import replace

from gradlint.source.clipping import bound_of, bounds, clip_kind, is_off, optimizer_clips
from gradlint.source.deepspeed import engine_clipping
from gradlint.source.evaluate import Evaluator
from gradlint.source.events import Event
from gradlint.source.index import CONDITIONAL, Block, Scope, location
from gradlint.source.models import Models
from gradlint.source.optimizers import Optimizers
from gradlint.source.scaling import Scaling
from gradlint.source.script import Clipping, Model, Optimizer
from gradlint.source.step_order import cover, exclusive, same_loop
from gradlint.source.things import ClassThing, Frame, FunctionThing, external_name
from gradlint.source.value import UNKNOWN


class StepClippings:
    """Finds the clipping of training steps."""

    def __init__(self, evaluator: Evaluator, models: Models, optimizers: Optimizers) -> None:
        self.evaluator = evaluator
        self.models = models
        self.optimizers = optimizers
        self.scaling = Scaling(evaluator)

    def of(
        self,
        events: list[Event],
        backward: int,
        step: int,
        models: tuple[Model, ...],
        optimizer: Optimizer | None,
        scope: Scope,
    ) -> tuple[Clipping | None, Clipping | None]:
        """The clipping between a backward and a step, and one that stands where it bounds nothing."""
        target = events[step]
        found: list[tuple[Clipping, Event]] = []
        misplaced: Clipping | None = None
        scaled: Clipping | None = None
        for i, event in enumerate(events):
            if event.kind != "clip" or exclusive(event.path, target.path):
                continue
            if not self._concerns(event, models):
                continue
            if backward < i < step:
                clipping = self._clip(event, target, "between")
                if clipping.enabled or not found:
                    found.append((clipping, event))
                if scaled is None and self.scaling.still_on(events, i, step):
                    on = clipping.enabled and not self.scaling.off_by_default(target)
                    scaled = replace(clipping, position="before_unscale", enabled=on)
            elif _is_of_the_turn(events, i, backward, step) and not _serves_another(events, i, backward, step):
                position = "after_step" if i > step else "before_backward"
                misplaced = misplaced or self._clip(event, target, position)
        enabled = [c for c in found if c[0].enabled]
        if enabled:
            clipping = next((c for c, _ in enabled if not c.conditional), enabled[0][0])
            if clipping.conditional and cover([e for _, e in enabled], target.path):
                clipping = replace(clipping, conditional=False)
            return clipping, scaled
        other = self._elsewhere(target, optimizer)
        if other is not None:
            return other, misplaced
        return (found[0][0] if found else None), misplaced or scaled

    def _clip(self, event: Event, target: Event, position: str) -> Clipping:
        bound = bound_of(self.evaluator, event.site, event.frame)
        around = tuple(b for b in event.path if b.kind in CONDITIONAL and b not in target.path)
        off = any(self.evaluator.dead((b,), *_around(b, event)) for b in around if b.kind == "if")
        sure = all(b.kind == "if" and self.evaluator.taken((b,), *_around(b, event)) for b in around)
        return Clipping(
            how="helper" if event.inlined and event.how != "by hand" else event.how,
            location=location(event.site.scope.file, event.site.node),
            bound=bound,
            conditional=bool(around) and not sure,
            enabled=not off and not is_off(bound),
            targets=self._targets(event),
            position=position,
        )

    def _targets(self, event: Event) -> tuple[Model, ...]:
        groups = self.optimizers.groups
        found: list[Model] = list(self.models.of(event.things))
        node = _looped(event) if event.how == "by hand" else next(iter(event.site.node.args), None)
        if not found and node is not None:
            with self.evaluator.question():
                for group in groups.of(node, UNKNOWN, event.site.scope, event.frame, 1):
                    found.extend(group.models)
        return tuple(dict.fromkeys(found))

    def _concerns(self, event: Event, models: tuple[Model, ...]) -> bool:
        """A clip of another model's parameters says nothing of this step."""
        targets = self._targets(event)
        if not targets or not models:
            return True
        names = {m.name.rpartition(".")[2] for m in models} | {c for m in models for c in m.classes}
        return any(t in models or t.name.rpartition(".")[2] in names or set(t.classes) & names for t in targets)

    def _elsewhere(self, target: Event, optimizer: Optimizer | None) -> Clipping | None:
        """Gradient hooks, and engines and optimizers that bound the gradient themselves."""
        if target.framework == "deepspeed" and (own := engine_clipping(self.evaluator, target.site.scope)) is not None:
            return own
        index = self.evaluator.index(target.site.scope.file)
        for site in index.calls_by_name.get("register_hook", []):
            if clip_kind(self.evaluator, site) == "hook" and not self.evaluator.dead(site.path, site.scope):
                return Clipping("hook", location(site.scope.file, site.node))
        for thing in self.optimizers.roots(target.things):
            if isinstance(thing.cls, ClassThing):
                method = thing.cls.scope.method("step")
                if method is not None and bounds(method):
                    return Clipping("optimizer", location(method.file, method.node), position="between")
        for called in self.evaluator.ask(target.site.node.func, target.site.scope, target.frame):
            # The step of a wrapper that the project wrote around an optimizer.
            if isinstance(called, FunctionThing) and bounds(called.scope):
                return Clipping("optimizer", location(called.scope.file, called.scope.node), position="between")
        if optimizer is not None:
            names = [external_name(root.cls) or "" for root in self.optimizers.roots(target.things)]
            argument = optimizer_clips(optimizer.arguments, optimizer.algorithms, names[0] if names else None)
            if argument is not None:
                bound = optimizer.arguments.get(argument, UNKNOWN)
                return Clipping("optimizer", optimizer.location, bound)
        return None


def _is_of_the_turn(events: list[Event], clip: int, backward: int, step: int) -> bool:
    """Whether a clip runs in each turn with a step: in its loop, or in the function that a framework calls in a turn.

    Such a function clears the gradient first, and neither it nor what it calls loops around the clip or the step.
    """
    if same_loop(events[clip].path, events[step].path):
        return True
    if any(b.kind == "loop" for e in (events[clip], events[step]) for b in e.path):
        return False
    before = {e.kind for e in events[: min(clip, backward)]}
    return events[step].site.scope.kind == "function" and "zero_grad" in before and "backward" not in before


def _serves_another(events: list[Event], clip: int, backward: int, step: int) -> bool:
    """Whether a clip outside a backward and its step stands between that or another backward and another step."""
    near = [e for e in events if e.kind in {"backward", "step"} and not exclusive(e.path, events[clip].path)]
    if clip > step:
        between = [e for e in near if e in events[step + 1 : clip]]
        behind = [e for e in near if e in events[clip + 1 :]]
        return any(e.kind == "backward" for e in between) or (bool(behind) and behind[0].kind == "step")
    return any(e.kind == "step" and e in events[clip + 1 : backward] for e in near)


def _looped(event: Event) -> ast.expr | None:
    """What the innermost loop around a clip by hand runs over: `net.parameters()`."""
    for block in reversed(event.site.path):
        if isinstance(block.owner, ast.For):
            return block.owner.iter
    return None


def _around(block: Block, event: Event) -> tuple[Scope, Frame | None]:
    """The scope that a block stands in, on the way of calls to an event, and the call that runs it."""
    frame, scope = event.frame, event.site.scope
    while block not in scope.blocks and frame is not None and frame.scope is not None:
        scope, frame = frame.scope, frame.outer
    return scope, frame
