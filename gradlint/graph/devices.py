"""The device that a model is on, in place of one that its forward names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ACCELERATORS = frozenset(["cuda", "mps", "xpu", "hip"])


class OnModelDevice(TorchFunctionMode):
    """Takes an accelerator that a forward names, `device="cuda"`, for the device that the model is on.

    `replaced`: whether one was named.
    """

    def __init__(self, device: str | torch.device) -> None:
        super().__init__()
        self.device = device
        self.replaced = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        keywords = dict(kwargs or {})
        if _is_accelerator(keywords.get("device")):
            keywords["device"], self.replaced = self.device, True
        elif getattr(func, "__name__", "") == "to" and len(args) > 1 and _is_accelerator(args[1]):
            args, self.replaced = (args[0], self.device, *args[2:]), True
        return func(*args, **keywords)


def _is_accelerator(device: Any) -> bool:
    if device is None or isinstance(device, Tensor):
        return False
    name = device.type if isinstance(device, torch.device) else device
    return isinstance(name, str) and name.partition(":")[0] in _ACCELERATORS
