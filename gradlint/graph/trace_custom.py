"""Custom autograd functions: how their calls are seen, and whether one differentiates its forward as autograd would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MAX_ELEMENTS = 1 << 22
"""A function of larger operands is not tried: 32 MB in float64."""
_CLOSE = {"rtol": 1e-4, "atol": 1e-6}

_Handler = Callable[[Callable[..., Any], type[torch.autograd.Function], tuple[Any, ...], dict[str, Any]], Any]
handlers: list[_Handler] = []
"""Who is asked for the result of `Function.apply`, the innermost last, with the real one, the class and arguments."""


def intercept() -> Callable[[], None]:
    """Ask the handlers for the result of every `apply`; returns what takes it back.

    Code that keeps it by another name (`swish = Swish.apply`) is seen only if that happened afterwards.
    """
    before = torch.autograd.Function.__dict__["apply"]
    if hasattr(getattr(before, "__func__", None), "asks_handlers"):
        return lambda: None

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        real = before.__get__(None, cls)
        return handlers[-1](real, cls, args, kwargs) if handlers else real(*args, **kwargs)

    apply.asks_handlers = True  # type: ignore[attr-defined]
    torch.autograd.Function.apply = classmethod(apply)
    return lambda: setattr(torch.autograd.Function, "apply", before)


class _Context:
    """What a forward writes into, when it is run without its function: everything is accepted, nothing kept."""

    needs_input_grad: tuple[bool, ...] = ()
    saved_tensors: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def save_for_forward(self, *tensors: Tensor | None) -> None: ...

    def mark_dirty(self, *tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


def plain_forward(cls: type[torch.autograd.Function]) -> Callable[..., Any]:
    """The function's forward as an ordinary function of its arguments."""
    if getattr(cls.setup_context, "__qualname__", "").startswith(cls.__name__):
        forward: Callable[..., Any] = cls.forward
        return forward
    return lambda *args, **kwargs: cls.forward(_Context(), *args, **kwargs)


class Faithful:
    """Remembers of each custom function whether its backward is the derivative of its forward.

    A straight-through estimator or a gradient reversal is not; a GELU that saves memory is. It is tried once, on
    random operands of the same shapes in double precision.
    """

    def __init__(self) -> None:
        self._known: dict[type, bool] = {}

    def __call__(
        self,
        cls: type[torch.autograd.Function],
        apply: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> bool:
        """Whether the operations of its forward may stand for the function."""
        if cls not in self._known:
            try:
                self._known[cls] = _agrees(cls, apply, args)
            except Exception:
                # A kernel for another device, saved state that is missing: then nothing is known.
                self._known[cls] = False
        return self._known[cls]


def _agrees(cls: type[torch.autograd.Function], apply: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    if sum(a.numel() for a in args if isinstance(a, Tensor)) > MAX_ELEMENTS:
        return False
    generator = torch.Generator().manual_seed(0)
    drawn = [_drawn(a, generator) for a in args]
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        claimed = _run(apply, drawn)
        torch.manual_seed(0)
        derived = _run(plain_forward(cls), drawn)
    if claimed is None or derived is None or len(claimed) != len(derived):
        return False
    return all(
        (a is None) == (b is None) and (a is None or b is None or torch.allclose(a, b, **_CLOSE, equal_nan=True))
        for a, b in zip(claimed, derived, strict=True)
    )


def _drawn(value: Any, generator: torch.Generator) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return torch.zeros(value.shape, dtype=value.dtype)


def _run(function: Callable[..., Any], args: list[Any]) -> list[Tensor | None] | None:
    """The outputs and the gradients of their weighted sum with respect to each operand."""
    leaves = [a.clone().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    result = function(*leaves)
    outputs = [o for o in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(o, Tensor)]
    differentiable = [o for o in outputs if o.requires_grad]
    if not differentiable:
        return None
    weighted = sum((o * torch.linspace(0.5, 1.5, o.numel(), dtype=o.dtype).view(o.shape)).sum() for o in differentiable)
    wanted = [a for a in leaves if isinstance(a, Tensor) and a.requires_grad]
    assert isinstance(weighted, Tensor)
    return [o.detach() for o in outputs] + list(torch.autograd.grad(weighted, wanted, allow_unused=True))
