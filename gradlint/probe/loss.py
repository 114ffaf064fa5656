"""The loss of a synthetic batch: targets drawn to fit the model's output and the loss that the script uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradlint.graph.model import Loss

PREFERRED = ("logits", "prediction_logits", "out", "last_hidden_state", "sample")
"""Names under which models hand out what the loss reads, most specific first."""


class OutputError(Exception):
    """The model's output has nothing to take a gradient of; the message is one line."""


def first_tensor(output: Any) -> Tensor | None:
    """The first floating-point or complex tensor in a model's output, by preference that of its logits."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() or output.is_complex() else None
    parts: list[Any] = []
    if isinstance(output, Mapping):
        parts = [output[name] for name in PREFERRED if name in output] + list(output.values())
    elif isinstance(output, (list, tuple)):
        named = [getattr(output, name, None) for name in PREFERRED] if hasattr(output, "_fields") else []
        parts = [*named, *output]
    elif hasattr(output, "__dict__"):
        named = [getattr(output, name, None) for name in PREFERRED]
        parts = [*named, *vars(output).values()]
    for part in parts:
        found = first_tensor(part) if part is not None and part is not output else None
        if found is not None:
            return found
    return None


def own_loss(output: Any) -> Tensor | None:
    """The sum of the scalars in a model's output that a gradient can start from: the losses that it computes itself."""
    parts: list[Any] = []
    if isinstance(output, Tensor):
        return output if output.dim() == 0 and output.requires_grad and output.is_floating_point() else None
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, (list, tuple)):
        parts = list(output)
    found = [loss for part in parts if (loss := own_loss(part)) is not None]
    return torch.stack([loss.float() for loss in found]).sum() if found else None


class SyntheticLoss:
    """A loss over a model's output with targets drawn once, under `seed`, at the first call.

    Where the model computes its loss itself (`loss.inside`) that is the loss.

    Cross-entropy and NLL take classes from axis 1, or from the last axis of a three-dimensional output (a
    sequence); `loss.classes` decides where it fits one axis only. Regression targets are N(0, 1), binary ones fair
    coins. A loss that is not known becomes the squared error. `notes` say what was assumed.
    """

    def __init__(self, loss: Loss, seed: int = 0) -> None:
        self.loss = loss
        self.seed = seed
        self.notes: list[str] = []
        self._target: Tensor | None = None
        self._kind = loss.kind

    def __call__(self, output: Any) -> Tensor:
        """The scalar loss. Raises OutputError when the output holds no tensor that a gradient could start from."""
        own = own_loss(output) if self.loss.inside else None
        if own is not None:
            return own
        tensor = first_tensor(output)
        if tensor is None:
            raise OutputError(f"the model returns {type(output).__name__} with no floating-point tensor in it")
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        if not tensor.numel():
            raise OutputError("the model returns an empty tensor")
        tensor = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        if self._target is None:
            self._kind = self._suitable(tensor)
        return self._apply(tensor)

    def _suitable(self, tensor: Tensor) -> str:
        kind = self.loss.kind
        if kind == "bce" and bool(((tensor < 0) | (tensor > 1)).any()):
            self.notes.append("outputs leave [0, 1], binary cross-entropy was taken with logits")
            return "bce_with_logits"
        if kind in ("cross_entropy", "nll") and self._classes_first(tensor).shape[1] < 2:
            self.notes.append(f"{kind} over a single class, squared error was used")
            return "mse"
        if kind in _LOSSES or kind in ("cross_entropy", "nll"):
            return kind
        self.notes.append(f"loss {kind}: squared error against N(0, 1) was used")
        return "mse"

    def _apply(self, tensor: Tensor) -> Tensor:
        reduction = "sum" if self.loss.reduction == "sum" else "mean"
        if self._kind in ("cross_entropy", "nll"):
            scores = self._classes_first(tensor)
            target = self._drawn(scores)
            function = F.cross_entropy if self._kind == "cross_entropy" else F.nll_loss
            return function(scores, target, reduction=reduction)
        return _LOSSES[self._kind](tensor, self._drawn(tensor), reduction=reduction)

    def _classes_first(self, tensor: Tensor) -> Tensor:
        """Scores with their classes on axis 1."""
        if tensor.dim() < 2:
            return tensor.reshape(1, -1)
        classes = self.loss.classes
        last = tensor.dim() == 3
        if classes is not None and tensor.shape[1] != tensor.shape[-1]:
            last = tensor.shape[-1] == classes or (last and tensor.shape[1] != classes)
        return tensor.movedim(-1, 1) if last and tensor.dim() > 2 else tensor

    def _drawn(self, scores: Tensor) -> Tensor:
        if self._target is None or self._target.device != scores.device:
            generator = torch.Generator().manual_seed(self.seed)
            if self._kind in ("cross_entropy", "nll"):
                shape = (scores.shape[0], *scores.shape[2:])
                drawn = torch.randint(0, scores.shape[1], shape, generator=generator)
            elif self._kind in ("bce", "bce_with_logits"):
                drawn = torch.randint(0, 2, scores.shape, generator=generator).to(scores.dtype)
            else:
                drawn = torch.randn(scores.shape, generator=generator, dtype=torch.float32).to(scores.dtype)
            self._target = drawn.to(scores.device)
        return self._target


def _divergence(scores: Tensor, target: Tensor, reduction: str) -> Tensor:
    return F.kl_div(scores, target.softmax(-1), reduction="batchmean" if reduction == "mean" else reduction)


_LOSSES: dict[str, Any] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "bce": F.binary_cross_entropy,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
    "kl": _divergence,
}
