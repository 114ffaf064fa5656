"""Weights that a forward computes from parameters (weight standardisation, a scaled weight), and their init laws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite, prod, sqrt
from typing import Any

import torch
from torch import Tensor, fx

from gradlint.graph.lower_draft import Draft, Drafts
from gradlint.graph.model import InitLaw
from gradlint.graph.record import Record

_ANCHORS = ("linear", "conv", "conv_transpose")
MAX_ELEMENTS = 1 << 24
"""A larger weight is not computed on a sample: 64 MB."""
_SAME = 0.02
"""Two estimates of one standard deviation from thousands of elements agree this well."""

_CENTRED = 1e-2
"""Share of what chance would leave of the sum of an output's weights, below which it is zero by construction."""


def settle_weights(graph: fx.Graph, drafts: Drafts, laws: Mapping[str, InitLaw]) -> dict[str, InitLaw]:
    """Give each layer whose weight is computed from parameters alone that parameter as its weight.

    The result maps the parameter's name to the law of what is computed of it, found by computing it once on a
    sample of the parameters' laws. Parameters whose law is not known are left out of it.
    """
    made: dict[str, InitLaw] = {}
    nodes = list(graph.nodes)
    for draft in drafts.values():
        if draft.kind not in _ANCHORS or "weight" in draft.parameters or len(draft.inputs) < 2:
            continue
        weight = drafts[draft.inputs[1]]
        if weight.kind == "input" or weight.op == draft.op:
            continue
        sources = _sources(weight, drafts)
        if sources is None:
            continue
        largest = max(sources, key=lambda d: (prod(s or 1 for s in d.shape or ()), _spread(d, laws)))
        draft.parameters = {"weight": largest.parameters["weight"], **draft.parameters}
        draft.inputs = [draft.inputs[0], *draft.inputs[2:]]
        law = _computed(nodes[weight.key], laws)
        if law is not None:
            before = laws.get(largest.parameters["weight"])
            made[largest.parameters["weight"]] = _placed(law, before)
        elif len(sources) > 1:
            # A mean and a scale of noise, two factors: what each starts at is not what the layer does.
            made[largest.parameters["weight"]] = InitLaw("unknown", origin="explicit")
    return made


def _spread(draft: Draft, laws: Mapping[str, InitLaw]) -> float:
    """The standard deviation that a parameter starts with."""
    law = laws.get(draft.parameters["weight"])
    return (law.std or 0.0) if law is not None else 0.0


def _sources(weight: Draft, drafts: Drafts) -> list[Draft] | None:
    """The parameters that a weight is computed from, or None where data or unknown values enter."""
    found, waiting, seen = [], [weight.key], {weight.key}
    while waiting:
        draft = drafts[waiting.pop()]
        if draft.kind == "input" or (draft.kind in _ANCHORS and draft is not weight):
            return None
        if draft.kind == "parameter" and draft.op == "parameter":
            found.append(draft)
        fresh = [i for i in draft.inputs if i not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return found or None


def _computed(node: fx.Node, laws: Mapping[str, InitLaw]) -> InitLaw | None:
    """The law of a computed weight, from one sample of it."""
    generator = torch.Generator().manual_seed(0)
    values: dict[fx.Node, Any] = {}

    def value(of: fx.Node) -> Any:
        if of not in values:
            values[of] = _evaluated(of, value, laws, generator)
        return values[of]

    try:
        with torch.no_grad():
            sample = value(node)
    except Exception:
        # An operation that cannot be repeated from its record (a module, a dtype argument) leaves the law unknown.
        return None
    if not isinstance(sample, Tensor) or not sample.numel() or not sample.is_floating_point():
        return None
    mean, std = float(sample.double().mean()), float(sample.double().std(correction=0))
    if not isfinite(std):
        return None
    # A mean within three standard errors is chance.
    law = InitLaw("other", mean if abs(mean) > 3.0 * std / sqrt(sample.numel()) else 0.0, std)
    if sample.dim() < 2 or not std:
        return law
    rows = sample.double().flatten(1)
    centred = rows.shape[1] > 1 and float(rows.mean(1).abs().max()) < _CENTRED * std / sqrt(rows.shape[1])
    return replace(law, centred=centred)


def _evaluated(node: fx.Node, value: Any, laws: Mapping[str, InitLaw], generator: torch.Generator) -> Any:
    record: Record = node.meta["gradlint"]
    if node.op == "get_attr":
        law = laws.get(record.name)
        if law is None or law.std is None or law.mean is None or record.shape is None or record.op != "parameter":
            raise LookupError(record.name)
        return drawn(law, record.shape, generator)
    if node.op != "call_function":
        raise LookupError(node.op)
    args, kwargs = fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def drawn(law: InitLaw, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A sample of a parameter's law: uniform or normal by its mean and standard deviation.

    Raises LookupError where it is too large.
    """
    if prod(shape) > MAX_ELEMENTS:
        raise LookupError("too large")
    mean, std = law.mean or 0.0, law.std or 0.0
    if law.distribution == "uniform":
        return mean + std * sqrt(3.0) * (2.0 * torch.rand(shape, generator=generator) - 1.0)
    return mean + std * torch.randn(shape, generator=generator)


def _placed(law: InitLaw, before: InitLaw | None) -> InitLaw:
    """The computed law with the fans of the weight, and where the parameter's own was decided."""
    if before is None:
        return law
    assert law.std is not None
    std = law.std
    law = replace(law, per_unit=std / before.std if before.std else 1.0)
    if not law.centred and before.std and abs(std / before.std - 1.0) < _SAME:
        return before
    second = std**2 + (law.mean or 0.0) ** 2
    gain = None if before.fan_in is None else before.fan_in * second
    return replace(
        before,
        distribution="other",
        mean=law.mean,
        std=law.std,
        gain_squared=gain,
        scheme=None,
        per_unit=law.per_unit,
        centred=law.centred,
    )
