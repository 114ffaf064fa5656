"""Judgements that rules draw from measurements: ratios over seeds, health classes, divergence, spikes.

Plain Python, no torch. The bands are RULES.md's table, in log10; thresholds read "at or beyond".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from gradlint.finding import Severity
from gradlint.notation import number
from gradlint.probe.experiment import OVERFLOW, Measurement

HYSTERESIS = 0.3
"""Decades by which a measurement may miss the threshold of the class that was predicted and still be in it."""

DIVERGENCE = 1.5
"""loss after ten steps on one batch / first loss, from which training diverges (2,204 runs, AUC .97 for SGD)."""

PROGRESS = 0.05
"""Share of the first loss that ten steps on one batch take off where a rate makes progress."""

SPIKE = 10.0
"""Largest gradient norm / median norm, from which a series spikes."""

EXPLODED_NORM = 1e3
"""Total gradient norm from which a step counts as exploded, whatever the median is."""

REMEDY_DECADES = 1.0
"""Decades by which a remedy has to bring a number nearer to its healthy band."""

PLAIN_OPTIMIZERS = frozenset({"sgd", "asgd"})
"""Optimizers whose step is proportional to the gradient; all others rescale it."""


class Bands(NamedTuple):
    """Healthy inside `info`; warning at or beyond `warning`, error at or beyond `error`; all log10 (low, high)."""

    info: tuple[float, float]
    warning: tuple[float, float]
    error: tuple[float, float]


RATIO_SGD = Bands((-2.0, 2.0), (-3.0, 3.0), (-5.0, 5.0))
RATIO_ADAPTIVE = Bands((-3.0, 2.5), (-4.0, 3.0), (-6.0, 6.0))
ABSOLUTE = Bands((-4.0, 2.5), (-5.0, 3.0), (-6.0, 5.0))
FORWARD = Bands((-3.0, 3.0), (-5.0, 5.0), (-math.inf, math.inf))


def ratio_bands(optimizer: str | None) -> Bands:
    """The bands of the gradient ratio under an optimizer ("SGD", "AdamW", None when unknown)."""
    return RATIO_SGD if (optimizer or "").lower() in PLAIN_OPTIMIZERS else RATIO_ADAPTIVE


class Ratio(NamedTuple):
    """A ratio over seeds: the median, `spread` = largest / smallest seed (inf if one is 0), the seeds' values."""

    median: float
    spread: float
    values: tuple[float, ...]


def finite(value: float) -> bool:
    """Whether a measured number is finite: neither NaN nor infinite, nor what stands for them."""
    return math.isfinite(value) and abs(value) < OVERFLOW


def log10(value: float) -> float:
    """log10 of a non-negative number: −inf at 0, +inf for inf and NaN (an overflow shows as either)."""
    if not finite(value):
        return math.inf
    return math.log10(value) if value > 0 else -math.inf


def gradient_ratio(measurement: Measurement | None, first: str, last: str) -> Ratio | None:
    """g = ‖∂L/∂h_first‖ / ‖∂L/∂h_last‖ between two nodes by name, taken per seed.

    None if either was not measured, or if the gradient of `last` is 0 in every seed (nothing to divide by).
    """
    if measurement is None or measurement.error:
        return None
    starts, ends = measurement.per_seed.get(first, ()), measurement.per_seed.get(last, ())
    values = tuple(_divide(a, b) for a, b in zip(starts, ends, strict=False) if b != 0)
    return _over_seeds(values)


def _divide(a: float, b: float) -> float:
    return a / b if finite(a) and finite(b) else math.inf


def _over_seeds(values: tuple[float, ...]) -> Ratio | None:
    if not values:
        return None
    smallest, largest = min(values), max(values)
    spread = 1.0 if smallest == largest else largest / smallest if smallest > 0 else math.inf
    return Ratio(median(values), spread, values)


def classify(
    value: float | None, bands: Bands, *, uncertainty: float = 0.0, claimed: Severity | None = None
) -> Severity | None:
    """The health class of a non-negative number; None is healthy (or not known).

    `uncertainty` is the half-width of its band in decades: the edge nearest to healthy is compared. `claimed` is
    the class that was predicted: it stands until the number is `HYSTERESIS` decades on the other side of its
    threshold. A NaN or infinite value is an overflow, a 0 an underflow: both are errors.
    """
    if value is None:
        return None
    return classify_log10(log10(value), bands, uncertainty=uncertainty, claimed=claimed)


def classify_log10(
    exponent: float, bands: Bands, *, uncertainty: float = 0.0, claimed: Severity | None = None
) -> Severity | None:
    """As `classify`, for a number given as its log10 (predictions below float range)."""
    # A comparison with NaN, the threshold of an open side, is False.
    for severity in (Severity.ERROR, Severity.WARNING, Severity.INFO):
        low, high = getattr(bands, severity.value)
        slack = 0.0
        if claimed is not None:
            slack = -HYSTERESIS if severity.rank <= claimed.rank else HYSTERESIS
        if exponent + uncertainty <= low - slack or exponent - uncertainty >= high + slack:
            return severity
    return None


