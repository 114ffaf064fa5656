"""Init laws from init calls: the mean and std that torch.nn.init and tensor arithmetic give a parameter."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from gradlint.graph.model import InitLaw
from gradlint.location import Location
from gradlint.source.reader.values import Unknown

Shape = tuple[int | None, ...] | None

MAX_SHAPES = 1_024
"""Shapes whose default laws are kept: a law is immutable, and the layers of a net have a few dozen shapes."""

GAINS = {
    "linear": 1.0,
    "identity": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "selu": 0.75,
    **{f"conv{t}{d}d": 1.0 for t in ("", "_transpose") for d in (1, 2, 3)},
}
"""torch.nn.init.calculate_gain, leaky_relu aside."""

SIGNATURES = {
    "uniform_": "a=0.0, b=1.0",
    "normal_": "mean=0.0, std=1.0",
    "trunc_normal_": "mean=0.0, std=1.0, a=-2.0, b=2.0",
    "constant_": "val",
    "ones_": "",
    "zeros_": "",
    "eye_": "",
    "dirac_": "groups=1",
    "xavier_uniform_": "gain=1.0",
    "xavier_normal_": "gain=1.0",
    "kaiming_uniform_": "a=0, mode='fan_in', nonlinearity='leaky_relu'",
    "kaiming_normal_": "a=0, mode='fan_in', nonlinearity='leaky_relu'",
    "orthogonal_": "gain=1",
    "sparse_": "sparsity, std=0.01",
}
"""Arguments of torch.nn.init functions after the tensor."""

OLD_SPELLINGS = {name[:-1]: name for name in SIGNATURES}
"""torch < 0.4 spelt them without the underscore."""

ALIASES = {
    "glorot_uniform_": "xavier_uniform_",
    "glorot_normal_": "xavier_normal_",
    "he_uniform_": "kaiming_uniform_",
    "he_normal_": "kaiming_normal_",
    "zero_": "zeros_",
    "fill_": "constant_",
}


def number(value: Any) -> float | None:
    """A finite float of a concrete number, else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def fans(shape: Shape) -> tuple[int | None, int | None]:
    """PyTorch's `_calculate_fan_in_and_fan_out`; None where a size is unknown or there are less than two axes."""
    if shape is None or len(shape) < 2:
        return None, None
    field: int | None = 1
    for size in shape[2:]:
        field = None if field is None or size is None else field * size
    fan_in = None if field is None or shape[1] is None else shape[1] * field
    fan_out = None if field is None or shape[0] is None else shape[0] * field
    return fan_in, fan_out


def gain_of(nonlinearity: Any, slope: Any = None) -> float | None:
    """`torch.nn.init.calculate_gain`; None for an unknown name."""
    if nonlinearity == "leaky_relu":
        a = 0.01 if slope is None else number(slope)
        return None if a is None else math.sqrt(2 / (1 + a * a))
    return GAINS.get(nonlinearity) if isinstance(nonlinearity, str) else None


def plain_law(
    distribution: str,
    mean: Any,
    std: Any,
    shape: Shape,
    location: Location | None = None,
    scheme: str | None = None,
    origin: str = "explicit",
) -> InitLaw:
    """A law with mean and std given; the factor on the second moment follows where fan_in is known."""
    m, s = number(mean), number(std)
    fan_in, fan_out = fans(shape)
    known = fan_in is not None and m is not None and s is not None
    return InitLaw(
        distribution,
        m,
        s,
        fan_in,
        fan_out,
        fan_in * (s * s + m * m) if known and fan_in is not None and s is not None and m is not None else None,
        origin=origin,
        scheme=scheme,
        location=location,
    )


def scaled_law(
    distribution: str,
    scheme: str | None,
    gain: float | None,
    shape: Shape,
    mode: str,
    location: Location | None,
    origin: str = "explicit",
) -> InitLaw:
    """A law whose std is gain/√fan; `mode` is fan_in, fan_out, average (Xavier) or largest (orthogonal).

    With unknown widths the factor on the second moment is gain², exact for fan_in and for square layers.
    """
    fan_in, fan_out = fans(shape)
    fan: float | None
    if mode == "fan_in":
        fan = fan_in
    elif mode == "fan_out":
        fan = fan_out
    elif fan_in is None or fan_out is None:
        fan = None
    elif mode == "average":
        fan = (fan_in + fan_out) / 2
    else:
        rows = shape[0] if shape and shape[0] is not None else 1
        fan = float(max(rows, fan_in))
    std = None if gain is None or not fan else gain / math.sqrt(fan)
    if std is not None and fan_in is not None:
        factor: float | None = fan_in * std * std
    else:
        factor = None if gain is None else gain * gain
    kept = mode if mode in ("fan_in", "fan_out") else None
    return InitLaw(distribution, 0.0, std, fan_in, fan_out, factor, origin, scheme, kept, location)


