"""The scale of a weight's init law beside the one that suits the activation it feeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradlint.graph.model import RECTIFIERS, InitLaw, Node
from gradlint.notation import number

GAIN_SQUARED = {
    "relu": 2.0,
    "relu6": 2.0,
    "threshold": 2.0,
    "elu": 1.55,
    "celu": 1.55,
    "selu": 1.0,
    "gelu": 2.352,
    "silu": 2.813,
    "mish": 2.42,
    "softplus": 2.0,
    "hardswish": 2.8,
}
"""1/E[φ(z)²] for z ~ N(0, 1): what fan_in·Var(w) must be to keep the signal's scale (He et al. 2015, eq. 10).

ReLU as He has it; the smooth ones by quadrature (`calculate_gain` has no entry for GELU and SiLU); SELU is made
for 1; softplus has no fixed point, ReLU's is used."""

DEFAULT_GAIN_SQUARED = 1 / 3
"""fan_in·Var(w) of `nn.Linear` and `nn.Conv2d` as they come: kaiming_uniform_(a=√5)."""


def suited(activation: Node) -> float | None:
    """fan_in·Var(w) that keeps the signal before this rectifier, or None if it is no rectifier."""
    if activation.op not in RECTIFIERS:
        return None
    if activation.op in ("leaky_relu", "prelu", "rrelu"):
        slope = activation.attributes.get("negative_slope")
        default = 0.25 if activation.op == "prelu" else 0.01
        slope = float(slope) if isinstance(slope, (int, float)) else default
        return 2 / (1 + slope * slope)
    return GAIN_SQUARED.get(activation.op, 2.0)


PLAUSIBLE_FANS = (16, 8192)
"""Fans that a hidden layer whose width is not known may have: from a toy's to the widest convolution in use."""


@dataclass(frozen=True)
class Scale:
    """How a law compares: `gain` is its scale over the nearest of He's with fan_in and fan_out (1 if between),
    `forward` its scale over He's with fan_in, what the next activation sees.

    Where the widths are not known, `bound` is True and `gain` that over the nearest of PLAUSIBLE_FANS."""

    gain: float
    forward: float | None
    bound: bool = False


def compare(law: InitLaw, wanted: float) -> Scale | None:
    """The law's root-mean-square weight over √(wanted / fan), or None where it is not known.

    He's init keeps either the signal (fan_in) or the gradient (fan_out); both are right, and all between.
    """
    forward = squared = None
    if law.gain_squared is not None:
        forward = math.sqrt(max(law.gain_squared, 0.0) / wanted)
    if law.std is not None:
        squared = law.std**2 + (law.mean or 0.0) ** 2
    if squared is not None and law.fan_in and law.fan_out:
        rms = math.sqrt(squared)
        return Scale(_beside(rms, wanted, (law.fan_in, law.fan_out)), rms / math.sqrt(wanted / law.fan_in))
    if forward is None and squared is not None and law.fan_in is None:
        return Scale(_beside(math.sqrt(squared), wanted, PLAUSIBLE_FANS), None, bound=True)
    if forward is None:
        return None
    if law.mode == "fan_out":
        return None
    return Scale(forward, forward)


def _beside(rms: float, wanted: float, fans: tuple[int, int]) -> float:
    """A scale over the nearest of √(wanted / fan) for two fans, 1 between them."""
    low, high = sorted(math.sqrt(wanted / fan) for fan in fans)
    return rms / low if rms < low else rms / high if rms > high else 1.0


def is_default(law: InitLaw) -> bool:
    """Whether the law is PyTorch's own, as it comes or written out."""
    if law.origin == "default":
        return law.gain_squared is None or math.isclose(law.gain_squared, DEFAULT_GAIN_SQUARED, rel_tol=0.05)
    return law.gain_squared is not None and math.isclose(law.gain_squared, DEFAULT_GAIN_SQUARED, rel_tol=0.03)


def named(law: InitLaw) -> str:
    """The law as a person would name it."""
    if law.scheme:
        return f"`{law.scheme.removesuffix('_')}_`"
    match law.distribution:
        case "constant" if law.mean == 0:
            return "zero init"
        case "constant":
            return f"constant init {number(law.mean)}" if law.mean is not None else "constant init"
        case _ if law.std is not None:
            mean = f"mean {number(law.mean)} and " if law.mean and abs(law.mean) > law.std / 10 else ""
            return f"{law.distribution.replace('_', ' ')} init with {mean}std {number(law.std)}"
        case _:
            return f"{law.distribution.replace('_', ' ')} init"
