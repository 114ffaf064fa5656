"""The `json` format, version 1: stable, read by other programs."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gradlint.finding import Evidence, Finding, Fix, Outcome
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import LayerProfile
from gradlint.location import Location
from gradlint.probe.experiment import LayerMeasurement
from gradlint.result import CheckedModel, Result
from gradlint.rule import registry

VERSION = 1


def render(result: Result) -> str:
    """The whole result as one JSON document with a final newline."""
    return msgspec.json.format(msgspec.json.encode(document(result)), indent=1).decode() + "\n"


def document(result: Result) -> dict[str, Any]:
    """The document as plain values. Fields may be added within a version, never removed; unknown is null."""
    return {
        "version": VERSION,
        "findings": [_finding(f, result) for f in result.findings],
        "models": [_model(m, result) for m in result.models],
        "skipped": [
            {
                "path": result.relative(s.location.path),
                "cell": s.location.cell,
                "line": s.location.line,
                "reason": s.reason,
            }
            for s in result.skipped
        ],
        "notes": list(result.notes),
        "summary": {
            "files": result.files,
            "findings": len(result.findings),
            "confirmed": result.count(Outcome.CONFIRMED),
            "refuted": result.count(Outcome.REFUTED),
            "unverified": result.count(Outcome.UNVERIFIED),
            "seconds": round(result.seconds, 3),
        },
    }


def _finding(finding: Finding, result: Result) -> dict[str, Any]:
    at, verdict = finding.location, finding.verdict
    rule = registry().get(finding.code)
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.value,
        "message": finding.message,
        "help": finding.help,
        "path": result.relative(at.path),
        "cell": at.cell,
        "line": at.line,
        "column": at.column,
        "end_line": at.end_line,
        "end_column": at.end_column,
        "verdict": verdict.outcome.value if verdict else None,
        "verdict_reason": verdict.reason if verdict else None,
        "model": model_name(finding.model, result),
        "optimizer": finding.optimizer,
        "confidence": finding.confidence,
        "primary": finding.primary,
        "evidence": _evidence(finding.evidence),
        "related": [
            {
                "path": result.relative(r.location.path),
                "cell": r.location.cell,
                "line": r.location.line,
                "column": r.location.column,
                "message": r.message,
            }
            for r in finding.related
        ],
        "fix": _fix(finding.fix, result),
        "url": rule.url() if rule else None,
    }


def model_name(model: str | None, result: Result) -> str | None:
    """A finding's `path:Name` with the path relative to the root."""
    path, colon, name = (model or "").rpartition(":")
    return f"{result.relative(path)}:{name}" if colon else model


def _evidence(evidence: Evidence) -> dict[str, Any]:
    return {
        "predicted_gradient_ratio": finite(evidence.predicted_gradient_ratio),
        "measured_gradient_ratio": finite(evidence.measured_gradient_ratio),
        "whatif": {k: finite(v) for k, v in evidence.whatif.items()},
        "spread": finite(evidence.spread),
        "seeds": evidence.seeds,
        "attribution": [[name, finite(x)] for name, x in evidence.attribution],
        "numbers": {k: v if isinstance(v, str) else finite(v) for k, v in evidence.numbers.items()},
    }


def _fix(fix: Fix | None, result: Result) -> dict[str, Any] | None:
    if fix is None:
        return None
    edits = [{**_span(e.location, result), "replacement": e.replacement} for e in fix.edits]
    return {"message": fix.message, "safe": fix.safe, "edits": edits}


def _span(at: Location, result: Result) -> dict[str, Any]:
    return {
        "path": result.relative(at.path),
        "cell": at.cell,
        "line": at.line,
        "column": at.column,
        "end_line": at.end_line,
        "end_column": at.end_column,
    }


def _model(model: CheckedModel, result: Result) -> dict[str, Any]:
    graph, profile = model.graph, model.profile
    baseline = model.measurements.baseline if model.measurements else None
    at = graph.location
    return {
        "name": graph.class_name or graph.name,
        "variable": graph.name,
        "path": result.relative(at.path if at else model.path),
        "cell": at.cell if at else None,
        "line": at.line if at else None,
        "traced_by": graph.traced_by,
        "confidence": _lower(graph.confidence, profile.confidence),
        "placeholders": list(graph.placeholders),
        "unknown_ops": list(profile.unknown_ops),
        "notes": [*graph.notes, *profile.notes],
        "input": graph.input,
        "device": baseline.device if baseline else None,
        "guarantees": list(model.guarantees),
        "layers": [
            _layer(x, graph, baseline.layers.get(x.name) if baseline else None, _last(profile.layers, baseline), result)
            for x in profile.layers
        ],
    }


def _last(layers: tuple[LayerProfile, ...], baseline: Any) -> float | None:
    """The measured gradient of the last hidden layer, which the others are given relative to."""
    if baseline is None or not layers:
        return None
    reference = next((x for x in reversed(layers) if x.gradient == 0.0), layers[-1])
    seen = baseline.layers.get(reference.name)
    return seen.gradient if seen else None


def _layer(
    layer: LayerProfile, graph: ModelGraph, seen: LayerMeasurement | None, reference: float | None, result: Result
) -> dict[str, Any]:
    node = graph.nodes[layer.node]
    place = node.best_location
    elsewhere = place is not None and graph.location is not None and place.path != graph.location.path
    relative = seen.gradient / reference if seen and seen.gradient is not None and reference else None
    return {
        "name": layer.name,
        "kind": layer.kind,
        "cell": place.cell if place else None,
        "line": place.line if place else None,
        "path": result.relative(place.path) if elsewhere and place else None,
        "also": list(_aliases(graph, layer.node)),
        "predicted": {
            "activation_std": power(layer.activation_std),
            "gradient": power(layer.gradient),
            "weight_gradient": power(layer.weight_gradient),
            "band": [power(x) for x in layer.band] if layer.band else None,
            "saturated": finite(layer.saturated),
            "log10_gradient": finite(layer.gradient),
        },
        "measured": seen
        and {
            "activation_std": finite(seen.activation_std),
            "gradient": finite(relative),
            "weight_gradient": finite(seen.weight_gradient),
            "saturated": finite(seen.saturated),
            "dead": finite(seen.dead),
            "update_ratio": finite(seen.update_ratio),
        },
    }


def _aliases(graph: ModelGraph, node: int) -> tuple[str, ...]:
    names = graph.nodes[node].parameters.get("weight")
    parameter = graph.parameter.get(names) if names else None
    return parameter.aliases if parameter else ()


def _lower(*levels: str) -> str:
    order = ("low", "medium", "high")
    return min(levels, key=lambda x: order.index(x) if x in order else 2)


def power(log10: float | None) -> float | None:
    """10**x as a float; what is beyond a float's range is given as the nearest one, not as 0 or infinity."""
    if log10 is None or not math.isfinite(log10):
        return None
    return float(10.0 ** min(max(log10, -307.0), 308.0))


def finite(value: float | None) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None