@lru_cache(MAX_SHAPES)
def default_law(shape: Shape, scheme: str | None = "kaiming_uniform") -> InitLaw:
    """Linear and conv weights: kaiming_uniform_(a=√5), that is Var = 1/(3·fan_in)."""
    return scaled_law("uniform", scheme, math.sqrt(1 / 3), shape, "fan_in", None, origin="default")


def default_bias(weight_shape: Shape) -> InitLaw:
    """Linear and conv biases: uniform in ±1/√fan_in of the weight."""
    return default_law(weight_shape, None)


@lru_cache(MAX_SHAPES)
def uniform_default(bound_squared: float | None, shape: Shape, square: bool = False) -> InitLaw:
    """Recurrent weights: uniform in ±√bound_squared, 1/√hidden_size in PyTorch."""
    law = plain_law("uniform", 0.0, None if bound_squared is None else math.sqrt(bound_squared / 3), shape)
    factor = law.gain_squared if law.gain_squared is not None else (1 / 3 if square else None)
    return replace(law, origin="default", gain_squared=factor)


@lru_cache(MAX_SHAPES, typed=True)
def constant_default(value: float, shape: Shape) -> InitLaw:
    """A parameter that starts as a constant, such as a norm's weight."""
    return plain_law("constant", value, 0.0, shape, origin="default")


def truncated_std(mean: float, std: float, low: float, high: float) -> tuple[float, float]:
    """Mean and std of a normal law cut to [low, high]."""
    if std <= 0:
        return mean, 0.0
    a, b = (low - mean) / std, (high - mean) / std

    def density(t: float) -> float:
        return math.exp(-t * t / 2) / math.sqrt(2 * math.pi) if abs(t) < 38 else 0.0

    mass = (math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2))) / 2
    if mass < 1e-12:
        return mean, std
    shift = (density(a) - density(b)) / mass
    spread = 1 + ((a * density(a) if abs(a) < 38 else 0) - (b * density(b) if abs(b) < 38 else 0)) / mass - shift**2
    return mean + std * shift, std * math.sqrt(max(spread, 0.0))


def law_of(name: str, shape: Shape, arguments: dict[str, Any], location: Location | None) -> InitLaw:
    """The law that a torch.nn.init function (canonical name, arguments bound) writes."""
    scheme = name.rstrip("_")
    get = arguments.get
    match name:
        case "normal_":
            return plain_law("normal", get("mean"), get("std"), shape, location, scheme)
        case "trunc_normal_":
            values = [number(get(k)) for k in ("mean", "std", "a", "b")]
            if None in values:
                return InitLaw("truncated_normal", origin="explicit", scheme=scheme, location=location)
            mean, std = truncated_std(*values)  # type: ignore[arg-type]
            return plain_law("truncated_normal", mean, std, shape, location, scheme)
        case "uniform_":
            low, high = number(get("a")), number(get("b"))
            known = low is not None and high is not None
            mean_ = (low + high) / 2 if known else None  # type: ignore[operator]
            std_ = abs(high - low) / math.sqrt(12) if known else None  # type: ignore[operator]
            return plain_law("uniform", mean_, std_, shape, location, scheme)
        case "constant_" | "ones_" | "zeros_":
            value = {"ones_": 1.0, "zeros_": 0.0}.get(name, get("val"))
            return plain_law("constant", value, 0.0, shape, location, scheme)
        case "xavier_uniform_" | "xavier_normal_":
            kind = "uniform" if "uniform" in name else "normal"
            return scaled_law(kind, scheme, number(get("gain")), shape, "average", location)
        case "kaiming_uniform_" | "kaiming_normal_":
            kind = "uniform" if "uniform" in name else "normal"
            mode = get("mode")
            gain = gain_of(get("nonlinearity"), get("a"))
            return scaled_law(kind, scheme, gain, shape, mode if isinstance(mode, str) else "fan_in", location)
        case "orthogonal_":
            return scaled_law("orthogonal", scheme, number(get("gain")), shape, "largest", location)
        case "sparse_":
            share, std_ = number(get("sparsity")), number(get("std"))
            spread = None if share is None or std_ is None else std_ * math.sqrt(max(0.0, 1 - share))
            return plain_law("sparse", 0.0, spread, shape, location, scheme)
        case "eye_" | "dirac_":
            return identity_law(scheme, shape, location)
    return InitLaw("other", origin="explicit", scheme=scheme, location=location)


