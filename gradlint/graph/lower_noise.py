"""Noise that a forward draws: its law through arithmetic, and products with masks of zeros and ones, which are dropout.

Stochastic depth (Huang et al. 2016) is written so everywhere: a Bernoulli mask for each sample, or ⌊U + keep⌋.
"""

from __future__ import annotations

import math
from typing import Any

from gradlint.graph.lower_draft import Draft, Drafts, bypass

_ALMOST = 1e-6


def law_after(draft: Draft, before: dict[str, Any]) -> dict[str, Any]:
    """Mean, std and law of a function of noise, as far as they follow; nothing where not."""
    mean, std, law = (before.get(name) for name in ("mean", "std", "law"))
    if not isinstance(mean, (int, float)) or not isinstance(std, (int, float)):
        return {}
    match draft.op:
        case "scale" | "shift":
            factor, offset = draft.attributes.get("factor"), draft.attributes.get("offset")
            if not isinstance(factor, (int, float)) or not isinstance(offset, (int, float)):
                return {}
            kept = "uniform" if str(law).startswith("uniform") else law if law == "bernoulli" and not offset else None
            return {"mean": factor * mean + offset, "std": abs(factor) * std, "law": kept}
        case "floor" if str(law).startswith("uniform"):
            low = mean - math.sqrt(3.0) * std
            if 0.0 <= low < 1.0 and abs(2.0 * math.sqrt(3.0) * std - 1.0) < _ALMOST:
                return {"mean": low, "std": math.sqrt(low * (1.0 - low)), "law": "bernoulli"}
    return {}


def fuse_dropout(drafts: Drafts) -> None:
    """Write x · mask / keep as the dropout that it is, one mask for each sample or for each element."""
    scaled: set[int] = set()
    for draft in drafts.values():
        if draft.kind != "mul" or draft.op == "div" or len(draft.inputs) != 2:
            continue
        masks = [i for i in draft.inputs if _keeps(drafts[i]) is not None]
        if len(masks) != 1:
            continue
        mask = drafts[masks[0]]
        x = draft.inputs[1 - draft.inputs.index(mask.key)]
        keep = _keeps(mask)
        if keep is None or drafts[x].kind == "constant":
            continue
        mean = float(mask.attributes["mean"])
        divided = drafts[x].attributes.get("factor") if drafts[x].op == "scale" else None
        if abs(mean - 1.0) > _ALMOST:
            alone = sum(x in d.inputs for d in drafts.values()) == 1
            if not alone or not isinstance(divided, (int, float)) or abs(divided * mean - 1.0) > _ALMOST:
                continue
            scaled.add(x)
        inner = [n for n in (mask.shape or ())[1:] if n != 1]
        unit = "sample" if mask.shape and not inner else "element"
        draft.kind, draft.op, draft.inputs = "dropout", "drop_path" if unit == "sample" else "dropout", [x]
        draft.attributes = {"p": 1.0 - keep, "unit": unit}
    bypass(drafts, lambda d: d.key in scaled)


def _keeps(draft: Draft) -> float | None:
    """The share of ones in a scaled Bernoulli mask: (mean/rms)²."""
    if draft.kind != "constant" or draft.attributes.get("law") != "bernoulli":
        return None
    mean, std = float(draft.attributes["mean"]), float(draft.attributes["std"])
    return mean * mean / (mean * mean + std * std) if mean else None
