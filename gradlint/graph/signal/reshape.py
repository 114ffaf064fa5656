"""Operations that move elements: axes that trade places, slices, copies, padding."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.signal.layout import feature_axis, thinned
from gradlint.graph.signal.moments import (
    NEVER,
    Gradient,
    Lead,
    Signal,
    log,
    without_lead,
)
from gradlint.graph.signal.patches import fold, fold_back, unfold, unfold_back
from gradlint.graph.signal.transfer import (
    Site,
    Transfer,
    Unclaimed,
    extent,
    inner_sizes,
    is_sized,
)

_SHAPE_ONLY = frozenset(
    {"view", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "flip", "roll"}
    | {"rearrange", "reshape", "t", "movedim", "swapaxes", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"}
    | {"clone", "to", "type", "type_as", "float", "double", "half", "bfloat16", "cuda", "cpu", "requires_grad", "alias"}
    | {"identity", "as_tensor", "nan_to_num", "data", "T", "mT", "H", "real", "atleast_1d", "atleast_2d", "rot90"}
    | {"pack_padded_sequence", "pad_packed_sequence", "broadcast_tensors"}
)
_MASKING = frozenset({"masked_fill", "where", "triu", "tril", "setitem"})
"""Part of the elements are replaced: the share is not known, and taken to be small."""
_MASK_DOUBT = 0.15
_SAMPLED = frozenset({"grid_sample", "roi_align", "sort", "as_strided", "diagonal", "take_along_dim", "topk"})
_SAMPLE_DOUBT = 0.3
_PICKS = frozenset(
    {"chunk", "slice", "select", "gather", "split", "getitem", "narrow", "index_select", "index", "unbind"}
    | {"tensor_split", "masked_select"}
)
_PIECES = frozenset({"chunk", "split", "unbind", "tensor_split"})


def reshape(site: Site) -> Signal:
    """Axes move: when positions become features, pairs of positions become pairs of features, and back."""
    x, op = site.inputs[0], site.node.op
    if op in _MASKING or op in _SAMPLED:
        if not isinstance(site.attribute("visible"), float):
            site.doubt = _MASK_DOUBT if op in _MASKING else _SAMPLE_DOUBT
        nth = site.memory["through"] = _carrier(site)
        x = replace(site.inputs[nth], parts=())
        n, p, features = extent(site, x)
        return x.at(n, p, features)
    if op == "detach" or op in _SHAPE_ONLY:
        return _moved(site, x)
    if _cut_up(site):
        return x
    batch, p, n = extent(site, x)
    if op in _PICKS:
        same = n == x.features
        picked = replace(x, parts=x.parts if same else (), batch=batch, positions=p, features=n)
        picked = _by_place(site, picked, x)
        return _fewer_groups(picked, x) if same else picked
    if op in ("expand", "repeat", "tile", "repeat_interleave", "broadcast_to", "expand_as"):
        if x.batch == 1.0 and _to_samples(site):
            return replace(x, batch=float(site.batch_size))
        k = max(p / x.positions, 1.0)
        h = (k - 1.0) / (p - 1.0) if p > 1 else 0.0
        f = 1.0 - x.m * x.m if x.features == 1.0 < n else x.f
        return replace(x, ds=(1.0 - h) * x.ds, batch=max(batch, x.batch), positions=p, features=n, f=f)
    if op == "pad":
        inside = min(x.positions * x.features / (p * n), 1.0)
        row = _row_behind_zero(site)
        lead = Lead(NEVER, row) if row else None
        return replace(thinned(x, inside), positions=p, features=n, lead=lead)
    if op == "unfold":
        return unfold(site) if _cuts_patches(site) else replace(x, parts=(), positions=p, features=n)
    if op == "fold":
        return fold(site)
    raise Unclaimed(op)


def _cuts_patches(site: Site) -> bool:
    """Whether an `unfold` is that of `torch.nn.functional`, not the tensor's own along one axis."""
    return site.attribute("kernel_size") is not None


