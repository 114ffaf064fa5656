"""Training steps: each optimizer step with the backward it uses and the clipping between the two."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from gradlint.location import Location
from gradlint.source.clipping import bound_of, bounds, clip_kind, is_off, optimizer_clips
from gradlint.source.evaluate import Evaluator
from gradlint.source.events import Event, Events
from gradlint.source.index import CONDITIONAL, FileIndex, Path, Scope, location, position_of, terminal_name
from gradlint.source.models import Models
from gradlint.source.optimizers import Optimizers
from gradlint.source.resolve import resolve
from gradlint.source.script import Clipping, Model, Optimizer, StepEvent, TrainingStep
from gradlint.source.things import ClassThing, Frame, FunctionThing, Instance, Thing
from gradlint.source.value import UNKNOWN, Resolution

_REWARD = re.compile(
    r"reward|advantage|\badv\b|discount|td_error|td_target|q_value|q_target|q_eval|q_next|policy_loss|value_loss"
    r"|actor|critic|log_probs?\b|entropy_coef|replay_?buffer|next_state",
    re.IGNORECASE,
)
_ADVERSARIAL = re.compile(
    r"discriminator|generator|net_?[dg]\b|optimizer_?[dg]\b|\b[dg]_(loss|optim\w*|opt|solver)|adversarial|gan_loss|loss_?[DG]\b"
)
_LENGTH_NAMES = re.compile(
    r"^(seq_?len\w*|sequence_?length|max_?len\w*|bptt|bptt_len|chunk_len|time_?steps?|n_?steps?|seq_length|T|max_length"
    r"|num_steps|window\w*|seq_size|pad_size|lookback|look_back|chunk_size)$",
    re.IGNORECASE,
)


class Steps:
    """Finds the training steps of files."""

    def __init__(self, evaluator: Evaluator, models: Models, optimizers: Optimizers) -> None:
        self.evaluator = evaluator
        self.models = models
        self.optimizers = optimizers
        self.events = Events(evaluator, optimizers)

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
            for step in self._pairs(scope, events, own_only=True):
                key = (step.optimizer_step.path, step.optimizer_step.line, step.optimizer_step.column)
                if key not in found or _richer(step, found[key]):
                    found[key] = step
        return list(found.values())

    def _pairs(self, scope: Scope, events: list[Event], own_only: bool) -> Iterable[TrainingStep]:
        steps = [(i, e) for i, e in enumerate(events) if e.kind == "step"]
        for i, event in steps:
            backward = _backward_before(events, i)
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
                    backward = _backward_before(events, i)
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
            models = self._nearby(scope, event)
            notes = ("which model is trained here is not known; these are the ones in reach",) if models else ()
        optimizer = self._merged(optimizers, event, models)
        clipping, misplaced = self._clipping(events, backward, i, models, optimizer, scope)
        text = self._text(source, event)
        frameworks = [e.framework for e in (event, source) if e.framework not in {"plain", "scaler"}]
        return TrainingStep(
            optimizer_step=location(event.site.scope.file, event.site.node),
            backward=location(source.site.scope.file, source.site.node),
            optimizer=optimizer,
            models=models,
            clipping=clipping,
            misplaced_clipping=misplaced,
            events=tuple(_step_events(events, backward, i)),
            function=event.site.scope.qualified_name,
            framework=frameworks[0] if frameworks else "plain",
            scaler=event.framework == "scaler",
            autocast=_autocast(scope),
            accumulation=_accumulates(event, source),
            loop_depth=sum(1 for b in event.path if b.kind == "loop"),
            reinforcement=_is_reinforcement(scope, source, text),
            adversarial=bool(_ADVERSARIAL.search(text)),
            sequence_length=self._sequence_length(scope),
            loss=_loss_location(source),
            notes=notes,
        )

    # -- who is trained ------------------------------------------------------------------------------------

    def _merged(self, optimizers: list[Optimizer], event: Event, models: tuple[Model, ...]) -> Optimizer | None:
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

    def _nearby(self, scope: Scope, event: Event) -> tuple[Model, ...]:
        """Where the model is a parameter that nobody in reach passes: what the file makes, or defines."""
        index = self.evaluator.index(event.site.scope.file)
        made = self.models.constructed_in(index)
        if made:
            return tuple(dict.fromkeys(made))
        owner = event.site.scope.owner_class
        if owner is not None and self.models.is_module(owner):
            return (self.models.model(Instance(ClassThing(owner), None, owner)),)
        classes = [c for c in index.classes if self.models.is_module(c)]
        used = {w for c in classes for s in c.all_calls() if (w := terminal_name(s.node.func)) != c.name}
        outer = [c for c in classes if c.name not in used]
        return tuple(self.models.model(Instance(ClassThing(c), None, c, None, True)) for c in outer)

    # -- clipping ------------------------------------------------------------------------------------------

    def _clipping(
        self,
        events: list[Event],
        backward: int,
        step: int,
        models: tuple[Model, ...],
        optimizer: Optimizer | None,
        scope: Scope,
    ) -> tuple[Clipping | None, Clipping | None]:
        target = events[step]
        found: list[tuple[Clipping, Event]] = []
        misplaced: Clipping | None = None
        for i, event in enumerate(events):
            if event.kind != "clip" or _exclusive(event.path, target.path):
                continue
            if not self._concerns(event, models):
                continue
            if backward < i < step:
                clipping = self._clip(event, target, "between")
                if clipping.enabled or not found:
                    found.append((clipping, event))
            elif _same_loop(event.path, target.path):
                unscaled = "after_step" if i > step else "before_backward"
                misplaced = misplaced or self._clip(event, target, unscaled)
        enabled = [c for c in found if c[0].enabled]
        if enabled:
            clipping = next((c for c, _ in enabled if not c.conditional), enabled[0][0])
            if clipping.conditional and _cover([e for _, e in enabled], target.path):
                clipping = _replace(clipping, conditional=False)
            return clipping, None
        other = self._elsewhere(scope, target, optimizer)
        if other is not None:
            return other, misplaced
        return (found[0][0] if found else None), misplaced

    def _clip(self, event: Event, target: Event, position: str) -> Clipping:
        bound = bound_of(self.evaluator, event.site, event.frame)
        around = tuple(b for b in event.path if b.kind in CONDITIONAL and b not in target.path)
        off = any(
            self.evaluator.dead((b,), _scope_of(b, event), _frame_for(b, event)) for b in around if b.kind == "if"
        )
        sure = all(
            b.kind == "if" and self.evaluator.taken((b,), _scope_of(b, event), _frame_for(b, event)) for b in around
        )
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
        if not found and event.site.node.args and event.how != "by hand":
            with self.evaluator.question():
                for group in groups.of(event.site.node.args[0], UNKNOWN, event.site.scope, event.frame, 1):
                    found.extend(group.models)
        return tuple(dict.fromkeys(found))

    def _concerns(self, event: Event, models: tuple[Model, ...]) -> bool:
        """A clip of another model's parameters says nothing of this step."""
        targets = self._targets(event)
        if not targets or not models:
            return True
        names = {m.name.rpartition(".")[2] for m in models} | {c for m in models for c in m.classes}
        return any(t in models or t.name.rpartition(".")[2] in names or set(t.classes) & names for t in targets)

    def _elsewhere(self, scope: Scope, target: Event, optimizer: Optimizer | None) -> Clipping | None:
        """Gradient hooks, and optimizers that bound the gradient themselves."""
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
            argument = optimizer_clips(optimizer.arguments, optimizer.algorithms, None)
            if argument is not None:
                bound = optimizer.arguments.get(argument, UNKNOWN)
                return Clipping("optimizer", optimizer.location, bound)
        return None

    # -- the rest ------------------------------------------------------------------------------------------

    def _text(self, source: Event, event: Event) -> str:
        return " ".join(ast.unparse(e.site.node) for e in (source, event))

    def _sequence_length(self, scope: Scope) -> Resolution:
        holder: Scope | None = scope
        while holder is not None:
            for name in holder.bindings:
                if _LENGTH_NAMES.match(name):
                    node = ast.copy_location(ast.Name(name, ast.Load()), holder.node)
                    node.lineno, node.col_offset = 1 << 50, 0
                    found = resolve(self.evaluator, node, holder)
                    if found.numbers():
                        return found
            holder = holder.parent
        return UNKNOWN


