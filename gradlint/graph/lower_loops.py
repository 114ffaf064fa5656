"""Folds a recurrence that is written as a loop over time into one recurrent operation with its step count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from gradlint.graph.lower_draft import Draft, Drafts, consumers, renumbered

MIN_STEPS = 3
"""Fewer calls of a layer, each fed by the one before, may be weight tying rather than time."""
MAX_BODY_LAYERS = 12
"""A loop whose body holds more layers is a model that is run repeatedly, not a recurrent cell."""
_ANCHORS = ("linear", "conv", "recurrent")


@dataclass
class _Loop:
    """Calls of one layer, each fed by the one before, and everything between them."""

    calls: list[Draft]
    body: set[int]


def fold_loops(drafts: Drafts) -> Drafts:
    """The same operations with each time loop as one `recurrent` node; keys must be 0, 1, 2 …"""
    tried: set[tuple[Any, ...]] = set()
    while True:
        loop = _next_loop(drafts, tried)
        if loop is None:
            return drafts
        drafts = renumbered(_folded(drafts, loop))


def _next_loop(drafts: Drafts, tried: set[tuple[Any, ...]]) -> _Loop | None:
    groups: dict[tuple[Any, ...], list[Draft]] = {}
    for draft in drafts.values():
        if draft.kind in _ANCHORS and draft.parameters and "steps" not in draft.attributes:
            groups.setdefault(draft.signature, []).append(draft)
    candidates = {s: calls for s, calls in groups.items() if len(calls) >= MIN_STEPS and s not in tried}
    if not candidates:
        return None
    above = _ancestors(drafts)
    for signature, calls in candidates.items():
        for run in _runs(calls, above):
            loop = _loop(drafts, run, above)
            if loop is not None:
                return loop
        tried.add(signature)
    return None


def _ancestors(drafts: Drafts) -> list[int]:
    bits: list[int] = []
    for draft in drafts.values():
        own = 1 << draft.key
        for i in draft.inputs:
            own |= bits[i]
        bits.append(own)
    return bits


def _runs(calls: list[Draft], above: list[int]) -> list[list[Draft]]:
    """Maximal runs of calls of which each depends on the one before."""
    runs = [[calls[0]]]
    for before, call in pairwise(calls):
        if above[call.key] >> before.key & 1:
            runs[-1].append(call)
        else:
            runs.append([call])
    return [r for r in runs if len(r) >= MIN_STEPS]


def _loop(drafts: Drafts, calls: list[Draft], above: list[int]) -> _Loop | None:
    first, last = calls[0], calls[-1]
    body = {
        key for key in range(first.key, last.key + 1) if above[key] >> first.key & 1 and above[last.key] >> key & 1
    } | {c.key for c in calls}
    layers = {drafts[k].signature for k in body if drafts[k].kind in _ANCHORS and drafts[k].parameters}
    if len(layers) > MAX_BODY_LAYERS or any(drafts[k].kind == "output" for k in body):
        return None
    if not first.attributes.get("cell") and not _takes_input_each_step(drafts, calls, body, above):
        return None
    loop = _Loop(calls, body)
    _add_tail(drafts, loop, above)
    _add_feeders(drafts, loop)
    return loop


def _takes_input_each_step(drafts: Drafts, calls: list[Draft], body: set[int], above: list[int]) -> bool:
    """Whether every step reads something of the model's input that the step before did not: x[t]."""
    seen: set[int] = set()
    steps = []
    for before, call in pairwise(calls):
        inside = [k for k in body if above[k] >> before.key & 1 and above[call.key] >> k & 1]
        outer = {i for k in inside for i in drafts[k].inputs if i not in body}
        fresh = {i for i in outer - seen if drafts[i].kind not in ("constant", "parameter", "input")}
        steps.append(bool(fresh))
        seen |= outer
    return all(steps)


def _add_tail(drafts: Drafts, loop: _Loop, above: list[int]) -> None:
    """What follows the last call as it followed the one before belongs to the last step."""
    before, last = loop.calls[-2].key, loop.calls[-1].key
    expected = [drafts[k].signature for k in sorted(loop.body) if before < k and above[k] >> before & 1 and k != last]
    first_bits = sum(1 << c.key for c in loop.calls)
    for key, draft in drafts.items():
        if key <= last or draft.signature not in expected or not above[key] >> last & 1:
            continue
        if all(i in loop.body or not above[i] & first_bits for i in draft.inputs):
            loop.body.add(key)
            expected.remove(draft.signature)


