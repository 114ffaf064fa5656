"""What happens in a training step, in order: forward, backward, clip, step and the rest, helpers looked into."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from gradlint.source.clipping import clip_kind
from gradlint.source.evaluate import Evaluator
from gradlint.source.index import CallSite, Path, Scope, dotted, end_of
from gradlint.source.optimizers import Optimizers, is_schedule
from gradlint.source.things import (
    ClassThing,
    External,
    Frame,
    FunctionThing,
    Instance,
    Thing,
    Things,
    external_name,
)

MAX_DEPTH = 3
"""How deep helpers are looked into for backward, clip and step."""

_STEP_NAMES = frozenset({"step", "step_and_update_lr", "step_optimizer"})
_OPTIMIZER_NAME = re.compile(
    r"(^|_)(opt|optim|optimi[sz]er|solver|adam|sgd|opti|optm)(_|\d|s\b|$)|optim|optm|^opt|_opt|opt[A-Z_]|Opt"
)
_ENVIRONMENT = re.compile(r"(^|_|[a-z](?=E))[eE]nv(s|ironments?)?(_|\d|$)")

_NOT_OPTIMIZER = re.compile(
    r"sched|env|scaler|writer|pbar|prof|track|metric|meter|progress|accelerator|simul|game|agent|logger|bar$|warm|lr_",
    re.IGNORECASE,
)
_GRADIENT_WORDS = frozenset(
    [
        "backward",
        "step",
        "clip_grad_norm_",
        "clip_grad_value_",
        "clip_grad_norm",
        "unscale_",
        "manual_backward",
        "clip_gradient",
        "zero_grad",
    ]
)

_UPDATES = _STEP_NAMES | {"grad", "_step", "super", "__getattr__", "_foreach_add_", "param_groups", "update"}
"""Words of a `step` that the project wrote that may update parameters."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `path` are the branches around it, those of calling functions first.

    `kind`: backward, step, clip, unscale, zero_grad, scheduler_step, update, scale. `things` is what the receiver
    (or the optimizer argument) stands for, `how` the form of clipping; `inlined` marks events of a helper.
    """

    kind: str
    site: CallSite
    path: Path
    frame: Frame | None = None
    things: Things = ()
    how: str = ""
    framework: str = "plain"
    inlined: bool = False


class Events:
    """Lists the events of functions, helpers expanded."""

    def __init__(self, evaluator: Evaluator, optimizers: Optimizers) -> None:
        self.evaluator = evaluator
        self.optimizers = optimizers
        self._active: set[int] = set()

    def of(self, scope: Scope, frame: Frame | None = None, outer: Path = (), depth: int = 0) -> list[Event]:
        """The events of a function (or module) body in execution order of its text."""
        if id(scope) in self._active:
            return []
        self._active.add(id(scope))
        try:
            found: list[Event] = []
            entries: list[tuple[tuple[int, int], int, CallSite | None, ast.AST | None, Path]] = [
                (end_of(s.node), i, s, None, s.path) for i, s in enumerate(scope.calls)
            ]
            for key, bindings in scope.stores.items():
                if key.endswith((".grad", ".grad.data")):
                    entries += [(b.position, -1, None, b.node, b.path) for b in bindings]
            for _, _, site, store, path in sorted(entries, key=lambda e: (e[0], e[1])):
                if site is not None:
                    found += self._call(site, frame, (*outer, *site.path), depth)
                elif store is not None and _scales_gradient(store):
                    anchor = ast.Call(ast.Name("grad", ast.Load()), [], [])
                    ast.copy_location(anchor, store)
                    where = CallSite(anchor, scope, path, "grad")
                    found.append(Event("clip", where, (*outer, *path), frame, (), "by hand", inlined=depth > 0))
            return found
        finally:
            self._active.discard(id(scope))

    def _call(self, site: CallSite, frame: Frame | None, path: Path, depth: int) -> list[Event]:
        name = site.name
        inlined = depth > 0
        known = self._known(site, name, frame, path, inlined)
        if known is not None:
            if known.kind == "step" and site.node.args and known.framework == "plain":
                return [*self._closure(site, frame, path, depth), known]
            return [known]
        how = clip_kind(self.evaluator, site, frame)
        if how is not None and how != "hook":
            targets = self.evaluator.ask(site.node.args[0], site.scope, frame) if site.node.args else ()
            if not targets and isinstance(site.node.func, ast.Attribute):
                targets = self.evaluator.ask(site.node.func.value, site.scope, frame)
            return [Event("clip", site, path, frame, targets, how, inlined=inlined)]
        return self._inline(site, frame, path, depth)

    def _known(self, site: CallSite, name: str, frame: Frame | None, path: Path, inlined: bool) -> Event | None:
        node = site.node
        receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
        if name in {"backward", "manual_backward"} and receiver is not None:
            framework = _framework_of(ast.unparse(receiver), name)
            if self._is_project_method(site, frame):
                return None
            return Event("backward", site, path, frame, (), framework=framework, inlined=inlined)
        if receiver is None:
            return None
        if name == "zero_grad":
            return Event("zero_grad", site, path, frame, inlined=inlined)
        if name == "unscale_":
            return Event("unscale", site, path, frame, inlined=inlined)
        if name == "update" and "scaler" in ast.unparse(receiver).lower():
            return Event("update", site, path, frame, inlined=inlined)
        if name not in _STEP_NAMES:
            return None
        return self._step(site, receiver, name, frame, path, inlined)

    def _step(
        self, site: CallSite, receiver: ast.expr, name: str, frame: Frame | None, path: Path, inlined: bool
    ) -> Event | None:
        things = self.evaluator.ask(receiver, site.scope, frame)
        text = dotted(receiver) or ast.unparse(receiver)
        last = text.split(".")[-1].split("[")[0]
        if any(is_schedule(t) for t in things) or re.search(r"sched|lr_", last, re.IGNORECASE):
            return Event("scheduler_step", site, path, frame, things, inlined=inlined)
        if _is_scaler(things, last) and site.node.args:
            optimizer = self.evaluator.ask(site.node.args[0], site.scope, frame)
            return Event("step", site, path, frame, optimizer, framework="scaler", inlined=inlined)
        if name == "step" and _ENVIRONMENT.search(last):
            return None  # Arguments that a caller gives in another order make an optimizer of it.
        if self.optimizers.roots(things):
            methods = [t for t in self.evaluator.ask(site.node.func, site.scope, frame) if isinstance(t, FunctionThing)]
            framework = (
                "dist_autograd"
                if any((external_name(t) or "").endswith("DistributedOptimizer") for t in things)
                else "plain"
            )
            if methods and any("backward" in m.scope.words for m in methods):
                return None
            if methods and not any(
                m.scope.words & _UPDATES or _touches_gradients(m.scope, self.evaluator) for m in methods
            ):
                return None  # A class that saves or counts and holds the optimizer for it.
            return Event("step", site, path, frame, things, framework=framework, inlined=inlined)
        if self._is_project_method(site, frame) or _NOT_OPTIMIZER.search(last):
            return None
        if any(isinstance(t, Instance) and self.optimizers.models.is_model(t) for t in things):
            return Event("step", site, path, frame, (), framework="deepspeed", inlined=inlined)
        unknown = all(not isinstance(t, (ClassThing, External)) for t in things)
        if unknown and (_OPTIMIZER_NAME.search(last) or name != "step") and len(site.node.args) <= 1:
            return Event("step", site, path, frame, things, inlined=inlined)
        if unknown and re.search(r"engine", last) and not site.node.args:
            return Event("step", site, path, frame, (), framework="deepspeed", inlined=inlined)
        return None

    def _closure(self, site: CallSite, frame: Frame | None, path: Path, depth: int) -> list[Event]:
        found: list[Event] = []
        for argument in site.node.args[:1]:
            for thing in self.evaluator.ask(argument, site.scope, frame):
                if isinstance(thing, FunctionThing) and depth < MAX_DEPTH:
                    found += self.of(thing.scope, thing.frame or frame, path, depth + 1)
        return found

    def _is_project_method(self, site: CallSite, frame: Frame | None) -> bool:
        return any(isinstance(t, FunctionThing) for t in self.evaluator.ask(site.node.func, site.scope, frame))

    def _inline(self, site: CallSite, frame: Frame | None, path: Path, depth: int) -> list[Event]:
        if depth >= MAX_DEPTH:
            return []
        found: list[Event] = []
        for thing in self.evaluator.ask(site.node.func, site.scope, frame)[:3]:
            function = self._function(thing)
            if function is None or not _touches_gradients(function.scope, self.evaluator):
                continue
            inner = self.evaluator.frame(function.scope, site.node, site.scope, frame, function.receiver)
            if inner.depth > 6:
                continue
            found += self.of(function.scope, inner, path, depth + 1)
        return found

    def _function(self, thing: Thing) -> FunctionThing | None:
        match thing:
            case FunctionThing():
                return thing
            case Instance(cls=ClassThing(scope)) if not self.optimizers.models.is_module(scope):
                method = next((m for c in self.evaluator.mro(scope) if (m := c.method("__call__"))), None)
                return FunctionThing(method, thing) if method is not None else None
        return None


def _touches_gradients(scope: Scope, evaluator: Evaluator, depth: int = 0, seen: set[int] | None = None) -> bool:
    seen = set() if seen is None else seen
    if id(scope) in seen or depth > 2:
        return False
    seen.add(id(scope))
    if scope.words & _GRADIENT_WORDS or any(k.endswith(".grad") for k in scope.stores):
        return True
    if "clip" in " ".join(scope.words) and "grad" in " ".join(scope.words):
        return True
    names = {s.name for s in scope.calls}
    index = evaluator.index(scope.file)
    siblings = scope.owner_class.children if scope.owner_class else []
    local = [c for c in (*index.module.children, *siblings) if c.kind == "function" and c.name in names]
    return any(_touches_gradients(c, evaluator, depth + 1, seen) for c in local)


def _is_scaler(things: Things, name: str) -> bool:
    return "scaler" in name.lower() or any("GradScaler" in (external_name(t) or "") for t in things)


def _framework_of(receiver: str, name: str) -> str:
    lowered = receiver.lower()
    if name == "manual_backward":
        return "lightning"
    for word, framework in (
        ("accelerator", "accelerate"),
        ("fabric", "fabric"),
        ("dist_autograd", "dist_autograd"),
        ("engine", "deepspeed"),
    ):
        if word in lowered:
            return framework
    return "plain"


def _scales_gradient(store: ast.AST) -> bool:
    """`p.grad = p.grad * c`, `p.grad *= c`, `p.grad = clamp(p.grad)`; `p.grad = None` and copies do not bound."""
    match store:
        case ast.AugAssign(op=ast.Mult() | ast.Div()):
            return True
        case ast.Assign(value=value):
            text = ast.unparse(value)
            return ".grad" in text and bool(re.search(r"clamp|clip|\*|/|norm|max|min", text))
    return False
