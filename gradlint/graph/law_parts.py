"""The numbers in one storage: how they were drawn, as a whole or part by part."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gradlint.graph.model import InitLaw

_NEGLIGIBLE_SHARE = 0.01
WHOLE_SHARE = 0.999
_SAME_STD = 0.05


@dataclass
class Written:
    """What is known of the numbers in one storage.

    `sample` is None until arithmetic asks for it. `parts` are the shares written since the last write of all.
    `keep` holds the storage alive, so that its address is not given to another.
    """

    law: InitLaw
    keep: Any
    sample: Tensor | None = None
    parts: tuple[tuple[float, InitLaw], ...] = ()


def address(tensor: Tensor) -> int:
    """The same for all tensors that look into one storage."""
    return int(tensor.untyped_storage()._cdata)


def share_of(tensor: Tensor, storage: Any) -> float:
    """The share of a storage that a tensor looks into."""
    total = storage.nbytes()
    return tensor.numel() * tensor.element_size() / total if total else 1.0


def merged(old: Written, share: float, law: InitLaw) -> Written:
    """A storage after a part of it was written anew."""
    if share < _NEGLIGIBLE_SHARE and law.distribution == "constant":
        return old
    parts = (*old.parts, (share, law)) if len(old.parts) < 4096 else old.parts
    covered = sum(s for s, _ in parts)
    first = parts[0][1]
    same = all(_alike(first, other) for _, other in parts)
    if covered >= WHOLE_SHARE and same:
        return Written(law, old.keep)
    rest = () if covered >= 1 else ((1 - covered, replace(old.law, partial=False)),)
    mixed = mixture((*parts, *rest))
    return Written(replace(mixed, partial=True, location=law.location, origin=law.origin), old.keep, None, parts)


def _alike(a: InitLaw, b: InitLaw) -> bool:
    if a.distribution != b.distribution or a.std is None or b.std is None:
        return False
    return abs(a.std - b.std) <= _SAME_STD * max(a.std, b.std) and abs((a.mean or 0) - (b.mean or 0)) <= _SAME_STD * (
        abs(a.mean or 0) + a.std
    )


def mixture(parts: tuple[tuple[float, InitLaw], ...]) -> InitLaw:
    """The law of a tensor of which each share follows its own law."""
    last = parts[-1][1] if parts else InitLaw("unknown")
    if all(_alike(parts[0][1], law) for _, law in parts):
        return parts[0][1]
    total = sum(s for s, _ in parts) or 1.0
    if any(law.std is None or law.mean is None for _, law in parts):
        return InitLaw("unknown", origin=last.origin, location=last.location)
    mean = sum(s * (law.mean or 0.0) for s, law in parts) / total
    second = sum(s * ((law.std or 0.0) ** 2 + (law.mean or 0.0) ** 2) for s, law in parts) / total
    return InitLaw("other", mean, math.sqrt(max(0.0, second - mean**2)), origin=last.origin, location=last.location)
