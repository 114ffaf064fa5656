"""How severe a predicted or measured path is: RULES.md's table over ratio, absolute gradient and forward signal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from gradlint.finding import Severity
from gradlint.graph.model import Node
from gradlint.graph.profile import LayerProfile, Profile
from gradlint.notation import from_log10, number
from gradlint.probe.experiment import Measurement
from gradlint.probe.judging import (
    ABSOLUTE,
    FORWARD,
    HYSTERESIS,
    PLAIN_OPTIMIZERS,
    RATIO_ADAPTIVE,
    RATIO_SGD,
    Bands,
    Ratio,
    classify,
    classify_log10,
    distance,
    gradient_ratio,
    worse,
)
from gradlint.rule import RuleOptions

Pair = tuple[float, float]


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Healthy inside `info`; a finding is a warning or an error at or beyond the other two. Plain numbers."""

    info: Pair
    warning: Pair
    error: Pair

    def __post_init__(self) -> None:
        lows, highs = zip(self.error, self.warning, self.info, strict=True)
        if not 0 <= lows[0] <= lows[1] <= lows[2] <= highs[2] <= highs[1] <= highs[0]:
            raise ValueError("`info` has to lie within `warning`, and `warning` within `error`, none below 0")

    @classmethod
    def of(cls, bands: Bands) -> Band:
        """The thresholds of a table of exponents."""
        info, warning, error = ((10.0**low, 10.0**high) for low, high in bands)
        return cls(info, warning, error)

    def log10(self) -> Bands:
        """The same thresholds as exponents; 0 and inf stay open ends."""
        info, warning, error = ((_exponent(a), _exponent(b)) for a, b in (self.info, self.warning, self.error))
        return Bands(info, warning, error)


def _exponent(value: float) -> float:
    return math.log10(value) if value > 0 and math.isfinite(value) else (math.inf if value > 0 else -math.inf)


class RatioOptions(RuleOptions, frozen=True):
    """Thresholds on the gradient ratio g of a path.

    `ratio_plain` is for SGD, whose step is proportional to the gradient, `ratio_adaptive` for all others and
    the unknown. Two small studies set them (176 and 103 nets).
    """

    ratio_plain: Band = Band.of(RATIO_SGD)
    ratio_adaptive: Band = Band.of(RATIO_ADAPTIVE)

    def ratio(self, algorithm: str | None) -> Bands:
        """The ratio's bands under an optimizer."""
        plain = (algorithm or "").lower() in PLAIN_OPTIMIZERS
        return (self.ratio_plain if plain else self.ratio_adaptive).log10()


class BandOptions(RatioOptions, frozen=True):
    """Thresholds on all three numbers of a path, shared by the rules of GL1 to GL3.

    `absolute` is for the norm of a weight gradient under the mean-reduced loss, `forward` for the std of an
    activation.
    """

    absolute: Band = Band.of(ABSOLUTE)
    forward: Band = Band.of(FORWARD)


@dataclass(frozen=True)
class PathHealth:
    """The three numbers of a path, predicted or measured.

    `ratio` is log10 g; `severity` is None where all is inside the info row; `known` is False where nothing can be
    said. `ratio_severity` is that of g alone. `smallest`, `largest`: (layer, log10 norm) of weight gradients.
    `reasons` say what is outside, in words, `grows` whether the first of them is too large rather than too small.
    `spread`, `seeds` and `outside` (decades by which the worst of the three lies beyond the info row) are of a
    measurement, and so are `culprit` and `quantity`: the layer that the first reason names, and which field of its
    measurement.
    """

    ratio: float | None = None
    severity: Severity | None = None
    ratio_severity: Severity | None = None
    known: bool = False
    smallest: tuple[str, float] | None = None
    largest: tuple[str, float] | None = None
    reasons: tuple[str, ...] = field(default=())
    spread: float | None = None
    seeds: int | None = None
    overflow: str | None = None
    outside: float = 0.0
    grows: bool = False
    culprit: str | None = None
    quantity: str = ""

    @property
    def explodes(self) -> bool:
        """Whether the gradient grows towards the input."""
        return self.ratio is not None and self.ratio > 0