def _row_behind_zero(site: Site) -> float:
    """The length of a row in front of which a pad puts one position of zeros, 0 where it does something else."""
    before, pad = site.graph.nodes[site.node.inputs[0]], site.attribute("pad")
    if before.shape is None or site.node.shape is None or not isinstance(pad, (list, tuple)):
        return 0.0
    grown = [(i, n) for i, n in enumerate(site.node.shape) if n != before.shape[i]]
    if len(grown) != 1 or grown[0][0] in (before.batch_axis, feature_axis(before)):
        return 0.0
    axis, size = grown[0]
    place = 2 * (len(before.shape) - 1 - axis)
    return float(size or 0.0) if list(pad[place : place + 2]) == [1, 0] else 0.0


def _cut_up(site: Site) -> bool:
    """Whether a node stands for all pieces of its operand, each of which another node picks: it holds the whole,
    though its shape is that of the first piece."""
    users = site.graph.consumers[site.node.id]
    return site.node.op in _PIECES and bool(users) and all(site.graph.nodes[i].op == "getitem" for i in users)


def _place(site: Site) -> tuple[str, float]:
    """(whether a subscript picks the first position of each row or all but the first, positions in a row)."""
    producer = site.producers[0] if site.producers else None
    if producer is None or producer.node.op in _PIECES or not producer.node.shape:
        return "", 0.0
    if site.node.op == "select":
        axis, index = site.attribute("dim", 0), str(site.attribute("index"))
    else:
        parts = [part.strip(" ()[]") for part in str(site.attribute("index", "")).split(",")]
        axis = next((i for i, part in enumerate(parts) if part not in (":", "...", "")), 0)
        index = parts[axis]
        axis = axis - len(parts) if "..." in parts[:axis] else axis
    shape = producer.node.shape
    row = shape[axis] if isinstance(axis, int) and -len(shape) <= axis < len(shape) else None
    if not row or axis % len(shape) in (producer.node.batch_axis, feature_axis(producer.node)):
        return "", 0.0
    if index in ("0", ":1", "0:1"):
        return "first", float(row)
    return ("rest" if index == "1:" else ""), float(row)


def _by_place(site: Site, picked: Signal, x: Signal) -> Signal:
    """A class token that is picked, or left out, takes its own energy with it; whole rows keep theirs."""
    if x.lead is None or picked.positions >= x.positions:
        return picked
    first, other = x.lead.kinds
    place, row = _place(site)
    if row and row != x.lead.row:
        return replace(picked, lead=None)
    if place == "first":
        return replace(picked, log_q=x.log_q + log(first), lead=None)
    if place == "rest":
        s = max(-1.0, min(x.s / max(x.lead.pairs, 1e-12), 1.0))
        return replace(picked, log_q=x.log_q + log(other), ds=1.0 - s, lead=None)
    return replace(picked, lead=x.lead if picked.positions % x.lead.row == 0.0 else None)


def _placed(site: Site, g: Gradient, x: Signal, y: Signal) -> Lead | None:
    """Where in its rows the gradient of a tensor stands of which some positions were picked."""
    match _place(site):
        case "first", row:
            return Lead(log(row), row)
        case "rest", row:
            return Lead(NEVER, row)
    return g.lead if g.lead is not None and y.positions % g.lead.row == 0.0 else None


def _to_samples(site: Site) -> bool:
    """Whether an expansion runs over the batch alone: a class token for each sample."""
    before = site.graph.nodes[site.node.inputs[0]].shape
    shape = site.node.shape
    if before is None or shape is None or not shape or shape[0] != site.traced_batch or site.traced_batch == 1:
        return False
    tail = (1,) * (len(shape) - len(before)) + tuple(before)
    return len(tail) == len(shape) and tail[0] == 1 and tail[1:] == tuple(shape)[1:]


def _fewer_groups(picked: Signal, x: Signal) -> Signal:
    """One of r groups (queries of queries, keys and values): more of the pairs that are left are two tokens
    of one group, of which two others share no more than their mean."""
    r, p, groups = x.positions / max(picked.positions, 1.0), picked.positions, x.groups
    if r <= 1.0 or groups < r or groups % r or p <= 1.0:
        return picked
    tokens, shared = x.positions / groups, x.m * x.m
    within = ((x.positions - 1.0) * x.s - (x.positions - tokens) * shared) / max(tokens - 1.0, 1.0)
    s = ((tokens - 1.0) * within + (p - tokens) * shared) / (p - 1.0)
    c = shared + (x.c - shared) * r
    return replace(picked, ds=1.0 - min(s, 1.0), dc=1.0 - min(c, 1.0), groups=groups / r)


