"""A few optimizer steps on one batch: the loss curve and the gradient norm before every step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class UnknownOptimizerError(ValueError):
    """torch.optim has no optimizer of that name, or it needs more than a gradient; the message is one line."""


@dataclass(frozen=True)
class Recipe:
    """An optimizer as the script has it. `learning_rate` None is the optimizer's own default."""

    name: str = "SGD"
    learning_rate: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Recipe:
        """That of an optimizer's first group."""
        group = optimizer.param_groups[0]
        rate, momentum, decay = (group.get(key) for key in ("lr", "momentum", "weight_decay"))
        numbers = (float(v) if isinstance(v, (int, float)) else None for v in (rate, momentum, decay))
        rate, momentum, decay = numbers
        return cls(type(optimizer).__name__, rate, momentum or 0.0, decay or 0.0)

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimizer over the parameters. Raises UnknownOptimizerError."""
        kind = _optimizer(self.name)
        accepted = inspect.signature(kind).parameters
        options: dict[str, Any] = {
            "lr": self.learning_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }
        given = {k: v for k, v in options.items() if k in accepted and v is not None and (v or k == "lr")}
        if "lr" in accepted and "lr" not in given and accepted["lr"].default is inspect.Parameter.empty:
            raise UnknownOptimizerError(f"{kind.__name__} has no default learning rate and the script's is not known")
        return kind(list(parameters), **given)

    @property
    def algorithm(self) -> str | None:
        """The class in torch.optim that takes these steps, None where there is none."""
        try:
            return _optimizer(self.name).__name__
        except UnknownOptimizerError:
            return None

    @property
    def plain(self) -> Recipe:
        """Plain SGD at lr/(1−β), the rate that SGD with momentum β comes to in the long run."""
        rate = self.learning_rate if self.learning_rate is not None else 1e-3
        return Recipe("SGD", rate / (1 - self.momentum), 0.0, self.weight_decay)


def _optimizer(name: str) -> type[torch.optim.Optimizer]:
    # Quantised and paged variants take the steps of the algorithm they are a variant of.
    wanted = name.lower().removeprefix("fused").removeprefix("paged").removesuffix("8bit").removesuffix("32bit")
    for attribute in sorted(vars(torch.optim)):
        found = getattr(torch.optim, attribute)
        if attribute.lower() == wanted and isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
            if attribute in ("Optimizer", "LBFGS", "SparseAdam", "Muon"):
                break
            return found
    raise UnknownOptimizerError(f"the steps of optimizer {name} cannot be replayed")


@dataclass(frozen=True)
class Replay:
    """`losses` before the first step and after each; `norms` the total gradient norm before each step."""

    losses: tuple[float, ...]
    norms: tuple[float, ...]


def replay(
    module: nn.Module,
    loss: Callable[[], Tensor],
    recipe: Recipe,
    steps: int,
    max_norm: float | None = None,
) -> Replay:
    """Train `module` in place for `steps` steps of `loss()`, with gradients clipped to `max_norm` if given.

    Stops early at the first loss that is not finite, which then ends the curve.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise UnknownOptimizerError("the model has no parameter that is trained")
    optimizer = recipe.build(parameters)
    losses: list[float] = []
    norms: list[float] = []
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            value = loss()
            losses.append(float(value.detach()))
            if not math.isfinite(losses[-1]):
                return Replay(tuple(losses), tuple(norms))
            value.backward()
            norms.append(total_norm(parameters))
            if max_norm is not None:
                nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
    with torch.no_grad():
        losses.append(float(loss()))
    return Replay(tuple(losses), tuple(norms))


def total_norm(parameters: Iterable[Tensor]) -> float:
    """The Euclidean norm over the gradients of all parameters, in float64 on the host."""
    norms = [torch.linalg.vector_norm(p.grad.detach()) for p in parameters if p.grad is not None]
    if not norms:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack([n.float().to(norms[0].device) for n in norms])))
