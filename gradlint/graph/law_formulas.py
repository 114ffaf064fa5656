"""Mean and standard deviation of what each function of `torch.nn.init` draws, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gradlint.graph.model import InitLaw


def fans(shape: Sequence[int]) -> tuple[int | None, int | None]:
    """fan_in and fan_out as `torch.nn.init._calculate_fan_in_and_fan_out` has them; None below two dimensions."""
    if len(shape) < 2:
        return None, None
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def truncated_normal_moments(mean: float, std: float, low: float, high: float) -> tuple[float, float]:
    """Mean and std of N(mean, std²) cut to [low, high] (Johnson, Kotz and Balakrishnan 1994, §10.1)."""
    if std <= 0:
        return mean, 0.0
    alpha, beta = (low - mean) / std, (high - mean) / std
    density_a, density_b = _density(alpha), _density(beta)
    mass = 0.5 * (math.erf(beta / math.sqrt(2)) - math.erf(alpha / math.sqrt(2)))
    if mass < 1e-12:
        return min(max(mean, low), high), 0.0
    shift = (density_a - density_b) / mass
    edge_a = alpha * density_a if math.isfinite(alpha) else 0.0
    edge_b = beta * density_b if math.isfinite(beta) else 0.0
    variance = 1 + (edge_a - edge_b) / mass - shift**2
    return mean + std * shift, std * math.sqrt(max(0.0, variance))


def _density(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) if math.isfinite(x) else 0.0


_DEFAULTS: dict[str, tuple[tuple[str, Any], ...]] = {
    "uniform_": (("a", 0.0), ("b", 1.0)),
    "normal_": (("mean", 0.0), ("std", 1.0)),
    "trunc_normal_": (("mean", 0.0), ("std", 1.0), ("a", -2.0), ("b", 2.0)),
    "constant_": (("val", None),),
    "ones_": (),
    "zeros_": (),
    "eye_": (),
    "dirac_": (("groups", 1),),
    "xavier_uniform_": (("gain", 1.0),),
    "xavier_normal_": (("gain", 1.0),),
    "kaiming_uniform_": (("a", 0), ("mode", "fan_in"), ("nonlinearity", "leaky_relu")),
    "kaiming_normal_": (("a", 0), ("mode", "fan_in"), ("nonlinearity", "leaky_relu")),
    "orthogonal_": (("gain", 1),),
    "sparse_": (("sparsity", None), ("std", 0.01)),
}
"""The functions of torch.nn.init with the names and defaults of their arguments after the tensor."""

RECORDED = tuple(_DEFAULTS)


def law_of_call(name: str, shape: Sequence[int], arguments: Sequence[Any], keywords: dict[str, Any]) -> InitLaw | None:
    """The law of `torch.nn.init.NAME(tensor of that shape, *arguments, **keywords)`; None if it cannot be told."""
    parameters = _DEFAULTS[name]
    given = dict(parameters)
    given.update(zip((n for n, _ in parameters), arguments, strict=False))
    given.update({k: v for k, v in keywords.items() if k in given})
    scheme = name.rstrip("_")
    try:
        return _law(scheme, list(shape), given)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError, KeyError):
        return None


def _law(scheme: str, shape: list[int], given: dict[str, Any]) -> InitLaw | None:
    fan_in, fan_out = fans(shape)
    match scheme:
        case "uniform":
            a, b = float(given["a"]), float(given["b"])
            return InitLaw("uniform", (a + b) / 2, (b - a) / math.sqrt(12), scheme=scheme)
        case "normal":
            return InitLaw("normal", float(given["mean"]), float(given["std"]), scheme=scheme)
        case "trunc_normal":
            mean, std = truncated_normal_moments(*(float(given[k]) for k in ("mean", "std", "a", "b")))
            return InitLaw("truncated_normal", mean, std, scheme=scheme)
        case "constant" | "ones" | "zeros":
            value = {"ones": 1.0, "zeros": 0.0}.get(scheme, given.get("val"))
            return InitLaw("constant", float(value), 0.0, scheme=scheme)  # type: ignore[arg-type]
        case "eye":
            return _ones_among("eye", min(shape) / math.prod(shape))
        case "dirac":
            return _ones_among("dirac", min(shape[0], shape[1] * given["groups"]) / math.prod(shape))
        case "orthogonal":
            rows = shape[0]
            std = float(given["gain"]) / math.sqrt(max(rows, math.prod(shape) // rows))
            return InitLaw("orthogonal", 0.0, std, scheme=scheme)
        case "sparse":
            kept = 1 - math.ceil(float(given["sparsity"]) * shape[0]) / shape[0]
            return InitLaw("sparse", 0.0, float(given["std"]) * math.sqrt(kept), scheme=scheme)
    if fan_in is None or fan_out is None:
        return None
    distribution = scheme.rpartition("_")[2]
    if scheme.startswith("xavier"):
        return InitLaw(distribution, 0.0, float(given["gain"]) * math.sqrt(2 / (fan_in + fan_out)), scheme=scheme)
    mode = str(given["mode"]).lower()
    std = gain(given["nonlinearity"], given["a"]) / math.sqrt({"fan_in": fan_in, "fan_out": fan_out}[mode])
    return InitLaw(distribution, 0.0, std, scheme=scheme, mode=mode)


def _ones_among(scheme: str, share: float) -> InitLaw:
    return InitLaw(scheme, share, math.sqrt(share * (1 - share)), scheme=scheme)


def gain(nonlinearity: str, a: float | None) -> float:
    """`torch.nn.init.calculate_gain`. Raises KeyError for what it does not know."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + float(0.01 if a is None else a) ** 2))
    return {"relu": math.sqrt(2), "tanh": 5 / 3, "selu": 0.75}.get(nonlinearity) or _LINEAR_GAIN[nonlinearity]


_LINEAR_GAIN = dict.fromkeys(
    ["linear", "sigmoid", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], 1.0
)
