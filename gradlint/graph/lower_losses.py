"""A loss that the forward computes itself: the graph ends in what the loss reads, as where a script computes it."""

from __future__ import annotations

from gradlint.graph.lower_draft import Draft, Drafts
from gradlint.graph.model import Loss

LOSSES = {
    "cross_entropy": "cross_entropy",
    "nll_loss": "nll",
    "nll_loss_nd": "nll",
    "binary_cross_entropy": "bce",
    "binary_cross_entropy_with_logits": "bce_with_logits",
    "mse_loss": "mse",
    "l1_loss": "l1",
    "smooth_l1_loss": "smooth_l1",
    "huber_loss": "smooth_l1",
    "kl_div": "kl",
    "ctc_loss": "ctc",
}
"""Functions of torch.nn.functional and the kind of loss that each is (see `gradlint.graph.model.Loss`)."""

_BETWEEN = frozenset(["add", "mul", "scale", "cat", "reduce", "reshape", "activation", "constant"])
"""Kinds of what may stand between a loss and the output: sums, means, weights, a focal factor."""


def open_losses(drafts: Drafts) -> Loss:
    """Let outputs that are scalars made of losses be what the losses read; the kind of the first, or unknown."""
    first = Loss()
    for output in [d for d in drafts.values() if d.kind == "output"]:
        inputs: list[int] = []
        for i in output.inputs:
            losses = _losses(drafts, i) if drafts[i].shape == () else []
            inputs += [o for loss in losses if (o := _prediction(drafts, loss)) is not None] or [i]
            if losses and first.kind == "unknown":
                first = _described(losses[0])
        output.inputs = list(dict.fromkeys(inputs))
    return first


def _losses(drafts: Drafts, start: int) -> list[Draft]:
    """The losses that a scalar is computed from, in the order of the forward."""
    found: dict[int, Draft] = {}
    stack, seen = [start], {start}
    while stack:
        draft = drafts[stack.pop()]
        if draft.op in LOSSES:
            found[draft.key] = draft
        elif draft.kind in _BETWEEN and not draft.parameters:
            fresh = [i for i in draft.inputs if i not in seen]
            seen.update(fresh)
            stack.extend(fresh)
    return [found[key] for key in sorted(found)]


def _prediction(drafts: Drafts, loss: Draft) -> int | None:
    """The operand that is trained: the first that is no input and no constant, such as a target."""
    return next((i for i in loss.inputs if drafts[i].floating and drafts[i].kind not in ("input", "constant")), None)


def _described(loss: Draft) -> Loss:
    reduction = "sum" if loss.attributes.get("reduction") == "sum" else "mean"
    return Loss(LOSSES[loss.op], reduction, location=loss.location, inside=True)