def _carrier(site: Site) -> int:
    """The operand whose values pass: the first that is not a mask."""
    for nth, producer in enumerate(site.producers):
        if producer is not None and not producer.guessed and producer.node.kind != "constant":
            return nth
    return 0


def reshape_back(site: Site, gradient: Gradient) -> list[Gradient]:
    """The same moves back; a slice leaves zeros elsewhere, an expansion sums."""
    x, y, op = site.inputs[0], site.output, site.node.op
    rest = [Gradient(NEVER)] * (len(site.inputs) - 1)
    if op == "detach":
        return [Gradient(NEVER), *rest]
    if "through" in site.memory:
        nth = site.memory["through"]
        carried = replace(gradient, parts=())
        return [carried if i == nth else Gradient(NEVER) for i in range(len(site.inputs))]
    if _cut_up(site):
        return [gradient, *rest]
    if gradient.zero or op in _SHAPE_ONLY:
        return [_moved_back(gradient, x, y), *rest]
    if op == "fold" or (op == "unfold" and _cuts_patches(site)):
        return fold_back(site, gradient) if op == "fold" else unfold_back(site, gradient)
    if _is_last_state(site):
        # h_n of a recurrent layer: all of the gradient stands at the last step.
        share = min(y.positions * y.features / (x.positions * x.features), 1.0)
        g = replace(gradient, log_g=gradient.log_g + log(share), s=0.0, parts=(), last=True)
        c = gradient.c / max(x.positions / y.positions, 1.0)
        return [replace(g, c=c, e=gradient.pairs(y.positions)[0]), *rest]
    if op in _PICKS:
        share = min(y.positions * y.features / (x.positions * x.features), 1.0)
        g = replace(gradient, log_g=gradient.log_g + log(share), parts=())
        if y.positions < x.positions:
            s = gradient.s * (y.positions - 1.0) / (x.positions - 1.0)
            last = y.positions == 1.0 and _is_last(site.attribute("index"))
            e = gradient.pairs(y.positions)[0]
            g = replace(g, s=s, c=gradient.c * y.positions / x.positions, last=last, e=e)
            g = replace(g, lead=_placed(site, gradient, x, y))
        return [g, *rest]
    if op == "pad":
        lead = gradient.lead
        behind = lead is not None and lead.row == _row_behind_zero(site)
        inner = without_lead(gradient, log(lead.kinds[1])) if lead is not None and behind else gradient
        return [replace(inner, parts=(), lead=None), *rest]
    if y.size > x.size:
        k = y.positions / x.positions
        if k > 1.0:
            gradient = _gathered(gradient, x, k)
        if x.features == 1.0 < y.features:
            copies = y.features * max(1.0 + (y.features - 1.0) * gradient.f, 1e-6)
            gradient = replace(gradient, log_g=gradient.log_g + math.log(copies), f=0.0)
    return [replace(gradient, parts=()), *rest]


def _gathered(g: Gradient, x: Signal, k: float) -> Gradient:
    """The sum of the gradients of k copies: of two positions, or two samples, all k² pairs of copies are summed."""
    bracket = max(1.0 + (k - 1.0) * g.s, 1e-6)
    s, c = (max(-1.0, min(k * r / bracket, 1.0)) for r in (g.s, g.c))
    return replace(
        g, log_g=g.log_g + math.log(k * bracket), s=s if x.positions > 1.0 else 0.0, c=c, e=None, parts=(), lead=None
    )


def _is_last_state(site: Site) -> bool:
    producer = site.producers[0] if site.producers else None
    index = str(site.attribute("index", ""))
    return producer is not None and producer.node.kind == "recurrent" and index in ("1", "2")


def _is_last(index: object) -> bool:
    """Whether an index, a number or a subscript as written, picks the last position; unknown ones are taken to."""
    parts = [part.strip(" ()[]") for part in index.split(",")] if isinstance(index, str) else [index]
    return index is None or "-1" in parts or -1 in parts