def _scope_of(block: object, event: Event) -> Scope:
    frame = event.frame
    scope = event.site.scope
    while block not in scope.blocks and frame is not None and frame.scope is not None:
        scope, frame = frame.scope, frame.outer
    return scope


def _frame_for(block: object, event: Event) -> Frame | None:
    frame = event.frame
    scope = event.site.scope
    while block not in scope.blocks and frame is not None and frame.scope is not None:
        scope, frame = frame.scope, frame.outer
    return frame


def _backward_before(events: list[Event], step: int) -> int | None:
    """The latest backward before a step that can run with it; else one later in the same loop."""
    for i in range(step - 1, -1, -1):
        if events[i].kind == "backward" and not _exclusive(events[i].path, events[step].path):
            return i
    for i in range(step + 1, len(events)):
        if (
            events[i].kind == "backward"
            and _same_loop(events[i].path, events[step].path)
            and not _exclusive(events[i].path, events[step].path)
        ):
            return i
    return None


def _exclusive(a: Path, b: Path) -> bool:
    """Whether two places lie in different branches of one statement."""
    branches = {id(x.owner): x.branch for x in b if x.kind in CONDITIONAL}
    return any(x.kind in CONDITIONAL and branches.get(id(x.owner), x.branch) != x.branch for x in a)