def worse(*severities: Severity | None) -> Severity | None:
    """The most severe of some classes; None if all are healthy."""
    return max((s for s in severities if s is not None), key=lambda s: s.rank, default=None)


@dataclass(frozen=True)
class Health:
    """The three numbers of a path, judged.

    `severity` is the worst of them, None when all are inside the info row. `ratio` is g over the seeds.
    `smallest`/`largest` are (layer, norm) of the absolute weight gradients, None where not measured. `reasons` say in
    words what is outside. `measured` is False when no number was there to judge.
    """

    severity: Severity | None
    ratio: Ratio | None = None
    smallest: tuple[str, float] | None = None
    largest: tuple[str, float] | None = None
    reasons: tuple[str, ...] = field(default=())
    measured: bool = True


def health(
    measurement: Measurement | None,
    layers: Sequence[str],
    optimizer: str | None = None,
    *,
    claimed: Severity | None = None,
    scale_free: Collection[str] = (),
    zero_gated: Collection[str] = (),
    first: str | None = None,
    last: str | None = None,
) -> Health:
    """Judge a path by its hidden layers' names, in order from the input.

    The ratio is taken between `first` and `last`, by default the ends of `layers` that are not `zero_gated` (leave
    the output layer out: h_last is the last *hidden* activation). `scale_free` layers feed a normalisation: no
    absolute explosion is tested on them. `zero_gated` layers sit on a branch that starts at zero: their literal 0 is
    by design and not judged. `claimed` is the predicted class, see `classify`.
    """
    if measurement is None or measurement.error or not layers:
        return Health(None, measured=False)
    bands = ratio_bands(optimizer)
    open_layers = [name for name in layers if name not in zero_gated] or layers
    first, last = first or open_layers[0], last or open_layers[-1]
    ratio = gradient_ratio(measurement, first, last)
    seen = [measurement.layers[name] for name in layers if name in measurement.layers]
    judged = [layer for layer in seen if layer.name not in zero_gated]
    gradients = [(layer.name, layer.weight_gradient) for layer in judged if layer.weight_gradient is not None]
    signals = [(layer.name, layer.activation_std) for layer in judged if layer.activation_std is not None]
    explodable = [(name, norm) for name, norm in gradients if name not in scale_free]

    reasons = []
    classes = []
    for what, pair, limits in (
        ("gradient ratio", (first, ratio.median) if ratio else None, bands),
        ("smallest weight gradient", _least(gradients), _below(ABSOLUTE)),
        ("largest weight gradient", _most(explodable), _above(ABSOLUTE)),
        ("smallest activation std", _least(signals), _below(FORWARD)),
        ("largest activation std", _most(signals), _above(FORWARD)),
    ):
        severity = classify(pair[1], limits, claimed=claimed) if pair else None
        classes.append(severity)
        if pair and severity:
            reasons.append(f"{what} {number(pair[1])} at `{pair[0]}`")
    return Health(
        severity=worse(*classes),
        ratio=ratio,
        smallest=_least(gradients),
        largest=_most(gradients),
        reasons=tuple(reasons),
        measured=ratio is not None or bool(gradients) or bool(signals),
    )


def _below(bands: Bands) -> Bands:
    """The lower thresholds alone: nothing is too large."""
    return Bands(*((low, math.nan) for low, _ in bands))


def _above(bands: Bands) -> Bands:
    """The upper thresholds alone: nothing is too small."""
    return Bands(*((math.nan, high) for _, high in bands))


def _least(pairs: Sequence[tuple[str, float]]) -> tuple[str, float] | None:
    return min(pairs, key=lambda pair: log10(pair[1]), default=None)


def _most(pairs: Sequence[tuple[str, float]]) -> tuple[str, float] | None:
    return max(pairs, key=lambda pair: log10(pair[1]), default=None)


def distance(value: float, bands: Bands) -> float:
    """Decades by which a number lies outside the info row; 0 inside it."""
    exponent, (low, high) = log10(value), bands.info
    return max(0.0, low - exponent, exponent - high)


def diverges(measurement: Measurement | None) -> bool | None:
    """Whether steps on the same batch end above 1.5 times the first loss (or not finite); None if not measured.

    Where the optimizer has momentum β, plain SGD at lr/(1−β) counts too: ten steps do not build the momentum up. A
    curve that rose on the way and came back does not diverge: nets catapult out of sharp regions.
    """
    if measurement is None or measurement.error:
        return None
    ends = [_diverging(losses) for losses in (measurement.losses, measurement.plain_losses)]
    known = [end for end in ends if end is not None]
    return any(known) if known else None


def _diverging(losses: Sequence[float]) -> bool | None:
    if len(losses) < 2 or not finite(losses[0]):
        return None
    # A loss that may be negative (a reward) has no scale to multiply; only blowing up tells there.
    return not finite(losses[-1]) or (losses[0] > 0 and losses[-1] > DIVERGENCE * losses[0])


