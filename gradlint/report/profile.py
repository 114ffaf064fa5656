"""What `gradlint probe` has to show, as data: models measured on one batch beside their prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gradlint.finding import Severity
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.location import Location
from gradlint.probe.experiment import Measurement, Measurements
from gradlint.probe.judging import ABSOLUTE, Health, classify, classify_losses, finite, ratio_bands, spikes
from gradlint.report.json import document as check_document
from gradlint.result import CheckedModel, Result


@dataclass(frozen=True)
class MeasuredModel:
    """A model as measured on one batch. `health` judges it by the table of the rules under `optimizer`.

    `scale_free` layers feed a normalisation, `zero_gated` ones lie on a branch that starts at zero: their absolute
    gradient says nothing. Those `beside` the signal act through gates or attention weights: neither of their gradients
    does. `broken_at` is the line that makes the first value that is not finite.
    """

    path: str
    graph: ModelGraph
    profile: Profile
    measurement: Measurement
    health: Health
    severity: Severity | None = None
    problems: tuple[str, ...] = ()
    scale_free: frozenset[str] = frozenset()
    zero_gated: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    optimizer: str | None = None
    learning_rates: tuple[float, ...] = ()
    clipped: bool | None = None
    broken_at: Location | None = None


@dataclass(frozen=True)
class Probed:
    """All that `gradlint probe` has to show. `findings` and `skipped` are in `result`, `notes` are for a person."""

    models: tuple[MeasuredModel, ...]
    result: Result
    notes: tuple[str, ...] = ()


def document(probed: Probed) -> dict[str, Any]:
    """The document of the `json` format, with what was measured of each model laid over it."""
    checked = tuple(
        CheckedModel(m.path, m.graph, m.profile, Measurements({"baseline": m.measurement})) for m in probed.models
    )
    base = check_document(
        Result(
            root=probed.result.root,
            findings=probed.result.findings,
            models=checked,
            skipped=probed.result.skipped,
            files=1,
            seconds=probed.result.seconds,
            notes=probed.notes,
        )
    )
    for entry, model in zip(base["models"], probed.models, strict=True):
        entry.update(_of_batch(model, probed.result))
        for layer in entry["layers"]:
            layer["severity"] = _value(_layer_class(layer, model))
            seen = model.measurement.layers.get(layer["name"])
            if layer["measured"] is not None and seen is not None:
                layer["measured"] |= {
                    "absolute_gradient": _known(seen.gradient),
                    "weight_norm": _known(seen.weight_norm),
                    "distinct": _known(seen.distinct),
                    "weight_histogram": list(seen.weight_histogram) or None,
                    "gradient_histogram": list(seen.gradient_histogram) or None,
                }
    return base


def _of_batch(model: MeasuredModel, result: Result) -> dict[str, Any]:
    seen, broken = model.measurement, model.broken_at
    curve = seen.losses
    return {
        "batch": seen.batch,
        "device": seen.device,
        "optimizer": model.optimizer,
        "learning_rates": list(model.learning_rates),
        "clipped": model.clipped,
        "loss": _known(seen.loss),
        "first_nonfinite": seen.first_nonfinite,
        "first_nonfinite_path": result.relative(broken.path) if broken else None,
        "first_nonfinite_line": broken.line if broken else None,
        "first_nonfinite_step": seen.nonfinite_step,
        "severity": _value(model.severity),
        "problems": list(model.problems),
        "losses": [_known(x) for x in curve],
        "loss_curve": classify_losses(curve) if curve else None,
        "gradient_norms": [_known(x) for x in seen.gradient_norms],
        "gradient_norm_class": norm_class(seen.gradient_norms),
        "notes": [*model.graph.notes, *model.profile.notes, *seen.notes],
    }


def _value(severity: Severity | None) -> str | None:
    return severity.value if severity else None


def _known(value: float | None) -> float | None:
    return value if value is not None and finite(value) else None


def norm_class(norms: Sequence[float]) -> str | None:
    """A series of gradient norms in a word: "nan", "jumping", "vanishing", "steady"; None below two steps."""
    if len(norms) < 2:
        return None
    if not all(finite(n) for n in norms):
        return "nan"
    if spikes(norms):
        return "jumping"
    low, _ = ABSOLUTE.warning
    return "vanishing" if max(norms) <= 10.0**low else "steady"


def _layer_class(layer: dict[str, Any], model: MeasuredModel) -> Severity | None:
    """The health class of one layer by what was measured of it."""
    seen = layer["measured"]
    if seen is None:
        return None
    if layer["name"] == model.measurement.first_nonfinite:
        return Severity.ERROR
    if layer["name"] in model.beside:
        return None
    gated = layer["name"] in model.zero_gated
    absolute = None if gated or layer["name"] in model.scale_free else seen["weight_gradient"]
    relative = None if gated else seen["gradient"]
    classes = (classify(relative, ratio_bands(model.optimizer)), classify(absolute, ABSOLUTE))
    return max((c for c in classes if c is not None), key=lambda c: c.rank, default=None)


def render_json(probed: Probed, before: dict[str, Any] | None = None) -> str:
    """The document as text with a final newline; an earlier one goes under `before`."""
    shown = document(probed) if before is None else {**document(probed), "before": before}
    return msgspec.json.format(msgspec.json.encode(shown), indent=1).decode() + "\n"