def identity_law(scheme: str, shape: Shape, location: Location | None) -> InitLaw:
    """eye_ and dirac_: ones on the diagonal, zeros elsewhere; each output copies one input."""
    distribution = "eye" if scheme == "eye" else "dirac"
    if shape is None or any(s is None for s in shape) or len(shape) < 2:
        return InitLaw(distribution, gain_squared=1.0, origin="explicit", scheme=scheme, location=location)
    sizes = [s for s in shape if s is not None]
    mean = min(sizes[0], sizes[1]) / max(1, math.prod(sizes))
    return plain_law(distribution, mean, math.sqrt(max(0.0, mean - mean**2)), shape, location, scheme)


def scaled(law: InitLaw, factor: Any, location: Location | None = None) -> InitLaw:
    """The law of a·X."""
    a = number(factor)
    if a is None:
        return changed(law, location)
    gain = None if law.gain_squared is None else law.gain_squared * a * a
    return replace(
        law,
        mean=None if law.mean is None else law.mean * a,
        std=None if law.std is None else law.std * abs(a),
        gain_squared=gain,
        origin="explicit",
        scheme=None,
        location=location or law.location,
    )


def shifted(law: InitLaw, offset: Any, location: Location | None = None) -> InitLaw:
    """The law of X + a."""
    a = number(offset)
    if a is None or law.mean is None or law.std is None:
        return changed(law, location)
    mean = law.mean + a
    gain = law.gain_squared if law.fan_in is None and a == 0 else None
    if law.fan_in is not None:
        gain = law.fan_in * (law.std**2 + mean**2)
    return replace(law, mean=mean, gain_squared=gain, origin="explicit", scheme=None, location=location or law.location)


def changed(law: InitLaw, location: Location | None) -> InitLaw:
    """The law after a write whose effect is not known."""
    return InitLaw("unknown", fan_in=law.fan_in, fan_out=law.fan_out, origin="explicit", location=location)


def erfinv(law: InitLaw, location: Location | None) -> InitLaw:
    """erf⁻¹ of uniform numbers in (−1, 1): a normal law cut to an interval, over √2."""
    if law.distribution != "uniform" or law.mean is None or law.std is None:
        return changed(law, location)
    low, high = law.mean - law.std * math.sqrt(3), law.mean + law.std * math.sqrt(3)
    edge = 1 - 1e-12
    ends = [NormalDist().inv_cdf((1 + min(edge, max(-edge, t))) / 2) for t in (low, high)]
    mean, std = truncated_std(0.0, 1.0, *ends)
    made = InitLaw("truncated_normal", fan_in=law.fan_in, fan_out=law.fan_out, origin="explicit", location=location)
    return replace(made, mean=mean / math.sqrt(2), std=std / math.sqrt(2))


def for_shape(law: InitLaw, shape: Shape) -> InitLaw:
    """The same elements in a parameter of this shape: fans and gain recomputed."""
    fan_in, fan_out = fans(shape)
    if fan_in == law.fan_in and fan_out == law.fan_out and law.gain_squared is not None:
        return law
    if fan_in is None and law.gain_squared is not None:
        return replace(law, fan_in=fan_in, fan_out=fan_out)
    known = fan_in is not None and law.mean is not None and law.std is not None
    if not known and (fan_in, fan_out, None) == (law.fan_in, law.fan_out, law.gain_squared):
        return law
    gain = fan_in * (law.std**2 + law.mean**2) if known else None  # type: ignore[operator]
    return replace(law, fan_in=fan_in, fan_out=fan_out, gain_squared=gain)


def size(value: Any) -> int | None:
    """A concrete non-negative size, else None."""
    if isinstance(value, (bool, Unknown)):
        return None
    if isinstance(value, int) and value >= 0:
        return value
    return int(value) if isinstance(value, float) and value.is_integer() and value >= 0 else None
