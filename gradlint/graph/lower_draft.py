"""A model graph under construction: operations whose edges may still be joined, cut and folded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from gradlint.graph.kinds import IDENTITIES
from gradlint.graph.record import Record
from gradlint.location import Location


@dataclass
class Draft:
    """One operation; `inputs` are keys of a `Drafts` table, which is in execution order."""

    key: int
    name: str
    kind: str
    op: str
    inputs: list[int]
    attributes: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    path: str = ""
    shape: tuple[int | None, ...] | None = None
    dtype: str = ""
    floating: bool = True
    location: Location | None = None
    grad: bool = True
    values: dict[str, Any] | None = None

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for repetitions of the same line of code."""
        parameters = tuple(sorted(self.parameters.items()))
        line = (self.location.line, self.location.column) if self.location else None
        return (self.kind, self.op, self.path, parameters, line)


Drafts = dict[int, Draft]


def drafts_of(graph: fx.Graph) -> Drafts:
    """The operations of a recorded fx graph, in order; an edge for each tensor operand."""
    table: Drafts = {}
    keys: dict[fx.Node, int] = {}
    for key, node in enumerate(graph.nodes):
        record: Record = node.meta["gradlint"]
        keys[node] = key
        table[key] = Draft(
            key,
            record.name,
            record.kind,
            record.op,
            [keys[o] for o in record.operands if o in keys],
            dict(record.attributes),
            dict(record.parameters),
            record.path,
            record.shape,
            record.dtype,
            record.floating,
            record.location,
            record.grad,
            record.values,
        )
    return table


def consumers(drafts: Drafts) -> dict[int, list[int]]:
    """For each key the keys of those that read it, in order."""
    users: dict[int, list[int]] = {key: [] for key in drafts}
    for key, draft in drafts.items():
        for i in dict.fromkeys(draft.inputs):
            users[i].append(key)
    return users


def drop_dead(drafts: Drafts) -> None:
    """Remove what no output depends on; inputs stay."""
    live = {key for key, d in drafts.items() if d.kind in ("output", "input")}
    for key in reversed(list(drafts)):
        if key in live:
            live.update(drafts[key].inputs)
    for key in [k for k in drafts if k not in live]:
        del drafts[key]


def bypass(drafts: Drafts, skipped: Callable[[Draft], bool]) -> None:
    """Join the edges around operations, each of which hands its first operand on."""
    target: dict[int, int] = {}
    for key, draft in list(drafts.items()):
        draft.inputs = [target.get(i, i) for i in draft.inputs]
        if draft.inputs and skipped(draft):
            target[key] = draft.inputs[0]
    for key in target:
        del drafts[key]


def join_identities(drafts: Drafts) -> None:
    """Join the edges around what leaves the signal as it is; a cast of ids to floats stays."""

    def skipped(draft: Draft) -> bool:
        if draft.kind == "dropout":
            return draft.attributes.get("p") == 0.0
        if draft.kind != "reshape" or draft.op not in IDENTITIES:
            return False
        return drafts[draft.inputs[0]].floating == draft.floating if draft.inputs[0] in drafts else True

    bypass(drafts, skipped)


def cut_control(drafts: Drafts) -> None:
    """Remove edges that carry no signal: comparisons, indices and masks beside a floating operand."""
    for draft in drafts.values():
        if draft.kind == "constant":
            draft.inputs = []
            continue
        if draft.kind in ("embedding", "output", "input"):
            continue
        floats = [i for i in draft.inputs if drafts[i].floating]
        if floats:
            draft.inputs = floats


