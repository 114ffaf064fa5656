"""Back-propagation through time, seen step by step: a recurrent layer run with its own weights, one step at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class NotRecurrentError(ValueError):
    """There is no recurrent layer to unroll; the message is one line."""


@dataclass(frozen=True)
class Unrolled:
    """`gradients` are ‖∂L/∂h_t‖ for t = 1…T, `spectral_norm` the largest over the gates of W_hh.

    L is a random unit projection of the last hidden state h_T for each sample, so that the gradient reaches h_t
    only through the recurrence.
    """

    gradients: tuple[float, ...]
    spectral_norm: float


def cells(layer: nn.Module) -> list[nn.RNNCellBase]:
    """Copies of the cells of a recurrent layer, one for each of its layers, forward direction only.

    They hold float64 (float32 on MPS), so that norms neither vanish nor overflow over a long window. Raises
    NotRecurrentError.
    """
    match layer:
        case nn.RNNCellBase():
            return [_cell(layer, layer, layer.bias, "")]
        case nn.RNNBase() if getattr(layer, "proj_size", 0):
            raise NotRecurrentError("an LSTM with a projection cannot be unrolled")
        case nn.RNNBase():
            return [_cell(layer, layer, layer.bias, f"_l{index}") for index in range(layer.num_layers)]
    raise NotRecurrentError(f"{type(layer).__name__} is not an nn.RNN, LSTM, GRU or one of their cells")


def _backward_cells(layer: nn.Module) -> list[nn.RNNCellBase]:
    """The cells of the backward direction of a bidirectional layer, one for each of its layers."""
    if not getattr(layer, "bidirectional", False):
        return []
    return [_cell(layer, layer, bool(layer.bias), f"_l{index}_reverse") for index in range(int(layer.num_layers))]


def _run(cell: nn.RNNCellBase, inputs: Iterable[Tensor]) -> list[Tensor]:
    """The hidden states of a cell over the inputs of each time step."""
    hidden: list[Tensor] = []
    state: Any = None
    for step in inputs:
        state = cell(step) if state is None else cell(step, state)
        hidden.append(state[0] if isinstance(state, tuple) else state)
    return hidden


def _cell(layer: nn.Module, source: Any, bias: bool, suffix: str) -> nn.RNNCellBase:
    names = ["weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if bias else ())]
    weights = {name: getattr(source, name + suffix) for name in names}
    device = weights["weight_ih"].device
    options: dict[str, Any] = {"device": device, "dtype": torch.float32 if device.type == "mps" else torch.float64}
    size, hidden = weights["weight_ih"].shape[1], weights["weight_hh"].shape[1]
    cell: nn.RNNCellBase
    match layer:
        case nn.LSTM() | nn.LSTMCell():
            cell = nn.LSTMCell(size, hidden, bias=bias, **options)
        case nn.GRU() | nn.GRUCell():
            cell = nn.GRUCell(size, hidden, bias=bias, **options)
        case _:
            cell = nn.RNNCell(size, hidden, bias=bias, nonlinearity=getattr(layer, "nonlinearity", "tanh"), **options)
    with torch.no_grad():
        for name, weight in weights.items():
            getattr(cell, name).copy_(weight)
    return cell


def time_first(layer: nn.Module, sequence: Tensor | None, steps: int, seed: int) -> Tensor:
    """The inputs of `steps` time steps, (T, N, features): the layer's own, repeated in time where too short.

    Without a recorded input they are drawn from N(0, 1) for four samples.
    """
    first = cells(layer)[0]
    if sequence is None or sequence.dim() < 2 or sequence.shape[-1] != first.input_size:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(steps, 4, first.input_size, generator=generator)
        return drawn.to(first.weight_ih)
    sequence = sequence.detach().to(first.weight_ih)
    if isinstance(layer, nn.RNNCellBase):
        sequence = sequence.unsqueeze(0) if sequence.dim() == 2 else sequence
    elif sequence.dim() == 2:
        sequence = sequence.unsqueeze(1)
    elif layer.batch_first:
        sequence = sequence.transpose(0, 1)
    repeats = -(-steps // sequence.shape[0])
    return sequence.repeat(repeats, 1, 1)[:steps]


def unroll(
    layer: nn.Module, sequence: Tensor | None, steps: int, weight_factor: float = 1.0, seed: int = 0
) -> list[Unrolled]:
    """Each of the layer's layers unrolled over `steps` time steps, W_hh multiplied by `weight_factor`.

    The layers run one after the other, each on the hidden states of the one before (of both directions, where there are
    two; the forward one is measured). Raises NotRecurrentError.
    """
    inputs = time_first(layer, sequence, steps, seed)
    found = []
    backward = _backward_cells(layer)
    with torch.enable_grad():
        for index, cell in enumerate(cells(layer)):
            with torch.no_grad():
                cell.weight_hh.mul_(weight_factor)
            hidden = _run(cell, inputs)
            generator = torch.Generator().manual_seed(seed)
            direction = torch.randn(hidden[-1].shape, generator=generator).to(hidden[-1])
            direction = direction / direction.norm(dim=-1, keepdim=True)
            gradients = torch.autograd.grad((hidden[-1] * direction).sum(), hidden)
            norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).tolist()
            found.append(Unrolled(tuple(norms), spectral_norm(cell)))
            states = torch.stack([h.detach() for h in hidden])
            if backward:
                with torch.no_grad():
                    reverse = torch.stack(_run(backward[index], inputs.flip(0))).flip(0)
                states = torch.cat([states, reverse], dim=-1)
            inputs = states
    return found


def spectral_norm(cell: nn.RNNCellBase) -> float:
    """The largest singular value of the hidden-to-hidden matrices, gate by gate."""
    with torch.no_grad():
        gates = cell.weight_hh.detach().float().cpu().split(cell.hidden_size)
        return max(float(torch.linalg.matrix_norm(gate, 2)) for gate in gates)


def extreme(layers: list[Unrolled]) -> Unrolled:
    """The layer whose gradient changes most over time, up or down."""
    return max(layers, key=_change)


def _change(layer: Unrolled) -> float:
    first, last = layer.gradients[0], layer.gradients[-1]
    if not last > 0:
        return 0.0
    if not first > 0:
        return float("inf")
    ratio = first / last
    return max(ratio, 1 / ratio)
