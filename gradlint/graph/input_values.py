"""Makes what a model is called with: the tensors of a spec, drawn by their laws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradlint.graph.inputs import DTYPES, NEIGHBOURS, Argument, InputGroup, InputSpec, ModelInput


def arguments(
    model_input: ModelInput, device: str | torch.device = "meta", seed: int = 0
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments and keyword arguments for the model; the global random state is left alone."""
    generator = torch.Generator().manual_seed(seed)
    made = [(i.name, _made(i, device, generator)) for i in model_input.items]
    return tuple(t for name, t in made if name is None), {name: t for name, t in made if name is not None}


def described(args: Sequence[Any], kwargs: dict[str, Any]) -> ModelInput | None:
    """The spec of given arguments, or None where they are more than tensors."""
    items = []
    for name, value in [*((None, a) for a in args), *kwargs.items()]:
        if not isinstance(value, Tensor):
            return None
        dtype = str(value.dtype).removeprefix("torch.")
        law = "normal" if value.is_floating_point() else "ids"
        high = None
        if law == "ids" and value.dtype != torch.bool and value.device.type != "meta" and value.numel():
            high = int(value.max()) + 1
        items.append(InputSpec(tuple(value.shape), dtype, name, high, law, 0 if value.dim() else None))
    return ModelInput(tuple(items))


def _made(item: Argument, device: str | torch.device, generator: torch.Generator) -> Any:
    """What the model is handed: a tensor, a plain value, or several in one container."""
    match item:
        case InputSpec(law="value"):
            return item.value
        case InputSpec():
            return _tensor(item, device, generator)
        case InputGroup(kind="dict"):
            return {part.name: _made(part, device, generator) for part in item.items}
        case InputGroup(kind="samples"):
            return [_made(item.items[0], device, generator) for _ in range(item.count)]
    found = [_made(part, device, generator) for part in item.items]
    return tuple(found) if item.kind == "tuple" else found


def _tensor(spec: InputSpec, device: str | torch.device, generator: torch.Generator) -> Tensor:
    """A tensor of the spec's shape, drawn by its law."""
    shape, high = spec.shape, spec.high
    dtype: torch.dtype = getattr(torch, DTYPES.get(spec.dtype, spec.dtype))
    if torch.device(device).type == "meta":
        return torch.empty(shape, dtype=dtype, device="meta")
    if spec.law == "lengths":
        made = torch.full(shape, high or 1, dtype=dtype)
    elif spec.law == "zeros":
        made = torch.zeros(shape, dtype=dtype)
    elif spec.law == "boxes":
        corners = torch.rand((*shape[:-1], 2), generator=generator) / 2
        sizes = 0.25 + torch.rand((*shape[:-1], 2), generator=generator) / 4
        made = (torch.cat((corners, corners + sizes), -1) * (high or 1)).to(dtype)
    elif spec.law == "keypoints":
        places = torch.rand((*shape[:-1], 2), generator=generator) * (high or 1)
        made = torch.cat((places, torch.ones((*shape[:-1], 1))), -1).to(dtype)
    elif spec.law == "adjacency":
        others = torch.rand(shape, generator=generator).topk(min(NEIGHBOURS, shape[-1]), -1).indices
        made = torch.eye(shape[-2], shape[-1]).scatter(-1, others, 1.0)
        made = (made / made.sum(-1, keepdim=True)).to(dtype)
    elif dtype == torch.bool or spec.law == "ones":
        made = torch.ones(shape, dtype=dtype)
    elif not dtype.is_floating_point and not dtype.is_complex:
        made = torch.randint(0, max(high or 2, 1), shape, generator=generator).to(dtype)
    elif spec.law == "uniform01":
        made = torch.rand(shape, generator=generator).to(dtype)
    else:
        made = torch.randn(shape, generator=generator).to(dtype)
    return made.to(device)
