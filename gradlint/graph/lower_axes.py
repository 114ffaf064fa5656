"""Which axis of each tensor holds samples and which holds features."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from gradlint.graph.lower_draft import Draft, Drafts

Axes = tuple[int | None, int | None]
"""(batch axis, feature axis), both counted from the front; None where unknown."""
_VIEWS = ("view", "reshape")


def infer_axes(drafts: Drafts) -> dict[int, Axes]:
    """Batch and feature axis of every operation's output, walked forward from the inputs."""
    axes: dict[int, Axes] = {}
    hints = _input_hints(drafts)
    folded = _folded(drafts)
    for key, draft in drafts.items():
        axes[key] = folded[key] if key in folded else _axes(draft, drafts, axes, hints)
    return axes


def _folded(drafts: Drafts) -> dict[int, Axes]:
    """Images whose samples and channels pass through one leading axis, (B·C·…, …), and come out as (B, C, …) again.

    In between no axis holds either, and behind it they stand where they stood (MobileViT cuts patches so)."""
    found: dict[int, Axes] = {}
    for key, draft in drafts.items():
        source = drafts[draft.inputs[0]] if draft.inputs else None
        if draft.op not in _VIEWS or source is None or not source.shape or not draft.shape:
            continue
        lead = [source.shape[0], *source.shape[1:2]]
        if len(source.shape) < 4 or None in lead or prod(n or 1 for n in lead) <= (lead[0] or 1):
            continue
        whole = prod(n or 1 for n in lead)
        inside = {key} if draft.shape[0] is not None and draft.shape[0] % whole == 0 else set()
        for later in drafts.values() if inside else ():
            if later.kind != "reshape" or not later.inputs or later.inputs[0] not in inside or not later.shape:
                continue
            if later.op in _VIEWS and list(later.shape[:2]) == lead:
                found |= dict.fromkeys(sorted(inside), (None, None))
                found[later.key] = (0, 1)
            elif later.shape[0] == drafts[later.inputs[0]].shape[0]:  # type: ignore[index]
                inside.add(later.key)
    return found


def _rank(draft: Draft) -> int:
    return len(draft.shape) if draft.shape is not None else 0


def _input_hints(drafts: Drafts) -> dict[int, Axes]:
    """Axes of inputs as their first consumers read them."""
    hints: dict[int, Axes] = {}
    for draft in drafts.values():
        for i in draft.inputs[:1]:
            source = drafts[i]
            if source.kind != "input" or i in hints:
                continue
            rank = _rank(source)
            match draft.kind:
                case "recurrent" | "attention" if rank == 3 and not draft.attributes.get("cell"):
                    hints[i] = (0 if draft.attributes.get("batch_first") else 1, 2)
                case "conv" | "conv_transpose":
                    hints[i] = (0, 1) if rank == int(draft.op[-2]) + 2 else (None, 0)
                case "linear":
                    hints[i] = (0 if rank > 1 else None, rank - 1)
    return hints


