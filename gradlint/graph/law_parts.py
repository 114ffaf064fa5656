"""The numbers in one storage: how they were drawn, as a whole or part by part."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gradlint.graph.model import InitLaw

_NEGLIGIBLE_SHARE = 0.01
"""Constants in fewer elements, such as the row of a padding token, change no law."""
_MAX_PARTS = 4096
WHOLE_SHARE = 0.999
_SAME_STD = 0.05

Parts = tuple[tuple[float, InitLaw], ...]
"""Shares of a storage and the laws that their elements follow."""


@dataclass
class Written:
    """What is known of the numbers in one storage.

    `sample` is None until arithmetic asks for it. `parts` are the shares written since the last write of all, which
    left the law `base`. `keep` holds the storage alive, so that its address is not given to another.
    """

    law: InitLaw
    keep: Any
    sample: Tensor | None = None
    parts: Parts = ()
    base: InitLaw | None = None


def address(tensor: Tensor) -> int:
    """The same for all tensors that look into one storage."""
    return int(tensor.untyped_storage()._cdata)


def share_of(tensor: Tensor, storage: Any) -> float:
    """The share of a storage that a tensor looks into."""
    total = storage.nbytes()
    return tensor.numel() * tensor.element_size() / total if total else 1.0


def merged(old: Written, share: float, law: InitLaw) -> Written:
    """A storage after a part of it was written anew; parts are taken not to overlap."""
    parts = _with_part(old.parts, share, law)
    base = old.base or old.law
    covered = sum(s for s, _ in parts)
    if covered < _NEGLIGIBLE_SHARE and all(part.distribution == "constant" for _, part in parts):
        return Written(old.law, old.keep, old.sample, parts, base)
    first = parts[0][1]
    if covered >= WHOLE_SHARE and all(_alike(first, other) for _, other in parts):
        return Written(law, old.keep)
    rest = () if covered >= 1 else ((1 - covered, replace(base, partial=False)),)
    mixed = replace(mixture((*parts, *rest)), partial=True, location=law.location, origin=law.origin)
    return Written(mixed, old.keep, None, parts, base)


def _with_part(parts: Parts, share: float, law: InitLaw) -> Parts:
    if parts and _same_constant(parts[-1][1], law):
        return (*parts[:-1], (parts[-1][0] + share, law))
    return (*parts, (share, law)) if len(parts) < _MAX_PARTS else parts


def _same_constant(a: InitLaw, b: InitLaw) -> bool:
    return a.distribution == b.distribution == "constant" and a.mean == b.mean


def _alike(a: InitLaw, b: InitLaw) -> bool:
    if a.distribution != b.distribution or a.std is None or b.std is None:
        return False
    return abs(a.std - b.std) <= _SAME_STD * max(a.std, b.std) and abs((a.mean or 0) - (b.mean or 0)) <= _SAME_STD * (
        abs(a.mean or 0) + a.std
    )


def mixture(parts: Parts) -> InitLaw:
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