def progresses(measurement: Measurement | None) -> bool | None:
    """Whether steps on the same batch took at least 5 % off the first loss; None if not measured."""
    if measurement is None or measurement.error or len(measurement.losses) < 2:
        return None
    first, last = measurement.losses[0], measurement.losses[-1]
    if not finite(first):
        return None
    return finite(last) and last < first - PROGRESS * abs(first)


class Separation(NamedTuple):
    """What the script's rate does that the recommended one does not: "diverges", "collapses" or None."""

    how: str | None
    script: float
    recommended: float

    def __bool__(self) -> bool:
        return self.how is not None


def lr_separates(script: Measurement | None, recommended: Measurement | None) -> Separation | None:
    """Whether the script's learning rate fails on the batch where the recommended one does not.

    "diverges": loss_n > 1.5·loss_0 at the script's rate only. "collapses": no progress at the script's rate
    where the recommended one makes some. `script` and `recommended` of the answer are loss_n / loss_0.
    None when either was not measured.
    """
    bad, good = diverges(script), diverges(recommended)
    if bad is None or good is None or script is None or recommended is None:
        return None
    how = None
    if bad and not good:
        how = "diverges"
    elif not good and not progresses(script) and progresses(recommended):
        how = "collapses"
    return Separation(how, _growth(script.losses), _growth(recommended.losses))


def _growth(losses: Sequence[float]) -> float:
    return losses[-1] / losses[0] if losses[0] else math.nan


class Spikes(NamedTuple):
    """Largest and median gradient norm of a series and whether that is a spike."""

    spiking: bool
    largest: float
    median: float

    def __bool__(self) -> bool:
        return self.spiking


def spikes(gradient_norms: Sequence[float]) -> Spikes | None:
    """Whether a series of total gradient norms spikes: largest ≥ 10 × median, or > 1e3, or not finite.

    None for an empty series; a single norm can only exceed 1e3.
    """
    if not gradient_norms:
        return None
    usable = [n for n in gradient_norms if finite(n)]
    if len(usable) < len(gradient_norms):
        return Spikes(True, math.inf, median(usable) if usable else math.inf)
    largest, middle = max(usable), median(usable)
    return Spikes(largest > EXPLODED_NORM or (middle > 0 and largest >= SPIKE * middle), largest, middle)


def worst_stretch(gradient_norms: Sequence[float], length: int = 10) -> tuple[float, ...]:
    """The `length` consecutive norms of which the largest stands out most from their median.

    What is called a spike is told over ten steps: in a longer series the median falls as training goes on, and the
    first norms would look like spikes.
    """
    norms = tuple(gradient_norms)
    if len(norms) <= length:
        return norms
    stretches = [norms[i : i + length] for i in range(len(norms) - length + 1)]
    return max(stretches, key=_prominence)


def _prominence(norms: Sequence[float]) -> tuple[bool, float, float]:
    seen = spikes(norms)
    assert seen is not None
    factor = seen.largest / seen.median if seen.median > 0 and math.isfinite(seen.largest) else math.inf
    return seen.spiking, factor, seen.largest


def growth_per_step(hidden_state_gradients: Sequence[float]) -> float | None:
    """log10 of the factor on ‖∂L/∂h_t‖ per time step *back*, from t = T to t = 1; None if not known.

    Negative: the gradient vanishes on the way to the first step. The steps after the largest finite, non-zero
    stretch (underflow) are left out.
    """
    usable = [log10(g) for g in reversed(hidden_state_gradients)]
    stretch: list[float] = []
    for exponent in usable:
        if math.isinf(exponent):
            break
        stretch.append(exponent)
    if len(stretch) < 2:
        return None
    return (stretch[-1] - stretch[0]) / (len(stretch) - 1)


def classify_losses(losses: Sequence[float]) -> str:
    """A loss curve in one word: "nan", "diverging", "jumping", "oscillating", "flat", "healthy" or "too short".

    Over the whole curve; the noise of fresh batches is taken as the median change between neighbours.
    """
    if any(not finite(loss) for loss in losses):
        return "nan"
    if len(losses) < 3:
        return "too short"
    first, last = median(losses[: max(1, len(losses) // 5)]), median(losses[-max(1, len(losses) // 5) :])
    scale = max(abs(first), 1e-12)
    if last > DIVERGENCE * scale:
        return "diverging"
    changes = [b - a for a, b in itertools.pairwise(losses)]
    if max(losses) > max(3 * scale, SPIKE * median(abs(loss) for loss in losses)):
        return "jumping"
    turns = sum(a * b < 0 for a, b in itertools.pairwise(changes))
    typical = median(abs(c) for c in changes)
    if len(changes) >= 4 and turns >= 0.8 * (len(changes) - 1) and typical > 0.1 * scale:
        return "oscillating"
    if first - last < PROGRESS * scale:
        return "flat"
    return "healthy"
