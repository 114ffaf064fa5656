"""What a script says of its models beyond their code: the loss, the shape of a sample, who trains them."""

from __future__ import annotations

import re
from dataclasses import replace

from gradlint.graph.model import Loss, ModelGraph
from gradlint.source.script import Model, Optimizer, Script
from gradlint.source.value import Call
from gradlint.worker.protocol import InputHint

LOSS_KINDS = {
    "CrossEntropyLoss": "cross_entropy",
    "cross_entropy": "cross_entropy",
    "NLLLoss": "nll",
    "nll_loss": "nll",
    "BCEWithLogitsLoss": "bce_with_logits",
    "binary_cross_entropy_with_logits": "bce_with_logits",
    "BCELoss": "bce",
    "binary_cross_entropy": "bce",
    "MSELoss": "mse",
    "mse_loss": "mse",
    "L1Loss": "l1",
    "l1_loss": "l1",
    "SmoothL1Loss": "smooth_l1",
    "smooth_l1_loss": "smooth_l1",
    "HuberLoss": "smooth_l1",
    "huber_loss": "smooth_l1",
    "KLDivLoss": "kl",
    "kl_div": "kl",
    "CTCLoss": "ctc",
    "ctc_loss": "ctc",
}


def loss_of(script: Script | None) -> Loss:
    """The training loss of a script. Several kinds of loss in one file leave it unknown."""
    calls = {kind: call for call in (script.losses if script else ()) if (kind := _kind(call))}
    if len(calls) != 1:
        return Loss()
    ((kind, call),) = calls.items()
    reduction = call.arguments.get("reduction")
    value = reduction.only.value if reduction and reduction.only else "mean"
    return Loss(kind=kind, reduction=value if isinstance(value, str) else "mean", location=call.location)


def _kind(call: Call) -> str | None:
    names = (name.rpartition(".")[2] for name in call.callee)
    return next((LOSS_KINDS[n] for n in names if n in LOSS_KINDS), None)


def input_hint(script: Script | None, spec: str | None = None) -> InputHint:
    """What is known of the model's input and loss."""
    name, sample = script.dataset if script and script.dataset else (None, None)
    return InputHint(spec=spec, sample=sample, dataset=name, law=pixel_law(script), loss=loss_of(script))


def pixel_law(script: Script | None) -> str | None:
    """ "uniform01" where a script scales its images to [0, 1] and does not standardise them, else None."""
    text = script.text if script else ""
    standardised = re.search(r"\b(?:[Nn]ormalize|AutoImageProcessor|weights\.transforms|create_transform)\s*\(", text)
    scaled = re.search(r"\bToTensor\s*\(|\bto_tensor\s*\(|\bscale\s*=\s*True|/\s*255\b", text)
    return "uniform01" if scaled and not standardised else None


def models_of(script: Script, graph: ModelGraph) -> list[Model]:
    """The script's models that this graph is of: constructed at the same line, else of the same class."""
    at = graph.location
    same_line = [m for m in script.models if at and (m.location.path, m.location.line) == (at.path, at.line)]
    if same_line:
        exact = [m for m in same_line if m.name in (graph.name, f"self.{graph.name}")]
        return exact or same_line
    name = graph.class_name or graph.name
    return [m for m in script.models if any(c.rpartition(".")[2] == name for c in m.classes)]


def optimizers_of(script: Script | None, graph: ModelGraph) -> tuple[Optimizer, ...]:
    """The optimizers that update the model; of a script with one model and one optimizer, that one."""
    if script is None:
        return ()
    models = {(m.name, m.location) for m in models_of(script, graph)}
    found = tuple(o for o in script.optimizers if any((m.name, m.location) in models for m in o.models))
    if not found and len(script.optimizers) == 1 and len(script.models) == 1 and models:
        return script.optimizers
    return found


def with_loss(graph: ModelGraph, script: Script | None) -> ModelGraph:
    """The graph with the script's loss, where it does not know its own."""
    return replace(graph, loss=loss_of(script)) if graph.loss.kind == "unknown" else graph