def _same_loop(a: Path, b: Path) -> bool:
    return any(x.kind == "loop" and x in b for x in a)


def _cover(events: list[Event], path: Path) -> bool:
    """Whether clips in the branches of one `if` leave no way around."""
    seen: dict[int, set[int]] = {}
    for event in events:
        around = [b for b in event.path if b.kind in CONDITIONAL and b not in path]
        if len(around) == 1 and around[0].kind == "if":
            seen.setdefault(id(around[0].owner), set()).add(around[0].branch)
    return any(branches == {0, 1} for branches in seen.values())


def _replace(clipping: Clipping, *, conditional: bool) -> Clipping:
    return Clipping(
        clipping.how,
        clipping.location,
        clipping.bound,
        conditional,
        clipping.enabled,
        clipping.targets,
        clipping.position,
    )


def _step_events(events: list[Event], backward: int, step: int) -> Iterable[StepEvent]:
    target = events[step]
    for event in events:
        if _exclusive(event.path, target.path):
            continue
        receiver = event.site.node.func
        name = ast.unparse(receiver.value)[:80] if isinstance(receiver, ast.Attribute) else ""
        yield StepEvent(event.kind, location(event.site.scope.file, event.site.node), name)


def _autocast(scope: Scope) -> str | None:
    for site in scope.calls:
        if terminal_name(site.node.func) == "autocast":
            text = ast.unparse(site.node)
            return "bfloat16" if "bfloat16" in text else "float16"
    return None


def _accumulates(step: Event, backward: Event) -> bool:
    """The step runs on some iterations only: `if (i + 1) % n == 0`."""
    return any(
        b.kind == "if"
        and b not in backward.path
        and b.test is not None
        and any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod) for n in ast.walk(b.test))
        for b in step.path
    )


def _is_reinforcement(scope: Scope, source: Event, text: str) -> bool:
    """Whether the loss is made of rewards or advantages, read from what flows into it within the function."""
    holder = source.site.scope
    receiver = source.site.node.func
    loss = receiver.value if isinstance(receiver, ast.Attribute) else None
    names = {n.id for n in ast.walk(loss) if isinstance(n, ast.Name)} if loss is not None else set()
    names |= {n.id for a in source.site.node.args for n in ast.walk(a) if isinstance(n, ast.Name)}
    seen: set[str] = set()
    words: set[str] = set()
    for _ in range(4):
        new = names - seen
        if not new:
            break
        seen |= new
        names = set()
        for name in new:
            words.add(name)
            for binding in holder.bindings.get(name, []):
                if binding.value is not None:
                    for node in ast.walk(binding.value):
                        if isinstance(node, ast.Name):
                            names.add(node.id)
                        elif isinstance(node, ast.Attribute):
                            words.add(node.attr)
    hits = {w for w in words if _REWARD.search(w)}
    return (len(hits) >= 1 and not hits <= {"log_prob", "log_probs"}) or any("reward" in w.lower() for w in scope.words)


def _loss_location(source: Event) -> Location | None:
    receiver = source.site.node.func
    loss = receiver.value if isinstance(receiver, ast.Attribute) else None
    name = loss.id if isinstance(loss, ast.Name) else None
    if name is None:
        return None
    before = [b for b in source.site.scope.bindings.get(name, []) if b.position <= position_of(source.site.node)]
    return location(source.site.scope.file, before[-1].node) if before else None


def _richer(new: TrainingStep, old: TrainingStep) -> bool:
    """Prefer the reading that knows the models, then the one that found clipping."""

    def rank(step: TrainingStep) -> tuple[bool, bool, bool]:
        return (not step.notes and bool(step.models), step.clipping is not None, step.optimizer is not None)

    return rank(new) > rank(old)
