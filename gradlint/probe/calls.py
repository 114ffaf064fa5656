"""What a program asks of its models between two optimizer steps, and measuring one such call afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.graph.model import ModelGraph
from gradlint.graph.record import output_tensors
from gradlint.probe.measure import Pass, measure
from gradlint.probe.ranks import Ranks, together
from gradlint.probe.replay import Recipe
from gradlint.probe.state import generators, restore
from gradlint.probe.statistics import BUDGET

MOST_CALLS = 8
"""Calls of a model before one step whose inputs are kept (a rollout makes hundreds)."""

Tracer = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], ModelGraph]


@dataclass
class RootCall:
    """One outermost call of a model: its inputs, the random numbers before it and ∂loss/∂output after backward.

    `autocast` is the dtype of the autocast that it was made under, None where there was none.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: dict[str, Any]
    autocast: torch.dtype | None = None
    gradients: dict[int, Tensor] = field(default_factory=dict)

    def note(self, index: int, gradient: Tensor) -> None:
        """Add to the gradient of the output's tensor of that index."""
        known = self.gradients.get(index)
        self.gradients[index] = gradient.detach() if known is None else known + gradient.detach()

    def loss(self, output: Any, scale: float) -> Tensor:
        """Σ output·∂loss/∂output: linear, with the very gradient that the program's loss had on this batch.

        An output that another one is computed from (logits beside their loss) has its gradient through that one taken
        off: it would count twice.
        """
        outputs = list(output_tensors(output))
        reached = {i: g.to(outputs[i].dtype) for i, g in self.gradients.items() if i < len(outputs)}
        own = direct([outputs[i] for i in reached], list(reached.values()))
        parts = [(outputs[i] * g).sum() for i, g in zip(reached, own, strict=True) if g is not None]
        total: Tensor = torch.stack([p.float() for p in parts]).sum() / scale
        return total

    def measured(
        self, trace: Tracer, scale: float = 1.0, recipe: Recipe | None = None, ranks: Ranks | None = None
    ) -> tuple[ModelGraph, Pass]:
        """The call made again and measured, with the same random numbers; `scale` is what the loss was scaled by."""
        module = unwrapped(self.module)
        now = generators()
        try:
            graph = together(lambda: trace(module, self.args, self.kwargs), ranks)
            restore(self.random)
            loss = partial(self.loss, scale=scale)
            seen = measure(
                module, self.args, self.kwargs, loss, graph,
                recipe=recipe, budget=BUDGET, autocast=self.autocast, ranks=ranks,
            )  # fmt: skip
        finally:
            restore(now)
        return graph, replace(seen, notes=(*seen.notes, COMPILED)) if is_compiled(self.module) else seen


ROUNDING = 1e-4
"""Share of a gradient below which what is left of it, after subtraction, is rounding."""


def direct(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """What of each output's gradient does not come through another of the outputs; None where nothing does.

    Exact where no output lies between two others.
    """
    through = passed_through(outputs)
    last = [i for i in range(len(outputs)) if i not in through]
    inner = sorted(through)
    found: list[Tensor | None] = list(gradients)
    if not inner or not last:
        return found
    parts = torch.autograd.grad(
        [outputs[i] for i in last],
        [outputs[i] for i in inner],
        [gradients[i] for i in last],
        retain_graph=True,
        allow_unused=True,
    )
    for i, part in zip(inner, parts, strict=True):
        rest = gradients[i] if part is None else gradients[i] - part
        small = torch.linalg.vector_norm(rest) <= ROUNDING * torch.linalg.vector_norm(gradients[i])
        found[i] = None if bool(small) else rest
    return found


def passed_through(outputs: Sequence[Tensor]) -> set[int]:
    """Which of the outputs others of them are computed from."""
    functions = {o.grad_fn: i for i, o in enumerate(outputs) if o.grad_fn is not None}
    if len(functions) < 2:
        return set()
    found: set[int] = set()
    stack: list[Any] = list(functions)
    seen = set(stack)
    while stack:
        for following, _ in stack.pop().next_functions:
            if following in functions:
                found.add(functions[following])
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return found


class Calls:
    """The outermost calls of models with parameters that are trained, since the last time they were let go."""

    def __init__(self) -> None:
        self.seen: list[RootCall] = []
        self._count: dict[int, int] = {}
        self._depth = 0

    def make(
        self, original: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make one call of a module, and keep it if it is an outermost one."""
        if self._depth or not torch.is_grad_enabled() or _passes_on(module):
            return original(module, *args, **kwargs)
        self._depth += 1
        try:
            own = any(p.requires_grad for p in module.parameters())
            kept = own and sum(c.module is module for c in self.seen) < MOST_CALLS
            before = generators() if kept else {}
            output = original(module, *args, **kwargs)
        finally:
            self._depth -= 1
        if own:
            self._count[id(module)] = self._count.get(id(module), 0) + 1
        if kept:
            root = RootCall(module, detached(args), detached(kwargs), before, autocast_dtype(module))
            for index, tensor in enumerate(output_tensors(output)):
                if tensor.requires_grad:
                    tensor.register_hook(partial(root.note, index))
            self.seen.append(root)
        return output

    def of(self, parameters: frozenset[int]) -> RootCall | None:
        """Of the calls that a gradient reached, that whose model holds most of the elements of these parameters."""
        owners = [c for c in self.seen if c.gradients and any(id(p) in parameters for p in c.module.parameters())]
        return max(owners, key=partial(_elements, parameters), default=None)

    def count(self, module: nn.Module) -> int:
        """How often the module was called."""
        return self._count.get(id(module), 0)

    def forget(self, parameters: frozenset[int]) -> None:
        """Let go of the calls of models that hold any of these parameters."""
        self.seen = [c for c in self.seen if not any(id(p) in parameters for p in c.module.parameters())]
        modules = {id(c.module) for c in self.seen}
        self._count = {key: n for key, n in self._count.items() if key in modules}


def _passes_on(module: nn.Module) -> bool:
    """Whether a module only hands its arguments to the model inside: wrappers of DDP and of Lightning's Fabric.

    Lightning's Trainer also calls its module only to reach another of its methods through a wrapper.
    """
    if isinstance(module, nn.parallel.DistributedDataParallel) or type(module).__name__ == "_FabricModule":
        return True
    return "_ForwardRedirection" in getattr(module.__dict__.get("forward"), "__qualname__", "")


def _elements(parameters: frozenset[int], call: RootCall) -> int:
    return sum(p.numel() for p in call.module.parameters() if id(p) in parameters)


def autocast_dtype(module: nn.Module) -> torch.dtype | None:
    """The dtype of the autocast that is on for the module's device; None where it is off."""
    device = next((p.device.type for p in module.parameters()), "cpu")
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    dtype: torch.dtype = torch.get_autocast_dtype(device)
    return dtype


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


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile wraps the module or any part of it."""
    return any("_orig_mod" in part.__dict__.get("_modules", {}) for part in module.modules())


COMPILED = "torch.compile was left out: its kernels would hide the layers"


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