def _axes(draft: Draft, drafts: Drafts, known: dict[int, Axes], hints: dict[int, Axes]) -> Axes:
    rank = _rank(draft)
    if draft.kind == "input":
        if draft.key in hints:
            return hints[draft.key]
        feature = (1 if rank >= 4 else rank - 1) if draft.floating and rank else None
        return (0 if rank else None), feature
    if draft.kind in ("parameter", "constant"):
        return None, (rank - 1 if rank else None)
    source = _principal(draft, drafts, known)
    if source is None:
        return (0 if rank else None), (rank - 1 if rank else None)
    batch, feature = known[source.key]
    before = source.shape
    if source.kind == "recurrent" and draft.attributes.get("output") and rank >= 2:
        # The last states: (layers x directions, batch, hidden) whatever `batch_first` says.
        return rank - 2, rank - 1
    if draft.shape is None or before is None:
        return 0, -1
    match draft.kind:
        case "linear":
            return _within(batch, rank), rank - 1
        case "attention":
            return _within(batch, rank), rank - 1
        case "embedding":
            return _within(batch, rank), rank - 1
        case "conv" | "conv_transpose":
            return (0, 1) if rank == int(draft.op[-2]) + 2 else (None, 0)
        case "recurrent":
            if draft.attributes.get("cell") or rank < 3:
                return _within(batch, rank), rank - 1
            return (0 if draft.attributes.get("batch_first") else 1), rank - 1
        case "normalization":
            if draft.op in ("batch_norm", "instance_norm", "group_norm") and rank > 1:
                return 0, 1
            return _within(batch, rank), (_within(feature, rank) if draft.op != "layer_norm" or rank > 3 else rank - 1)
        case "matmul":
            return _within(batch, rank), rank - 1
        case "reduce":
            return _reduced(draft, before, batch, feature)
        case "cat" if draft.op == "stack":
            return _inserted(draft, batch, feature, rank)
        case "reshape" if source.op == "unfold" and draft.op in _VIEWS and feature == 1 and len(before) == 3:
            return _untapped(draft, source, batch)
        case "reshape":
            return _reshaped(draft, before, batch, feature)
        case "output":
            return batch, feature
    if rank == len(before):
        return batch, feature
    return _regrouped(before, draft.shape, batch, feature)


def _principal(draft: Draft, drafts: Drafts, known: dict[int, Axes]) -> Draft | None:
    """The operand that an output takes its axes from: the largest that carries samples."""
    candidates = [drafts[i] for i in draft.inputs if drafts[i].shape is not None]
    carrying = [d for d in candidates if known[d.key][0] is not None] or candidates
    if draft.kind in ("add", "mul", "scale", "activation", "unknown"):
        return max(carrying, key=lambda d: (_rank(d), prod(s or 1 for s in d.shape or ())), default=None)
    return carrying[0] if carrying else None


def _within(axis: int | None, rank: int) -> int | None:
    return axis if axis is not None and axis < rank else None


def _dims(draft: Draft, rank: int, name: str = "dim") -> list[int] | None:
    value = draft.attributes.get(name)
    values = value if isinstance(value, list) else [value] if isinstance(value, int) else None
    return None if values is None else [v % rank if rank else v for v in values if isinstance(v, int)]


def _reduced(draft: Draft, before: Sequence[int | None], batch: int | None, feature: int | None) -> Axes:
    rank = len(before)
    if _rank(draft) == rank:
        return batch, feature
    dims = _dims(draft, rank) or list(range(rank))
    return _removed(batch, dims), _removed(feature, dims) if feature not in dims else (_rank(draft) - 1 or None)


def _removed(axis: int | None, dims: Sequence[int]) -> int | None:
    if axis is None or axis in dims:
        return None
    return axis - sum(d < axis for d in dims)


def _inserted(draft: Draft, batch: int | None, feature: int | None, rank: int) -> Axes:
    at = (_dims(draft, rank) or [0])[0]
    return tuple(None if a is None else a + (a >= at) for a in (batch, feature))  # type: ignore[return-value]


def _reshaped(draft: Draft, before: Sequence[int | None], batch: int | None, feature: int | None) -> Axes:
    rank, old = _rank(draft), len(before)
    assert draft.shape is not None
    match draft.op:
        case "permute" if (order := _dims(draft, old, "dims")) and len(order) == old:
            return _found(order, batch), _found(order, feature)
        case "transpose" if isinstance(draft.attributes.get("dim0"), int):
            a, b = draft.attributes["dim0"] % old, draft.attributes.get("dim1", 0) % old
            swap = {a: b, b: a}
            return _swapped(swap, batch), _swapped(swap, feature)
        case "t" | "T" | "mT" | "H" if old >= 2:
            swap = {old - 2: old - 1, old - 1: old - 2}
            return _swapped(swap, batch), _swapped(swap, feature)
        case "movedim":
            source, target = draft.attributes.get("source"), draft.attributes.get("destination")
            if isinstance(source, int) and isinstance(target, int):
                order = [d for d in range(old) if d != source % old]
                order.insert(target % old, source % old)
                return _found(order, batch), _found(order, feature)
        case "unfold" | "fold" if {rank, old} == {3, 4}:  # (N, channels × taps, windows) and (N, channels, H, W)
            return 0, 1
        case "unsqueeze":
            return _inserted(draft, batch, feature, rank)
        case "select" | "unbind" if rank == old - 1:
            dims = [(_dims(draft, old) or [0])[0]]
            return _removed(batch, dims), _removed(feature, dims)
        case "getitem" if isinstance(draft.attributes.get("index"), str) and "output" not in draft.attributes:
            return _indexed(str(draft.attributes["index"]), old, rank, batch, feature)
    if rank == old and (draft.op not in _VIEWS or draft.shape == before):
        return batch, feature
    return _regrouped(before, draft.shape, batch, feature)


