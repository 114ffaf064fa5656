"""Numbers of several processes, each of which saw a part of one batch, as one process with all of it has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gradlint.probe.statistics import Moments


def merged_moments(parts: Sequence[Mapping[str, Sequence[Any]]], gradient: str) -> dict[str, Moments]:
    """Moments by key over the parts of a batch; a key that one part has not counts for the others.

    Keys that begin with `gradient` are of gradients under the loss of each part scaled by its share of the samples
    times the number of parts (so that a mean over parts is the gradient under the whole): they are scaled back.
    """
    keys = dict.fromkeys(key for part in parts for key in part)
    factor = 1 / len(parts)
    found = {}
    for key in keys:
        rows = [Moments(*part[key]) for part in parts if key in part]
        found[key] = _together(rows)
        if key.startswith(gradient):
            found[key] = found[key].scaled(factor)
    return found


def _together(rows: Sequence[Moments]) -> Moments:
    """The sums over all rows; Σ_columns(Σ_samples x)² so that `distinct` compares pairs within a row alone."""
    samples = sum(r.samples for r in rows)
    square = sum(r.square for r in rows)
    pairs = sum((r.samples - 1) * r.square for r in rows)
    apart = sum(r.samples * r.square - r.column_square for r in rows)
    share = apart / pairs if pairs > 0 and math.isfinite(pairs) else 0.0
    return Moments(
        total=sum(r.total for r in rows),
        square=square,
        column_square=samples * square - share * (samples - 1) * square if samples > 1 else square,
        outside=sum(r.outside for r in rows),
        elements=int(sum(r.elements for r in rows)),
        samples=int(samples) if any(r.samples > 1 for r in rows) else 1,
    )


def merged_dead(parts: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """The share of units that were 0 in every part, by key; a part is a string of "1" (silent) and "0"."""
    keys = dict.fromkeys(key for part in parts for key in part)
    found = {}
    for key in keys:
        rows = [part[key] for part in parts if key in part]
        silent = [all(flag == "1" for flag in unit) for unit in zip(*rows, strict=False)]
        found[key] = sum(silent) / len(silent) if silent else 0.0
    return found


def merged_loss(losses: Sequence[float], samples: Sequence[int]) -> float:
    """The mean loss over all samples, of the mean loss over each part."""
    return sum(loss * n for loss, n in zip(losses, samples, strict=True)) / sum(samples)
