"""Watches a training script from inside its process: which model is called, with what loss, by which optimizer."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradlint.graph.model import ModelGraph
from gradlint.graph.record import output_tensors
from gradlint.probe.experiment import Measurement
from gradlint.probe.measure import Pass, measure
from gradlint.probe.real import Watched
from gradlint.probe.run import one_line, writable
from gradlint.probe.state import generators, restore
from gradlint.probe.statistics import BUDGET
from gradlint.worker.wire import encode

MOST_CALLS = 8
"""Calls of a model before one step whose inputs are kept (a rollout makes hundreds)."""

Tracer = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], ModelGraph]


@dataclass
class RootCall:
    """One outermost call of a model: its inputs, the random numbers before it and ∂loss/∂output after backward."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: dict[str, Any]
    gradients: dict[int, Tensor] = field(default_factory=dict)

    def note(self, index: int, gradient: Tensor) -> None:
        """Add to the gradient of the output's tensor of that index."""
        known = self.gradients.get(index)
        self.gradients[index] = gradient.detach() if known is None else known + gradient.detach()

    def loss(self, output: Any, scale: float) -> Tensor:
        """Σ output·∂loss/∂output: linear, with the very gradient that the script's loss had on this batch."""
        outputs = list(output_tensors(output))
        parts = [(outputs[i] * g.to(outputs[i].dtype)).sum() for i, g in self.gradients.items() if i < len(outputs)]
        total: Tensor = torch.stack([p.float() for p in parts]).sum() / scale
        return total


