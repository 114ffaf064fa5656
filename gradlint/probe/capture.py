"""Watches a training script from inside its process: which model is called, with what loss, by which optimizer."""

from __future__ import annotations

import json
import math
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradlint.graph.model import ModelGraph
from gradlint.graph.naming import class_name
from gradlint.probe.calls import Tracer, unwrapped
from gradlint.probe.experiment import Measurement
from gradlint.probe.measure import Pass
from gradlint.probe.norms import norms, stored
from gradlint.probe.ranks import Ranks, together
from gradlint.probe.real import Watched
from gradlint.probe.run import one_line, writable
from gradlint.probe.watch import Watch, samples_of
from gradlint.worker.wire import encode


@dataclass
class _Steps:
    """What is known of one optimizer; `order` counts optimizers by their first step.

    `broken` names the first operation whose output or gradient was not finite at some step.
    """

    order: int
    taken: int = 0
    measured: bool = False
    broken: str | None = None


class Capture:
    """Patches module calls, backward passes and optimizer steps of this process until `steps` steps are seen.

    `emit` gets each finding as a JSON-able dict; `done` is called when all optimizers that step have taken theirs.
    `wanted` is (path, first line, last line) of the construction of the one optimizer to watch, None for all;
    `learning_rate`, where set, is forced on the watched ones.
    """

    def __init__(
        self, steps: int, trace: Tracer, emit: Callable[[dict[str, Any]], None], done: Callable[[], None]
    ) -> None:
        self.steps = steps
        self.trace = trace
        self.emit = emit
        self.done = done
        self.learning_rate: float | None = None
        self.wanted: tuple[str, int, int] | None = None
        self._watch = Watch()
        self._busy = False
        self._samples = 1
        self._clipped: set[int] = set()
        self._known: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._state: dict[int, _Steps] = {}
        self._before: dict[int, Tensor] = {}
        self._pending: tuple[Watched, nn.Module] | None = None

    def install(self) -> None:
        """Begin to watch. There is no way back: the process is the script's."""
        construct = Optimizer.__init__
        capture = self

        def constructed(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            construct(optimizer, *args, **kwargs)
            if capture.wanted is None or built_at(*capture.wanted):
                capture._known.add(optimizer)

        self._watch.install()
        Optimizer.__init__ = constructed
        self._watch_clipping()
        register_optimizer_step_pre_hook(self._before_step)
        register_optimizer_step_post_hook(self._after_step)

    def _watch_clipping(self) -> None:
        capture = self

        def watched(original: Callable[..., Any]) -> Callable[..., Any]:
            def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
                listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
                capture._clipped |= {id(p) for p in listed}
                return original(listed, *args, **kwargs)

            return clip

        for name in ("clip_grad_norm_", "clip_grad_value_"):
            original = getattr(nn.utils, name)
            replacement = watched(original)
            setattr(nn.utils, name, replacement)
            setattr(nn.utils.clip_grad, name, replacement)

    # ---- optimizer steps --------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._busy or not self._watches(optimizer):
            return
        state = self._state.setdefault(id(optimizer), _Steps(len(self._state)))
        if state.taken >= self.steps:
            self.done()
            return
        if self.learning_rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if callable(closure) and all(p.grad is None for p in held(optimizer)):
            # LBFGS has no gradient before it asks for one.
            with torch.enable_grad():
                closure()
        mine = frozenset(id(p) for p in held(optimizer))
        if state.measured and (state.broken or not self._watch.broken(mine)):
            return
        self._busy = self._watch.busy = True
        try:
            self._measure(optimizer, state)
        except Exception as error:
            if not state.measured:
                self.emit({"type": "failed", "reason": one_line(error)})
        finally:
            self._busy = self._watch.busy = False
            state.measured = True

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._busy:
            return
        mine = frozenset(id(p) for p in held(optimizer))
        if not self._watches(optimizer):
            self._forget(mine)
            return
        state = self._state.setdefault(id(optimizer), _Steps(len(self._state)))
        loss, total = self._watch.loss_and_norm(mine, self._samples)
        if self._pending is not None:
            self._finish(optimizer)
        self.emit(
            {
                "type": "step",
                "key": state.order,
                "loss": writable(loss),
                "norm": writable(total),
                "clipped": bool(mine & self._clipped),
                "nonfinite": state.broken,
            }
        )
        state.taken += 1
        self._forget(mine)
        stepping = [o for o in self._known if id(o) in self._state]
        if len(stepping) == len(self._known) and all(self._state[id(o)].taken >= self.steps for o in stepping):
            self.done()

    def _watches(self, optimizer: Optimizer) -> bool:
        return self.wanted is None or optimizer in self._known

    def _forget(self, mine: frozenset[int]) -> None:
        self._watch.forget(mine)
        self._clipped -= mine

    def _measure(self, optimizer: Optimizer, state: _Steps) -> None:
        """Measure the call that led to this step: at the first one, and where something is not finite."""
        ranks = Ranks.here()
        mine = frozenset(id(p) for p in held(optimizer))
        call = together(partial(self._watch.call_of, mine), ranks)
        self._samples = samples_of(call)
        graph, seen = call.measured(self.trace, self._watch.scale, ranks=ranks)
        state.broken = seen.first_nonfinite
        if state.measured:
            return
        self._before = {id(p): p.detach().clone() for p in held(optimizer)}
        module = unwrapped(call.module)
        loss, _ = self._watch.loss_and_norm(mine, self._samples)
        count = self._watch.calls.count(call.module)
        self._pending = self._described(optimizer, module, graph, seen, loss, count), module

    def _described(
        self, optimizer: Optimizer, module: nn.Module, graph: ModelGraph, seen: Pass, loss: float | None, calls: int
    ) -> Watched:
        notes = list(seen.notes)
        if calls > 1:
            notes.append(f"the model was called {calls} times before the step, the largest call is shown")
        ranks = Ranks.here()
        if ranks is not None:
            notes.append(f"measured by {ranks.count} ranks, {seen.samples} samples in all")
        device = next((p.device.type for p in module.parameters()), "cpu")
        measurement = Measurement(
            kind="baseline",
            layers=seen.layers,
            per_seed={name: (norm,) for name, norm in seen.gradients.items()},
            loss=loss,
            gradient_norms=(seen.total_norm,),
            first_nonfinite=seen.first_nonfinite,
            device=device,
            batch="real",
            notes=tuple(notes),
        )
        group = optimizer.param_groups[0]
        momentum = group.get("momentum", 0.0)
        return Watched(
            graph=graph,
            measurement=measurement,
            model=class_name(module),
            optimizer=type(optimizer).__name__,
            learning_rates=tuple(float(g["lr"]) for g in optimizer.param_groups if "lr" in g),
            momentum=float(momentum) if isinstance(momentum, (int, float)) else 0.0,
            weight_decay=float(group.get("weight_decay", 0.0) or 0.0),
            calls=calls,
            loss_at=self._watch.loss_at,
            samples=seen.samples,
        )

    def _finish(self, optimizer: Optimizer) -> None:
        """Add the update ratios of the step that has just been made, and hand the measurement out."""
        assert self._pending is not None
        (watched, module), self._pending = self._pending, None
        parameters = {n: p for n, p in module.named_parameters() if id(p) in self._before}
        changes = self._changes(parameters)
        self._before = {}
        layers = dict(watched.measurement.layers)
        for node in watched.graph.nodes:
            weights = [n for role, n in node.parameters.items() if "bias" not in role and n in changes]
            layer = layers.get(node.name)
            if not weights or layer is None or not layer.weight_norm:
                continue
            change = sum(changes[n] ** 2 for n in weights) ** 0.5
            layers[node.name] = replace(layer, update_ratio=change / layer.weight_norm)
        complete = replace(watched, measurement=writable(replace(watched.measurement, layers=layers)))
        key = self._state[id(optimizer)].order
        self.emit({"type": "model", "key": key, "watched": json.loads(encode(complete))})

    def _changes(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        """How far the step has moved each parameter, by name; over all shards of one that is distributed."""
        moved = norms([stored(p) - stored(self._before[id(p)]) for p in parameters.values()])
        ranks = Ranks.here()
        if ranks is None:
            return dict(zip(parameters, moved, strict=True))
        squares = [ranks.share(p) * norm * norm for p, norm in zip(parameters.values(), moved, strict=True)]
        rows = zip(*ranks.gather(squares), strict=True)
        return {name: math.sqrt(sum(row)) for name, row in zip(parameters, rows, strict=True)}


def built_at(path: str, first: int, last: int) -> bool:
    """Whether code on these lines of that file is being run right now, at any depth of the stack."""
    frame: FrameType | None = sys._getframe(1)
    wanted = Path(path)
    while frame is not None:
        code = Path(frame.f_code.co_filename)
        if first <= frame.f_lineno <= last and code.name == wanted.name and _same(code, wanted):
            return True
        frame = frame.f_back
    return False


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve()
    except OSError:
        return False


def held(optimizer: Optimizer) -> Sequence[Tensor]:
    """All parameters of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]
