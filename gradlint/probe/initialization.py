"""New weights for the what-if experiments: the init law that suits the activation a layer feeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlint.graph.model import RECTIFIERS

LSTM_FORGET_BIAS = 1.0
"""Added to the forget gate's bias (Jozefowicz et al. 2015, §2.2; Gers et al. 2000)."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "softsign": F.softsign,
    "square": torch.square,
    "identity": lambda x: x,
}


class UnknownLawError(ValueError):
    """An init law or activation that this module has no formula for; the message is one line."""


def activation(op: str) -> Callable[[Tensor], Tensor]:
    """The elementwise function of that name. Raises UnknownLawError."""
    if op not in _ACTIVATIONS:
        raise UnknownLawError(f"no activation is called {op!r}")
    return _ACTIVATIONS[op]


@cache
def gain(op: str, negative_slope: float | None = None) -> float:
    """1/√E[φ(z)²] for z ~ N(0, 1): the gain that keeps the second moment through φ (He et al. 2015, §2.2).

    √2 for relu, √(2/(1+a²)) for leaky ReLU, 1.53 for gelu, 1.68 for silu, where `nn.init.calculate_gain` has none.
    """
    if op in ("leaky_relu", "prelu", "rrelu"):
        slope = {"leaky_relu": 0.01, "prelu": 0.25, "rrelu": 0.23}[op] if negative_slope is None else negative_slope
        return math.sqrt(2 / (1 + slope * slope))
    z = torch.linspace(-10, 10, 20_000, dtype=torch.float64)
    weight = torch.exp(-z * z / 2)
    square = (activation(op)(z).square() * weight).sum() / weight.sum()
    return float(1 / square.sqrt())


def redraw(weight: Tensor, law: str, feeds: str | None, negative_slope: float | None = None) -> None:
    """Draw a linear or convolution weight anew, in place, (out, in/groups, *kernel).

    `law`: "kaiming" (N(0, gain²/fan_in), Xavier's where the layer feeds a saturating activation, gain 1 where it
    feeds none), "xavier" (2/(fan_in+fan_out), gain 1), "orthogonal" (with the activation's gain) or "default"
    (PyTorch's U(±1/√fan_in)). Raises UnknownLawError.
    """
    rectifying = feeds in RECTIFIERS
    strength = gain(feeds, negative_slope) if feeds in _ACTIVATIONS or feeds in ("prelu", "rrelu") else 1.0
    with torch.no_grad():
        if law == "xavier" or (law == "kaiming" and feeds is not None and not rectifying):
            nn.init.xavier_normal_(weight)
        elif law == "kaiming":
            fan_in = weight[0].numel()
            nn.init.normal_(weight, 0.0, strength / math.sqrt(fan_in))
        elif law == "orthogonal":
            nn.init.orthogonal_(weight, strength if rectifying else 1.0)
        elif law == "default":
            bound = 1 / math.sqrt(weight[0].numel())
            nn.init.uniform_(weight, -bound, bound)
        else:
            raise UnknownLawError(f"no init law is called {law!r}")


def raise_forget_bias(module: nn.Module, by: float = LSTM_FORGET_BIAS) -> int:
    """Set the forget gate's input bias of every LSTM in the module to `by` and its hidden bias to 0; how many.

    PyTorch orders the gates input, forget, cell, output, and adds two biases.
    """
    changed = 0
    with torch.no_grad():
        for part in module.modules():
            if not isinstance(part, (nn.LSTM, nn.LSTMCell)):
                continue
            size = part.hidden_size
            for name, bias in part.named_parameters(recurse=False):
                if name.startswith("bias"):
                    bias[size : 2 * size] = by if name.startswith("bias_ih") else 0.0
                    changed += 1
    return changed


def orthogonal_recurrence(module: nn.Module) -> int:
    """Make every hidden-to-hidden matrix of the module's recurrent layers orthogonal, gate by gate; how many."""
    changed = 0
    with torch.no_grad():
        for part in module.modules():
            if not isinstance(part, (nn.RNNBase, nn.RNNCellBase)):
                continue
            for name, weight in part.named_parameters(recurse=False):
                if name.startswith("weight_hh"):
                    for gate in weight.split(weight.shape[1]):
                        nn.init.orthogonal_(gate)
                    changed += 1
    return changed