def predicted_path(profile: Profile, layers: Sequence[Node], algorithm: str | None, options: BandOptions) -> PathHealth:
    """What the profile says of a path of weighted layers, in order from the input, the output layer left out.

    A node whose profile is void says nothing, nor does one whose weights only scale what a norm divides. Thresholds
    are compared with the edge of the band nearest to healthy, widened to at least 0.3 decades. Zero-initialised
    branches count as the milder of literal and grown.
    """
    redundant = {layer.node for layer in profile.layers if layer.redundant}
    layers = [n for n in layers if n.id not in redundant]
    literal = _predicted(profile, layers, algorithm, options)
    if profile.grown is None:
        return literal
    grown = _predicted(profile.grown, layers, algorithm, options)
    milder = literal if _rank(literal.severity) <= _rank(grown.severity) else grown
    return milder if milder.known else literal


def _rank(severity: Severity | None) -> int:
    return -1 if severity is None else severity.rank


def _predicted(profile: Profile, layers: Sequence[Node], algorithm: str | None, options: BandOptions) -> PathHealth:
    if not layers:
        return PathHealth()
    ratio, uncertainty = predicted_ratio(profile, layers[0].id, layers[-1].id)
    by_node = {layer.node: layer for layer in profile.layers}
    found = [by_node[n.id] for n in layers if n.id in by_node and not _void(profile, n.id)]
    absolute, forward = options.absolute.log10(), options.forward.log10()
    ratio_severity = None
    reasons: list[str] = []
    if ratio is not None:
        ratio_severity = classify_log10(ratio, options.ratio(algorithm), uncertainty=max(uncertainty, HYSTERESIS))
    classes = [ratio_severity]
    grows: list[bool] = []
    for layer in found:
        weight = _weight_severity(layer, absolute)
        signal = None
        if layer.activation_std is not None and not layer.zero_gated:
            signal = classify_log10(layer.activation_std, forward, uncertainty=HYSTERESIS)
        if weight:
            grows.append((layer.weight_gradient or 0.0) > 0)
        if signal:
            grows.append((layer.activation_std or 0.0) > 0)
        if weight and not reasons:
            reasons.append(f"the weight gradient of layer `{layer.name}` has norm {from_log10(layer.weight_gradient)}")
        if signal and len(reasons) < 2:
            reasons.append(f"the output of layer `{layer.name}` has a std of {from_log10(layer.activation_std)}")
        classes += [weight, signal]
    norms = [(x.name, x.weight_gradient) for x in found if x.weight_gradient is not None and not x.zero_gated]
    return PathHealth(
        ratio=ratio,
        severity=worse(*classes),
        ratio_severity=ratio_severity,
        known=ratio is not None or bool(norms),
        smallest=min(norms, key=lambda p: p[1], default=None),
        largest=max(norms, key=lambda p: p[1], default=None),
        reasons=tuple(reasons),
        grows=bool(grows) and grows[0],
    )


def _void(profile: Profile, node: int) -> bool:
    return node < len(profile.void) and profile.void[node]


def predicted_ratio(profile: Profile, first: int, last: int) -> tuple[float | None, float]:
    """log10 of ‖∂L/∂h_first‖ / ‖∂L/∂h_last‖ and the half-width of its band in decades.

    What is uncertain between the loss and h_last is common to both and cancels.
    """
    if _void(profile, first) or _void(profile, last):
        return None, 0.0
    at = profile.gradient_at
    if max(first, last) >= len(at) or at[first] is None or at[last] is None:
        return None, 0.0
    start, end = at[first], at[last]
    if start is None or end is None or not math.isfinite(end):
        return None, 0.0
    width = profile.uncertainty_at
    one = width[first] if first < len(width) else 0.0
    other = width[last] if last < len(width) else 0.0
    return start - end, math.sqrt(max(0.0, one * one - other * other))


def _weight_severity(layer: LayerProfile, bands: Bands) -> Severity | None:
    if layer.weight_gradient is None or layer.zero_gated:
        return None
    uncertainty = HYSTERESIS
    if layer.weight_band is not None:
        low, high = layer.weight_band
        small = layer.weight_gradient < 0
        uncertainty = max(uncertainty, high - layer.weight_gradient if small else layer.weight_gradient - low)
    limits = vanishing(bands) if layer.scale_free else bands
    return classify_log10(layer.weight_gradient, limits, uncertainty=uncertainty)