def _add_feeders(drafts: Drafts, loop: _Loop) -> None:
    """What is computed once a step for the loop alone (x[t], W x[t]) belongs to the loop."""
    users = consumers(drafts)
    count: dict[tuple[Any, ...], int] = {}
    for draft in drafts.values():
        count[draft.signature] = count.get(draft.signature, 0) + 1
    wanted = len(loop.calls) - 1
    for key in reversed(drafts):
        draft = drafts[key]
        if key in loop.body or draft.kind in ("input", "parameter", "constant", "embedding", "output"):
            continue
        if (
            draft.floating
            and users[key]
            and all(u in loop.body for u in users[key])
            and count[draft.signature] >= wanted
        ):
            loop.body.add(key)


def _folded(drafts: Drafts, loop: _Loop) -> Drafts:
    members = [drafts[k] for k in sorted(loop.body)]
    outer: dict[tuple[Any, ...], int] = {}
    for member in members:
        for i in member.inputs:
            if i not in loop.body and drafts[i].kind not in ("constant", "parameter"):
                # The T slices of one sequence are one operand; so are T calls of one embedding.
                outer.setdefault((drafts[i].signature, drafts[i].name if drafts[i].kind == "input" else ""), i)
    node = _recurrent(loop, members, list(dict.fromkeys(outer.values())))
    table: Drafts = {}
    for key, draft in drafts.items():
        if key == max(loop.body):
            table[node.key] = node
        if key in loop.body:
            continue
        draft.inputs = [node.key if i in loop.body else i for i in draft.inputs]
        table[key] = draft
    return _merged_repeats(table, node.key)


def _recurrent(loop: _Loop, members: list[Draft], inputs: list[int]) -> Draft:
    first, steps = loop.calls[0], len(loop.calls)
    weights = list({m.signature: m for m in members if m.kind in _ANCHORS and m.parameters}.values())
    activations = list(dict.fromkeys(m.op for m in members if m.kind == "activation"))
    state = next((m for m in reversed(members) if m.floating and m.shape is not None), first)
    attributes: dict[str, Any] = {"steps": steps, "last_call": loop.calls[-1].name}
    if first.kind == "recurrent":
        attributes = {**first.attributes, **attributes}
        op = first.op if len(weights) == 1 else "recurrence"
        return replace(
            first, op=op, inputs=inputs, attributes=attributes, parameters=_cell_roles(weights), shape=state.shape
        )
    hidden = state.shape[-1] if state.shape else None
    if first.kind == "conv":
        hidden = first.attributes.get("out_channels")
    attributes |= {
        "hidden_size": hidden,
        "num_layers": 1,
        "bidirectional": False,
        "batch_first": True,
        "cell": True,
        "bias": any("bias" in w.parameters for w in weights),
        "nonlinearity": activations[0] if len(activations) == 1 else None,
        "activations": activations,
    }
    plain = {m.kind for m in members} <= {"linear", "add", "activation", "reshape"}
    elman = plain and len(weights) == 2 and activations in (["tanh"], ["relu"]) and _adds(members)
    parameters = {}
    others = [w for w in weights if w.signature != first.signature]
    for role, weight in zip(("hh", "ih"), [first, *others], strict=False):
        for own in ("weight", "bias"):
            if own in weight.parameters:
                parameters[f"{own}_{role}_l0"] = weight.parameters[own]
    for n, weight in enumerate(others[1:], 2):
        parameters |= {f"{own}_ih{n}": name for own, name in weight.parameters.items()}
    if others:
        attributes["input_size"] = others[0].attributes.get("in_features", others[0].attributes.get("in_channels"))
    op = "rnn" if elman else "recurrence"
    return replace(
        first, kind="recurrent", op=op, inputs=inputs, attributes=attributes, parameters=parameters, shape=state.shape
    )


def _adds(members: list[Draft]) -> bool:
    return any(m.kind == "add" and m.op == "add" for m in members)


def _cell_roles(weights: list[Draft]) -> dict[str, str]:
    roles = dict(weights[0].parameters)
    for n, weight in enumerate(weights[1:], 2):
        roles |= {f"{role}_{n}": name for role, name in weight.parameters.items()}
    return roles


def _merged_repeats(drafts: Drafts, folded: int) -> Drafts:
    """What was done to each step's output (an output layer, dropout) is done once to the folded node's."""
    target: dict[int, int] = {}
    downstream = {folded}
    seen: dict[tuple[Any, ...], int] = {}
    table: Drafts = {}
    for key, draft in drafts.items():
        draft.inputs = [target.get(i, i) for i in draft.inputs]
        if key != folded and any(i in downstream for i in draft.inputs):
            if draft.kind == "cat" and len(set(draft.inputs)) == 1 and len(draft.inputs) > 1:
                draft.kind, draft.inputs = "reshape", draft.inputs[:1]
            same = (draft.signature, tuple(draft.inputs), repr(draft.attributes))
            if same in seen and draft.kind != "output":
                target[key] = seen[same]
                continue
            seen[same] = key
            downstream.add(key)
        table[key] = draft
    return table
