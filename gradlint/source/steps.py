"""Training steps: each optimizer step with the backward it uses and the clipping between the two."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import replace

from gradlint.source.evaluate import Evaluator
from gradlint.source.events import Event, Events
from gradlint.source.index import FileIndex, Scope, location
from gradlint.source.models import Models
from gradlint.source.optimizers import Optimizers
from gradlint.source.resolve import resolve
from gradlint.source.schedule_order import ScheduleOrder
from gradlint.source.script import Model, Optimizer, TrainingStep
from gradlint.source.step_clearing import Clearing
from gradlint.source.step_clipping import StepClippings
from gradlint.source.step_facts import (
    ADVERSARIAL,
    LENGTH_NAMES,
    accumulates,
    autocast,
    is_reinforcement,
    loss_location,
    step_events,
)
from gradlint.source.step_order import backward_before
from gradlint.source.things import ClassThing, FunctionThing, Instance, Thing, Unknown
from gradlint.source.value import UNKNOWN, Resolution


class Steps:
    """Finds the training steps of files."""

    def __init__(self, evaluator: Evaluator, models: Models, optimizers: Optimizers) -> None:
        self.evaluator = evaluator
        self.models = models
        self.optimizers = optimizers
        self.events = Events(evaluator, optimizers)
        self.clippings = StepClippings(evaluator, models, optimizers)
        self.clearing = Clearing(evaluator, models, optimizers)
        self.schedules = ScheduleOrder(evaluator, optimizers)

    def of(self, index: FileIndex) -> list[TrainingStep]:
        """The steps whose backward and optimizer step stand in, or are reached from, this file's functions."""
        found: dict[tuple[str, int, int], TrainingStep] = {}
        roots = [
            s
            for s in index.scopes
            if s.kind in {"function", "module"}
            and s.words & {"step", "backward", "manual_backward", "step_and_update_lr"}
        ]
        for scope in roots:
            with self.evaluator.question(60000):
                events = self.events.of(scope)
            for step in self._pairs(scope, events):
                key = (step.optimizer_step.path, step.optimizer_step.line, step.optimizer_step.column)
                known = found.get(key)
                if known is None or _richer(step, known):
                    found[key] = step if known is None else _with_order(step, known)
                else:
                    found[key] = _with_order(known, step)
        return list(found.values())

    def _pairs(self, scope: Scope, events: list[Event]) -> Iterable[TrainingStep]:
        steps = [(i, e) for i, e in enumerate(events) if e.kind == "step"]
        for i, event in steps:
            backward = backward_before(events, i)
            if backward is None:
                if not event.inlined:
                    yield from self._with_callers(scope, event)
                continue
            yield self._step(scope, events, i, backward)

    def _with_callers(self, scope: Scope, event: Event, depth: int = 0) -> Iterable[TrainingStep]:
        """A helper that only steps: pair it within whoever calls it."""
        if depth > 1 or scope.kind != "function":
            return
        for site in self.evaluator.call_sites(scope)[:4]:
            with self.evaluator.question(60000):
                events = self.events.of(site.scope)
            for i, candidate in enumerate(events):
                if candidate.kind == "step" and candidate.site.node is event.site.node:
                    backward = backward_before(events, i)
                    if backward is not None:
                        yield self._step(site.scope, events, i, backward)
                        return

    def _step(self, scope: Scope, events: list[Event], i: int, backward: int) -> TrainingStep:
        event, source = events[i], events[backward]
        optimizers = self.optimizers.of(event.things)
        models = tuple(dict.fromkeys(m for o in optimizers for m in o.models))
        notes: tuple[str, ...] = ()
        called = self._called_models(scope, events[backward], event)
        if not models:
            models = called
        if not models:
            models = self._nearby(event)
            notes = ("which model is trained here is not known; these are the ones in reach",) if models else ()
        optimizer = self._merged(optimizers)
        clipping, misplaced = self.clippings.of(events, backward, i, models, optimizer, scope)
        text = self._text(source, event)
        frameworks = [e.framework for e in (event, source) if e.framework not in {"plain", "scaler"}]
        return TrainingStep(
            optimizer_step=location(event.site.scope.file, event.site.node),
            backward=location(source.site.scope.file, source.site.node),
            optimizer=optimizer,
            models=models,
            clipping=clipping,
            misplaced_clipping=misplaced,
            events=tuple(step_events(events, i)),
            function=event.site.scope.qualified_name,
            framework=frameworks[0] if frameworks else "plain",
            scaler=event.framework == "scaler",
            cleared=self.clearing.may_clear(events, i, models),
            early_schedule=self.schedules.early(events, i, optimizer),
            autocast=autocast(scope),
            accumulation=accumulates(event, source),
            loop_depth=sum(1 for b in event.path if b.kind == "loop"),
            reinforcement=is_reinforcement(scope, source),
            adversarial=bool(ADVERSARIAL.search(text)),
            sequence_length=self._sequence_length(scope),
            loss=loss_location(source),
            notes=notes,
            given=not optimizers and _is_given(event),
        )

    def _merged(self, optimizers: list[Optimizer]) -> Optimizer | None:
        """The optimizer of a step; candidates of a dispatch merge into one with several algorithms."""
        if not optimizers:
            return None
        first = optimizers[0]
        if len(optimizers) == 1:
            return first
        algorithms = tuple(dict.fromkeys(a for o in optimizers for a in o.algorithms))
        rates = tuple(dict.fromkeys(v for o in optimizers for v in o.learning_rate.values))
        unknown = next((o.learning_rate.unknown for o in optimizers if o.learning_rate.unknown), None)
        return Optimizer(
            first.name,
            algorithms,
            first.location,
            tuple(g for o in optimizers for g in o.groups),
            Resolution(rates, unknown),
            first.momentum,
            first.arguments,
            first.schedules,
            first.layer_decay,
        )

    def _called_models(self, scope: Scope, source: Event, event: Event) -> tuple[Model, ...]:
        """The models that are run in the function before its backward."""
        found: list[Model] = []
        for holder, frame in {
            (id(s), id(f)): (s, f)
            for s, f in ((source.site.scope, source.frame), (scope, None), (event.site.scope, event.frame))
        }.values():
            for site in holder.calls:
                if not isinstance(site.node.func, (ast.Name, ast.Attribute)):
                    continue
                for thing in self.evaluator.ask(site.node.func, holder, frame):
                    root = self._run(thing)
                    if root is not None:
                        found.append(self.models.model(root))
        return tuple(dict.fromkeys(found))

    def _run(self, thing: Thing) -> Instance | None:
        match thing:
            case Instance() if self.models.is_model(thing):
                return thing
            case FunctionThing(receiver=Instance() as receiver, scope=function) if self.models.is_model(receiver):
                return receiver if function.name in {"forward", "loss", "compute_loss", "training_step"} else None
        return None

    def _nearby(self, event: Event) -> tuple[Model, ...]:
        """Where the model is a parameter that nobody in reach passes: what the file makes, or defines."""
        index = self.evaluator.index(event.site.scope.file)
        made = self.models.constructed_in(index)
        if made:
            return tuple(dict.fromkeys(made))
        owner = event.site.scope.owner_class
        if owner is not None and self.models.is_module(owner):
            return (self.models.model(Instance(ClassThing(owner), None, owner)),)
        classes = [c for c in index.classes if self.models.is_module(c)]
        used = {w for c in classes for s in c.all_calls() if (w := s.name) != c.name}
        outer = [c for c in classes if c.name not in used]
        return tuple(self.models.model(Instance(ClassThing(c), None, c, None, True)) for c in outer)

    def _text(self, source: Event, event: Event) -> str:
        return " ".join(ast.unparse(e.site.node) for e in (source, event))

    def _sequence_length(self, scope: Scope) -> Resolution:
        holder: Scope | None = scope
        while holder is not None:
            for name in holder.bindings:
                if LENGTH_NAMES.match(name):
                    node = ast.copy_location(ast.Name(name, ast.Load()), holder.node)
                    node.lineno, node.col_offset = 1 << 50, 0
                    found = resolve(self.evaluator, node, holder)
                    if found.numbers():
                        return found
            holder = holder.parent
        return UNKNOWN


def _is_given(event: Event) -> bool:
    """Whether what steps is a parameter of the function around it that is called an optimizer, and not known more."""
    receiver = event.site.node.func
    owner = receiver.value if isinstance(receiver, ast.Attribute) else None
    return (
        isinstance(owner, ast.Name)
        and re.search("optim", owner.id, re.IGNORECASE) is not None
        and any(b.kind == "parameter" for b in event.site.scope.bindings.get(owner.id, []))
        and all(isinstance(t, Unknown) for t in event.things)
    )


def _with_order(step: TrainingStep, other: TrainingStep) -> TrainingStep:
    """A step with the schedule that another caller of the same line steps too early."""
    return step if step.early_schedule else replace(step, early_schedule=other.early_schedule)


def _richer(new: TrainingStep, old: TrainingStep) -> bool:
    """Prefer the reading that knows the models, then the one that found clipping."""

    def rank(step: TrainingStep) -> tuple[bool, bool, bool]:
        return (not step.notes and bool(step.models), step.clipping is not None, step.optimizer is not None)

    return rank(new) > rank(old)