def _untapped(draft: Draft, source: Draft, batch: int | None) -> Axes:
    """A view of patches (N, channels × taps, windows) that gives the taps an axis of their own: the channels stand in
    the one before it."""
    assert draft.shape is not None and source.shape is not None
    found = _regrouped(source.shape, draft.shape, batch, 1)
    kernel = source.attributes.get("kernel_size")
    taps = prod(kernel) if isinstance(kernel, (list, tuple)) else kernel**2 if isinstance(kernel, int) else 0
    axis = found[1]
    if axis is not None and axis > 1 and draft.shape[axis] == taps:
        return found[0], axis - 1
    return found


def _found(order: Sequence[int], axis: int | None) -> int | None:
    return order.index(axis) if axis in order else None


def _swapped(swap: dict[int, int], axis: int | None) -> int | None:
    return None if axis is None else swap.get(axis, axis)


def _indexed(index: str, old: int, rank: int, batch: int | None, feature: int | None) -> Axes:
    """Follow an index expression: a number takes its axis away, None puts one in."""
    parts = [p.strip() for p in index.split(",")]
    used = sum(p not in ("None", "...") for p in parts)
    if "..." not in parts:
        parts.append("...")
    target: dict[int, int] = {}
    position = axis = 0
    for part in parts:
        if part == "...":
            for _ in range(old - used):
                target[axis] = position
                axis, position = axis + 1, position + 1
        elif part == "None":
            position += 1
        elif part.lstrip("-").isdigit():
            axis += 1
        else:
            target[axis] = position
            axis, position = axis + 1, position + 1
    if position != rank:
        return _within(batch, rank), (rank - 1 if rank else None)
    return (
        None if batch is None else target.get(batch),
        None if feature is None else target.get(feature, rank - 1 if rank > 1 else None),
    )


def _regrouped(
    before: Sequence[int | None], after: Sequence[int | None], batch: int | None, feature: int | None
) -> Axes:
    """Follow a view: neighbouring axes merge or split in groups of equal size.

    Of a merged group that held the features the merged axis holds them; of a split one the last.
    """
    if any(s is None for s in (*before, *after)):
        return 0, len(after) - 1
    groups = _groups([s or 1 for s in before], [s or 1 for s in after])
    new_batch = new_feature = None
    for old, new in groups:
        if batch in old and new:
            new_batch = new[0]
        if feature in old and new:
            new_feature = new[-1]
    return new_batch, new_feature


def _groups(before: list[int], after: list[int]) -> list[tuple[list[int], list[int]]]:
    found = []
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [i] if i < len(before) else [], [j] if j < len(after) else []
        left, right = (before[i] if old else 1), (after[j] if new else 1)
        i, j = i + len(old), j + len(new)
        while left != right:
            if left < right and i < len(before):
                left *= before[i]
                old.append(i)
                i += 1
            elif j < len(after):
                right *= after[j]
                new.append(j)
                j += 1
            else:
                break
        if left != right:
            old.extend(range(i, len(before)))
            i = len(before)
        found.append((old, new))
    return found
