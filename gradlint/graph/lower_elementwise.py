"""Activations that a traced forward writes out in arithmetic, as single operations."""

from __future__ import annotations

from gradlint.graph.lower_draft import Drafts
from gradlint.graph.written_out import written_out


def fuse_activations(drafts: Drafts) -> None:
    """Write what completes a known activation as that activation.

    A square keeps its product where the operands are not one and the same tensor.
    """
    for key in list(drafts):
        found = written_out(key, drafts)
        if found is not None:
            draft = drafts[key]
            draft.kind, (draft.op, draft.attributes, operand) = "activation", found
            draft.inputs = [operand]