def fold_constants(drafts: Drafts, law: Callable[[Draft, dict[str, Any]], dict[str, Any]]) -> None:
    """Operations on constants alone are a constant: a position code, a causal mask; `law` says what a function of noise
    is."""
    for draft in drafts.values():
        if draft.kind == "constant" and draft.values is not None and draft.attributes.get("value") is None:
            draft.attributes = {**draft.attributes, **draft.values}
        if draft.parameters or draft.kind in ("output", "parameter") or not draft.inputs:
            continue
        if draft.values is not None or all(drafts[i].kind == "constant" for i in draft.inputs):
            made = draft.op
            first = drafts[draft.inputs[0]].attributes if draft.inputs else {}
            inherited = first if draft.kind == "reshape" else {"value": None, **law(draft, first)}
            masked = any(drafts[i].attributes.get("mask") for i in draft.inputs)
            draft.kind, draft.op, draft.inputs, draft.parameters = "constant", "constant", [], {}
            draft.attributes = {**inherited, **(draft.values or {}), "made_by": made} | (
                {"mask": True} if masked else {}
            )


def drop_empty(drafts: Drafts) -> None:
    """A concatenation with nothing (the first cache of keys) is what it is concatenated with."""
    for draft in drafts.values():
        if draft.kind == "cat":
            draft.inputs = [i for i in draft.inputs if 0 not in (drafts[i].shape or ())] or draft.inputs[:1]
            if len(draft.inputs) == 1 and drafts[draft.inputs[0]].shape == draft.shape:
                draft.kind, draft.op, draft.attributes = "reshape", "identity", {}


_FUSED = {"addcmul": "mul", "addcdiv": "div", "addmm": "matmul", "baddbmm": "matmul", "addbmm": "matmul"}


def split_fused(drafts: Drafts) -> Drafts:
    """`addcmul(x, a, b)` is x + a·b: the product as a node of its own, then the sum."""
    table: Drafts = {}
    fresh = max(drafts, default=-1) + 1
    for key, draft in drafts.items():
        if draft.op in _FUSED and not draft.parameters and len(draft.inputs) == 3:
            product = replace(
                draft,
                key=fresh,
                name=f"{draft.name}:{_FUSED[draft.op]}",
                kind="matmul" if _FUSED[draft.op] == "matmul" else "mul",
                op=_FUSED[draft.op],
                inputs=draft.inputs[1:],
                attributes={},
            )
            table[fresh] = product
            draft.kind, draft.op, draft.inputs = "add", "add", [draft.inputs[0], fresh]
            fresh += 1
        table[key] = draft
    return table


def fold_masks(drafts: Drafts) -> None:
    """What is added, multiplied or filled in by a mask keeps its signal: such a call is a reshape, `masked_fill`.

    A mask is what comes from comparisons or integer inputs alone and meets an operand that is not.
    """
    plain: dict[int, str] = {}
    for key, draft in drafts.items():
        sources = {plain.get(i, "signal") for i in draft.inputs}
        if draft.kind == "constant":
            plain[key] = "mask" if draft.attributes.get("mask") else "constant"
        elif draft.kind == "input":
            plain[key] = "signal" if draft.floating else "mask"
        elif draft.kind in ("embedding", "output") or draft.parameters or not sources or "signal" in sources:
            plain[key] = "signal"
        else:
            plain[key] = "mask" if "mask" in sources else "constant"
        if draft.kind not in ("add", "mul") and draft.op not in ("where", "masked_fill", "maximum", "minimum"):
            continue
        kept = [i for i in draft.inputs if plain[i] == "signal"]
        filled = draft.op in ("where", "masked_fill") or any(plain[i] == "mask" for i in draft.inputs)
        if len(kept) == 1 and filled:
            known = [drafts[i].attributes for i in draft.inputs if "visible" in drafts[i].attributes]
            draft.attributes |= {k: a[k] for a in known for k in ("visible", "shared")}
            draft.kind, draft.op, draft.inputs = "reshape", "masked_fill", kept
        elif draft.op in ("where", "maximum", "minimum") and len(draft.inputs) > 1:
            draft.kind = "unknown"


def fuse_log_softmax(drafts: Drafts) -> None:
    """x − logsumexp(x), as distributions write it, is a log-softmax."""
    for draft in drafts.values():
        if (draft.kind, draft.op) != ("add", "sub") or len(draft.inputs) != 2:
            continue
        x, total = draft.inputs
        if drafts[total].op != "logsumexp" or drafts[total].inputs != [x] or draft.attributes:
            continue
        dim = drafts[total].attributes.get("dim")
        draft.kind, draft.op, draft.inputs = "softmax", "log_softmax", [x]
        draft.attributes = {"dim": dim[0] if isinstance(dim, list) and len(dim) == 1 else dim}