def _moved(site: Site, x: Signal) -> Signal:
    batch, p, n = extent(site, x)
    if _flattens(site) and x.positions > 1.0:
        p, n = 1.0, _flattened(site, x)
    if p == x.positions and n == x.features:
        return replace(x, batch=batch)
    shared = min(x.m * x.m + x.f, 1.0)
    if x.lead is not None and p % x.lead.row:
        x = replace(x, lead=None)
    if p > x.positions and n < x.features:  # features become positions
        k = p / x.positions
        s = ((x.positions - 1.0) * x.s + (p - x.positions) * shared) / (p - 1.0)
        c = (x.c + (k - 1.0) * x.m * x.m) / k
        return replace(
            x, ds=1.0 - s, dc=1.0 - c, de=x.same_position, parts=(), positions=p, features=n, groups=x.groups * k
        )
    if p < x.positions and n > x.features:  # positions become features
        k = x.positions / p
        f = ((k - 1.0) * x.s + (n - k) * shared) / max(n - 1.0, 1.0) - x.m * x.m
        if p <= 1.0:
            return replace(x, ds=1.0, dc=x.same_position, de=None, f=f, parts=(), positions=p, features=n, groups=1.0)
        if x.groups < k:  # neighbours become one token (patch merging)
            same, other = x.pairs
            c = x.c if x.de is None else (same + (p - 1.0) * other) / p
            return replace(x, dc=1.0 - c, f=f, parts=(), positions=p, features=n, groups=1.0)
        s = ((x.positions - 1.0) * x.s - (x.positions - p) * x.m * x.m) / (p - 1.0)
        c = x.c if x.de is None else min(k * x.c - (k - 1.0) * x.m * x.m, 1.0 - x.de)
        s = max(min(s, 1.0), x.s)
        return replace(x, ds=1.0 - s, dc=1.0 - c, f=f, parts=(), positions=p, features=n, groups=x.groups / k)
    if n == x.positions and p == x.features:  # tokens and channels change places (a mixer)
        c = x.m * x.m + (1.0 - x.same_position - x.m * x.m) / p
        return replace(
            x, ds=1.0 - shared, f=x.s - x.m * x.m, dc=1.0 - c, de=x.same_position, parts=(), positions=p, features=n
        )
    return replace(x, parts=(), batch=batch, positions=p, features=n)


def _flattens(site: Site) -> bool:
    """Whether all positions of a sample become features, where sizes do not say so."""
    if is_sized(site.node) or site.node.op not in ("flatten", "view", "reshape"):
        return False
    sizes = inner_sizes(site.node)
    before = inner_sizes(site.graph.nodes[site.node.inputs[0]])
    return sizes is None or (len(sizes) == 1 and before is not None and len(before) > 1)


def _flattened(site: Site, x: Signal) -> float:
    """Features after flattening: what the layer that reads them expects, else all elements."""
    for user in site.graph.consumers[site.node.id]:
        expected = site.graph.nodes[user].attributes.get("in_features")
        if isinstance(expected, int) and expected > 0:
            return float(expected)
    return x.features * x.positions


def _moved_back(g: Gradient, x: Signal, y: Signal) -> Gradient:
    if g.lead is not None and x.positions % g.lead.row:
        g = replace(g, lead=None)
    if x.positions == y.positions:
        return g if x.features == y.features else replace(g, parts=())
    if y.positions > x.positions:  # positions back into features
        k = y.positions / x.positions
        s = min((y.positions - 1.0) * g.s / (x.positions - 1.0), 1.0) if x.positions > 1 else 0.0
        e, _ = g.pairs(y.positions)
        c = e if x.positions == 1.0 else min(g.c * k, 1.0)
        return replace(g, s=s, c=c, e=None, f=g.s if x.positions == 1 else g.f, parts=())
    s = (y.positions - 1.0) * g.s / (x.positions - 1.0)
    e, _ = g.pairs(y.positions)
    s += g.f if y.features == x.positions else 0.0
    return replace(g, s=s, c=g.c * y.positions / x.positions, e=e, parts=())


RESHAPE = Transfer(reshape, reshape_back)