@dataclass
class _Steps:
    """What is known of one optimizer; `order` counts optimizers by their first step."""

    order: int
    taken: int = 0
    measured: bool = False


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
        self._calls: list[RootCall] = []
        self._count: dict[int, int] = {}
        self._depth = 0
        self._backward_depth = 0
        self._busy = False
        self._loss: Tensor | None = None
        self._scale = 1.0
        self._norms: dict[int, Tensor] = {}
        self._clipped: set[int] = set()
        self._known: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._state: dict[int, _Steps] = {}
        self._before: dict[int, Tensor] = {}
        self._pending: tuple[Watched, nn.Module] | None = None

    def install(self) -> None:
        """Begin to watch. There is no way back: the process is the script's."""
        call, tensor_backward, backward = nn.Module.__call__, Tensor.backward, torch.autograd.backward
        construct = Optimizer.__init__
        capture = self

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return capture._module_call(call, module, args, kwargs)

        def back(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            return capture._backward(partial(tensor_backward, tensor), tensor, args, kwargs)

        def back_all(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            first = tensors if isinstance(tensors, Tensor) else next(iter(tensors), None)
            return capture._backward(partial(backward, tensors), first, args, kwargs)

        def constructed(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            construct(optimizer, *args, **kwargs)
            if capture.wanted is None or built_at(*capture.wanted):
                capture._known.add(optimizer)

        nn.Module.__call__ = called
        Tensor.backward = back
        torch.autograd.backward = back_all
        Optimizer.__init__ = constructed
        self._watch_scaler()
        self._watch_clipping()
        register_optimizer_step_pre_hook(self._before_step)
        register_optimizer_step_post_hook(self._after_step)

    # ---- what the script does ---------------------------------------------------------------------------------

    def _module_call(
        self, original: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._busy or self._depth or self._backward_depth or not torch.is_grad_enabled():
            return original(module, *args, **kwargs)
        self._depth += 1
        try:
            key = id(module)
            own = any(p.requires_grad for p in module.parameters())
            kept = own and sum(c.module is module for c in self._calls) < MOST_CALLS
            before = generators() if kept else {}
            output = original(module, *args, **kwargs)
        finally:
            self._depth -= 1
        if own:
            self._count[key] = self._count.get(key, 0) + 1
        if kept:
            root = RootCall(module, detached(args), detached(kwargs), before)
            for index, tensor in enumerate(output_tensors(output)):
                if tensor.requires_grad:
                    tensor.register_hook(partial(root.note, index))
            self._calls.append(root)
        return output

    def _backward(
        self, original: Callable[..., Any], loss: Tensor | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._busy or self._backward_depth:
            return original(*args, **kwargs)
        self._backward_depth += 1
        try:
            result = original(*args, **kwargs)
        finally:
            self._backward_depth -= 1
        if loss is not None and loss.numel() == 1:
            self._loss = loss.detach()
        modules = {id(c.module): c.module for c in self._calls}
        parameters = [p for m in modules.values() for p in m.parameters() if p.grad is not None]
        with torch.no_grad():
            self._norms |= {id(p): torch.linalg.vector_norm(p.grad.float()) for p in parameters if p.grad is not None}
        return result

    def _watch_scaler(self) -> None:
        from torch.amp.grad_scaler import GradScaler

        scale = GradScaler.scale
        capture = self

        def scaled(scaler: GradScaler, outputs: Any) -> Any:
            result = scale(scaler, outputs)
            capture._scale = float(scaler.get_scale())
            return result

        GradScaler.scale = scaled

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
        if state.measured:
            return
        state.measured = True
        self._busy = True
        try:
            self._measure(optimizer)
        except Exception as error:
            self.emit({"type": "failed", "reason": one_line(error)})
        finally:
            self._busy = False

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._busy:
            return
        mine = {id(p) for p in held(optimizer)}
        if not self._watches(optimizer):
            self._forget(mine)
            return
        state = self._state.setdefault(id(optimizer), _Steps(len(self._state)))
        norms = [n for key, n in self._norms.items() if key in mine]
        total = float(torch.linalg.vector_norm(torch.stack([n.cpu() for n in norms]))) / self._scale if norms else None
        loss = float(self._loss) / self._scale if self._loss is not None else None
        if self._pending is not None:
            self._finish(optimizer)
        self.emit(
            {
                "type": "step",
                "key": state.order,
                "loss": writable(loss),
                "norm": writable(total),
                "clipped": bool(mine & self._clipped),
            }
        )
        state.taken += 1
        self._forget(mine)
        stepping = [o for o in self._known if id(o) in self._state]
        if len(stepping) == len(self._known) and all(self._state[id(o)].taken >= self.steps for o in stepping):
            self.done()

    def _watches(self, optimizer: Optimizer) -> bool:
        return self.wanted is None or optimizer in self._known

    def _forget(self, mine: set[int]) -> None:
        """Let go of what led to the step of the optimizer with these parameters.

        A generator's call may lie before the discriminator's step: its own optimizer has yet to come.
        """
        self._calls = [c for c in self._calls if not any(id(p) in mine for p in c.module.parameters())]
        self._count = {key: n for key, n in self._count.items() if any(id(c.module) == key for c in self._calls)}
        self._clipped -= mine
        self._norms = {key: n for key, n in self._norms.items() if key not in mine}

    def _measure(self, optimizer: Optimizer) -> None:
        mine = {id(p) for p in held(optimizer)}
        owners = [c for c in self._calls if c.gradients and any(id(p) in mine for p in c.module.parameters())]
        if not owners:
            raise RuntimeError("no call of a model was seen before the optimizer's first step")
        call = max(owners, key=lambda c: sum(p.numel() for p in c.module.parameters() if id(p) in mine))
        module = unwrapped(call.module)
        now = generators()
        try:
            graph = self.trace(module, call.args, call.kwargs)
            restore(call.random)
            seen = measure(module, call.args, call.kwargs, partial(call.loss, scale=self._scale), graph, budget=BUDGET)
        finally:
            restore(now)
        names = {id(p): p for p in held(optimizer)}
        self._before = {key: p.detach().clone() for key, p in names.items()}
        self._pending = self._described(optimizer, module, graph, seen, self._count.get(id(call.module), 1)), module

    def _described(self, optimizer: Optimizer, module: nn.Module, graph: ModelGraph, seen: Pass, calls: int) -> Watched:
        notes = list(seen.notes)
        if calls > 1:
            notes.append(f"the model was called {calls} times before the step, the largest call is shown")
        device = next((p.device.type for p in module.parameters()), "cpu")
        loss = float(self._loss) / self._scale if self._loss is not None else None
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
            model=type(module).__name__,
            optimizer=type(optimizer).__name__,
            learning_rates=tuple(float(g["lr"]) for g in optimizer.param_groups if "lr" in g),
            momentum=float(momentum) if isinstance(momentum, (int, float)) else 0.0,
            weight_decay=float(group.get("weight_decay", 0.0) or 0.0),
            calls=calls,
        )

    def _finish(self, optimizer: Optimizer) -> None:
        """Add the update ratios of the step that has just been made, and hand the measurement out."""
        assert self._pending is not None
        (watched, module), self._pending = self._pending, None
        parameters = {n: p for n, p in module.named_parameters() if id(p) in self._before}
        changes = {n: float((p.detach() - self._before[id(p)]).float().norm()) for n, p in parameters.items()}
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


def unwrapped(module: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        inner = module.__dict__.get("_modules", {})
        following = inner.get("_orig_mod")
        if following is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            following = inner.get("module")
        if following is None:
            return module
        module = following


def detached(value: Any) -> Any:
    """The same arguments cut off from the graph that made them."""
    match value:
        case Tensor():
            return value.detach()
        case tuple() if hasattr(value, "_fields"):
            return type(value)(*(detached(v) for v in value))
        case list() | tuple():
            return type(value)(detached(v) for v in value)
        case dict():
            return {k: detached(v) for k, v in value.items()}
    return value