def order_outputs(drafts: Drafts) -> None:
    """Of several outputs those that carry a gradient, in the forward's order: the loss is taken of the first.

    Classes by argmax, ids, masks and constants beside them are left out.
    """
    trained: set[int] = set()
    for key, draft in drafts.items():
        if draft.floating and draft.grad and (
            (draft.kind == "parameter" and draft.op == "parameter")
            or bool(draft.parameters)
            or any(i in trained for i in draft.inputs)
        ):  # fmt: skip
            trained.add(key)
    for draft in drafts.values():
        if draft.kind == "output":
            carrying = [i for i in draft.inputs if i in trained]
            fed = [i for i in carrying if drafts[i].kind != "parameter"]
            draft.inputs = fed or carrying or draft.inputs


def resolve_writes(drafts: Drafts) -> None:
    """`x[i] = v` hands on x and v: v alone where x was an empty buffer, x alone where v is a number."""
    for draft in drafts.values():
        if draft.op != "setitem":
            continue
        signal = [i for i in dict.fromkeys(draft.inputs) if drafts[i].kind != "constant"]
        if len(signal) == 2 and drafts[signal[0]].op == "setitem" and signal[1] in drafts[signal[0]].inputs:
            # `x[i] += 1` writes through the view, then once more by the assignment.
            signal = signal[:1]
        draft.attributes = {"dim": None}
        if len(signal) > 1:
            draft.kind, draft.inputs = "cat", signal
        else:
            draft.kind, draft.inputs = "reshape", signal or draft.inputs[:1]


def stop_gradients(drafts: Drafts) -> Drafts:
    """Put a `detach` where a result of `torch.no_grad()` enters what is differentiated."""
    fresh = max(drafts, default=-1) + 1
    table: Drafts = {}
    made: dict[int, int] = {}
    for key, draft in drafts.items():
        for i in dict.fromkeys(draft.inputs):
            source = drafts[i]
            if source.grad or not draft.grad or not source.floating or source.kind in ("constant", "parameter"):
                continue
            if i not in made:
                made[i] = fresh
                name = f"{source.name}:no_grad"
                table[fresh] = Draft(
                    fresh, name, "reshape", "detach", [i], {}, {}, source.path, source.shape,
                    source.dtype, True, source.location,
                )  # fmt: skip
                fresh += 1
            draft.inputs = [made[i] if j == i else j for j in draft.inputs]
        table[key] = draft
    return table


def drop_zero_states(drafts: Drafts) -> None:
    """A recurrent layer that is handed zeros or a constant as its first state starts as it would without."""
    for draft in drafts.values():
        if draft.kind == "recurrent" and len(draft.inputs) > 1:
            rest = [i for i in draft.inputs[1:] if drafts[i].kind != "constant"]
            draft.inputs = [draft.inputs[0], *rest]


def renumbered(drafts: Drafts) -> Drafts:
    """The same operations with keys 0, 1, 2 … in an order in which every operand comes first."""
    order = _sorted(drafts)
    position = {key: n for n, key in enumerate(order)}
    table: Drafts = {}
    for key in order:
        draft = drafts[key]
        draft.key = position[key]
        draft.inputs = [position[i] for i in draft.inputs]
        table[draft.key] = draft
    return table


def _sorted(drafts: Drafts) -> list[int]:
    """Execution order where it is a topological one already, else the nearest."""
    from heapq import heapify, heappop, heappush

    rank = {key: n for n, key in enumerate(drafts)}
    waiting = {key: len(set(d.inputs)) for key, d in drafts.items()}
    users = consumers(drafts)
    ready = [(rank[key], key) for key, n in waiting.items() if not n]
    heapify(ready)
    order: list[int] = []
    while ready:
        _, key = heappop(ready)
        order.append(key)
        for user in users[key]:
            waiting[user] -= 1
            if not waiting[user]:
                heappush(ready, (rank[user], user))
    return order