def vanishing(bands: Bands) -> Bands:
    """The lower thresholds alone."""
    return Bands(*((low, math.nan) for low, _ in bands))


def measured_path(
    measurement: Measurement | None,
    layers: Sequence[str],
    algorithm: str | None,
    options: BandOptions,
    *,
    claimed: Severity | None = None,
    scale_free: Sequence[str] = (),
    zero_gated: Sequence[str] = (),
) -> PathHealth:
    """What a measurement says of a path of weighted layers by name. `claimed` gives the hysteresis."""
    if measurement is None or measurement.error or not layers:
        return PathHealth()
    g: Ratio | None = gradient_ratio(measurement, layers[0], layers[-1])
    ratio_severity = classify(g.median, options.ratio(algorithm), claimed=claimed) if g else None
    classes = [ratio_severity]
    outside = [distance(g.median, options.ratio(algorithm))] if g else [0.0]
    reasons: list[str] = []
    culprits: list[tuple[str, str]] = []
    absolute, forward = options.absolute.log10(), options.forward.log10()
    norms: list[tuple[str, float]] = []
    for name in layers:
        layer = measurement.layers.get(name)
        if layer is None or name in zero_gated:
            continue
        if layer.weight_gradient is not None:
            limits = vanishing(absolute) if name in scale_free else absolute
            found = classify(layer.weight_gradient, limits, claimed=claimed)
            if found and not reasons:
                reasons.append(f"the weight gradient of layer `{name}` has norm {number(layer.weight_gradient)}")
                culprits.append((name, "weight_gradient"))
            classes.append(found)
            outside.append(distance(layer.weight_gradient, limits))
            norms.append((name, _exponent(layer.weight_gradient)))
        if layer.activation_std is not None:
            found = classify(layer.activation_std, forward, claimed=claimed)
            if found and len(reasons) < 2:
                reasons.append(f"the output of layer `{name}` has a std of {number(layer.activation_std)}")
                culprits.append((name, "activation_std"))
            classes.append(found)
            outside.append(distance(layer.activation_std, forward))
    overflow = measurement.first_nonfinite
    if overflow is not None:
        classes.append(Severity.ERROR)
        reasons.insert(0, f"`{overflow}` is not finite")
    return PathHealth(
        ratio=_exponent(g.median) if g else None,
        severity=worse(*classes),
        ratio_severity=ratio_severity,
        known=g is not None or bool(norms) or overflow is not None,
        smallest=min(norms, key=lambda p: p[1], default=None),
        largest=max(norms, key=lambda p: p[1], default=None),
        reasons=tuple(reasons),
        spread=g.spread if g else None,
        seeds=measurement.seeds,
        overflow=overflow,
        outside=math.inf if overflow is not None else max(outside),
        culprit=culprits[0][0] if culprits else None,
        quantity=culprits[0][1] if culprits else "",
    )


def power(exponent: float | None) -> float | None:
    """10 to the exponent; 0.0 and inf where a float cannot hold it, None for None."""
    if exponent is None:
        return None
    if math.isnan(exponent):
        return None
    return 10.0**exponent if -320 < exponent < 308 else (0.0 if exponent < 0 else math.inf)


def consequence(severity: Severity | None, *, explodes: bool = False) -> str:
    """What it does to training, in the words that the severity allows."""
    match severity:
        case Severity.ERROR:
            return "the first layers will not train"
        case Severity.WARNING:
            return "training is unstable" if explodes else "the first layers train much slower"
        case _:
            return ""


def layer_flags(profile: Profile, layers: Sequence[Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the layers whose weight feeds a normalisation, and of those that get no gradient by design: on a branch
    that starts at zero, or with nothing but a scale that a norm divides out."""
    by_node = {layer.node: layer for layer in profile.layers}
    found = [by_node[n.id] for n in layers if n.id in by_node]
    silent = (x.name for x in found if x.zero_gated or x.redundant)
    return tuple(x.name for x in found if x.scale_free), tuple(silent)
