"""Facts that the text around a step tells: precision, accumulation, what kind of learning it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from gradlint.location import Location
from gradlint.source.events import Event
from gradlint.source.index import Scope, location, position_of, terminal_name
from gradlint.source.script import StepEvent
from gradlint.source.step_order import exclusive

_REWARD = re.compile(
    r"reward|advantage|\badv\b|discount|td_error|td_target|q_value|q_target|q_eval|q_next|policy_loss|value_loss"
    r"|actor|critic|log_probs?\b|entropy_coef|replay_?buffer|next_state",
    re.IGNORECASE,
)


ADVERSARIAL = re.compile(
    r"discriminator|generator|net_?[dg]\b|optimizer_?[dg]\b|\b[dg]_(loss|optim\w*|opt|solver)|adversarial|gan_loss|loss_?[DG]\b"
)


LENGTH_NAMES = re.compile(
    r"^(seq_?len\w*|sequence_?length|max_?len\w*|bptt|bptt_len|chunk_len|time_?steps?|n_?steps?|seq_length|T|max_length"
    r"|num_steps|window\w*|seq_size|pad_size|lookback|look_back|chunk_size)$",
    re.IGNORECASE,
)


def autocast(scope: Scope) -> str | None:
    """The dtype under `autocast` in a function, or None."""
    for site in scope.calls:
        if terminal_name(site.node.func) == "autocast":
            text = ast.unparse(site.node)
            return "bfloat16" if "bfloat16" in text else "float16"
    return None


def accumulates(step: Event, backward: Event) -> bool:
    """The step runs on some iterations only: `if (i + 1) % n == 0`."""
    return any(
        b.kind == "if"
        and b not in backward.path
        and b.test is not None
        and any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod) for n in ast.walk(b.test))
        for b in step.path
    )


def is_reinforcement(scope: Scope, source: Event, text: str) -> bool:
    """Whether the loss is made of rewards or advantages, read from what flows into it within the function."""
    holder = source.site.scope
    receiver = source.site.node.func
    loss = receiver.value if isinstance(receiver, ast.Attribute) else None
    names = {n.id for n in ast.walk(loss) if isinstance(n, ast.Name)} if loss is not None else set()
    names |= {n.id for a in source.site.node.args for n in ast.walk(a) if isinstance(n, ast.Name)}
    seen: set[str] = set()
    words: set[str] = set()
    for _ in range(4):
        new = names - seen
        if not new:
            break
        seen |= new
        names = set()
        for name in new:
            words.add(name)
            for binding in holder.bindings.get(name, []):
                if binding.value is not None:
                    for node in ast.walk(binding.value):
                        if isinstance(node, ast.Name):
                            names.add(node.id)
                        elif isinstance(node, ast.Attribute):
                            words.add(node.attr)
    hits = {w for w in words if _REWARD.search(w)}
    return (len(hits) >= 1 and not hits <= {"log_prob", "log_probs"}) or any("reward" in w.lower() for w in scope.words)


def loss_location(source: Event) -> Location | None:
    """Where the loss that a backward starts from was last assigned, or None."""
    receiver = source.site.node.func
    loss = receiver.value if isinstance(receiver, ast.Attribute) else None
    name = loss.id if isinstance(loss, ast.Name) else None
    if name is None:
        return None
    before = [b for b in source.site.scope.bindings.get(name, []) if b.position <= position_of(source.site.node)]
    return location(source.site.scope.file, before[-1].node) if before else None


def step_events(events: list[Event], step: int) -> Iterable[StepEvent]:
    """The events around a step that can run with it, in order."""
    target = events[step]
    for event in events:
        if exclusive(event.path, target.path):
            continue
        receiver = event.site.node.func
        name = ast.unparse(receiver.value)[:80] if isinstance(receiver, ast.Attribute) else ""
        yield StepEvent(event.kind, location(event.site.scope.file, event.site.node), name)
