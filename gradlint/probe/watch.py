"""Sees the models, the loss and the gradients of a program that trains, while it does so."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.graph.frames import user_location
from gradlint.location import Location
from gradlint.probe.calls import Calls, RootCall
from gradlint.probe.measure import batch_samples
from gradlint.probe.merging import merged_loss
from gradlint.probe.norms import quick, read, stored
from gradlint.probe.ranks import Ranks


class Watch:
    """Patches module calls, backward passes and gradient scaling of this process, from `install` to `remove`.

    `calls` are the outermost calls of models, `scale` what the loss was last multiplied by (AMP), `loss_at` the line
    that called backward first. While it is `busy` nothing is noted.
    """

    def __init__(self) -> None:
        self.calls = Calls()
        self.scale = 1.0
        self.loss_at: Location | None = None
        self.busy = False
        self._loss: Tensor | None = None
        self._norms: dict[int, tuple[Tensor, Tensor]] = {}
        self._backward_depth = 0
        self._undo: list[Callable[[], None]] = []

    def install(self) -> None:
        """Begin to watch."""
        from torch.amp.grad_scaler import GradScaler

        call, tensor_backward, backward = nn.Module.__call__, Tensor.backward, torch.autograd.backward
        scale = GradScaler.scale
        watch = self

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if watch.busy or watch._backward_depth:
                return call(module, *args, **kwargs)
            return watch.calls.make(call, module, args, kwargs)

        def back(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            return watch._backward(partial(tensor_backward, tensor), tensor, args, kwargs)

        def back_all(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            first = tensors if isinstance(tensors, Tensor) else next(iter(tensors), None)
            return watch._backward(partial(backward, tensors), first, args, kwargs)

        def scaled(scaler: GradScaler, outputs: Any) -> Any:
            result = scale(scaler, outputs)
            watch.scale = float(scaler.get_scale())
            return result

        self._replace(nn.Module, "__call__", called)
        self._replace(Tensor, "backward", back)
        self._replace(torch.autograd, "backward", back_all)
        self._replace(GradScaler, "scale", scaled)

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        before = getattr(owner, name)
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, before))

    def remove(self) -> None:
        """Take the patches back."""
        while self._undo:
            self._undo.pop()()

    def _backward(
        self, original: Callable[..., Any], loss: Tensor | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.busy or self._backward_depth:
            return original(*args, **kwargs)
        self._backward_depth += 1
        try:
            result = original(*args, **kwargs)
        finally:
            self._backward_depth -= 1
        if loss is not None and loss.numel() == 1:
            self._loss = loss.detach()
            self.loss_at = self.loss_at or user_location(depth=3)
        modules = {id(c.module): c.module for c in self.calls.seen}
        parameters = {id(p): p for m in modules.values() for p in m.parameters() if p.grad is not None}
        self._norms |= {key: (p, quick(stored(p.grad))) for key, p in parameters.items() if p.grad is not None}
        return result

    def call_of(self, parameters: frozenset[int]) -> RootCall:
        """The call that led to a step over these parameters. Raises RuntimeError where none was seen."""
        call = self.calls.of(parameters)
        if call is None:
            raise RuntimeError("no call of a model was seen before the optimizer's first step")
        return call

    def loss_and_norm(self, parameters: frozenset[int], samples: int = 1) -> tuple[float | None, float | None]:
        """The last loss and the norm of the gradient of these parameters after backward, over all ranks.

        A rank counts by its `samples`. None where none was seen.
        """
        ranks = Ranks.here()
        kept = [found for key, found in self._norms.items() if key in parameters]
        loss = float(self._loss) / self.scale if self._loss is not None else None
        found = read([norm for _, norm in kept])
        if ranks is None:
            return loss, math.hypot(*found) / self.scale if kept else None
        square = sum(ranks.share(p) * norm * norm for (p, _), norm in zip(kept, found, strict=True))
        parts = ranks.gather([loss, square if kept else None, samples])
        losses = [(part[0], part[2]) for part in parts if part[0] is not None]
        squares = [part[1] for part in parts if part[1] is not None]
        return (
            merged_loss(*zip(*losses, strict=True)) if losses else None,
            math.sqrt(sum(squares)) / self.scale if squares else None,
        )

    def broken(self, parameters: frozenset[int]) -> bool:
        """Whether the last loss, or the gradient of these parameters, is not finite on any rank."""
        values = [norm for key, (_, norm) in self._norms.items() if key in parameters]
        mine = not all(map(math.isfinite, read([*values, *([self._loss] if self._loss is not None else [])])))
        ranks = Ranks.here()
        return mine if ranks is None else any(ranks.gather(mine))

    def forget(self, parameters: frozenset[int]) -> None:
        """Let go of what led to a step over these parameters.

        A generator's call may lie before the discriminator's step: its own optimizer has yet to come.
        """
        self.calls.forget(parameters)
        self._norms = {key: found for key, found in self._norms.items() if key not in parameters}


def samples_of(call: RootCall) -> int:
    """How many samples the call's batch holds."""
    return batch_samples(call.args, call.kwargs)
