"""Facts that the text around a step tells: precision, accumulation, what kind of learning it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from gradlint.location import Location
from gradlint.source.events import Event
from gradlint.source.index import Binding, Scope, dotted, location, position_of
from gradlint.source.script import StepEvent
from gradlint.source.step_order import exclusive
from gradlint.source.walking import walk

_REWARD = re.compile(
    r"reward|advantage|^(?:b_|mb_)?gae(?:_b|_batch)?$|discounted|td_?(?:error|target|delta)|q_target|target_q|q_next|next_q"
    r"|expected_q",
    re.IGNORECASE,
)
"""Data that a loss is made of in reinforcement learning."""

_PREFERENCE = re.compile(r"chosen|reject|prefer|winn|los(?:e|ing)", re.IGNORECASE)
"""What a reward model says of two answers: outputs that are compared, none that anybody was given."""

_ADVANTAGE = re.compile(r"^(?:b_|mb_)?advs?(?:_b|_batch)?$")
"""Advantages in short, as adversarial examples and the options for them are called too."""

_RETURNS = re.compile(r"^(?:b_|mb_)?(?:returns|return_)(?:_b|_batch)?$")
"""Sums of rewards, as what a share earned is called too."""

_ACTS = re.compile(r"reward|advantage|log_?p(rob|i)|\bgae\b|policy|actor|critic|action|episode", re.IGNORECASE)
"""What stands beside sums of rewards, and not beside prices."""

_OPTION = re.compile(r"(^|\.)(opts?|options?|args?|cfg|config|conf|params|hparams|flags)\.\w+$", re.IGNORECASE)

_LEARNS_BY_REWARD = re.compile(
    r"reward|return_|returns|advantage|log_?p(rob|i)|\bgae\b|policy|actor|critic", re.IGNORECASE
)

_TARGET_ENTROPY = re.compile(r"target_?ent|ent\w*_target", re.IGNORECASE)

_POLICY = re.compile(
    r"policy_loss|value_loss|actor_loss|critic_loss|q_values?|q_eval|next_states?|log_probs?$|discount|gamma",
    re.IGNORECASE,
)
"""Data that may as well belong to imitation or regression; they count beside rewards in the same function."""


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
        if site.name == "autocast":
            text = ast.unparse(site.node)
            return "bfloat16" if "bfloat16" in text else "float16"
    return None


def accumulates(step: Event, backward: Event) -> bool:
    """The step runs on some iterations only: `if (i + 1) % n == 0`."""
    return any(
        b.kind == "if"
        and b not in backward.path
        and b.test is not None
        and any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod) for n in walk(b.test))
        for b in step.path
    )


def is_reinforcement(scope: Scope, source: Event) -> bool:
    """Whether the loss is made of rewards or advantages, read from the data that flow into it within the function.

    What a class, a network or a function is called says nothing: an actor may be trained to imitate.
    """
    holder = source.site.scope
    receiver = source.site.node.func
    queue: list[ast.expr] = [*source.site.node.args]
    if isinstance(receiver, ast.Attribute):
        queue.append(receiver.value)
    seen: set[str] = set()
    words: set[str] = set()
    for _ in range(5):
        found = {w for expression in queue for w in _data_names(expression, holder)}
        words |= {w.rpartition(".")[2] for w in found}
        new = {w for w in found if w not in seen}
        seen |= new
        bindings = [b for w in sorted(new) for b in (*holder.bindings.get(w, []), *holder.stores.get(w, []))]
        queue = [value for b in bindings if (value := _bound_to(b)) is not None]
        if not queue:
            break
    if any(_REWARD.search(w) and not _PREFERENCE.search(w) for w in words) or (
        words & {"gamma", "discount"} and words & {"r", "R", "rew", "rews"}
    ):
        return True
    if any(_RETURNS.search(w) for w in words) and any(_ACTS.search(w) for w in scope.words):
        return True
    short = any(_ADVANTAGE.search(w.rpartition(".")[2]) and not _OPTION.search(w) for w in seen)
    if short and any(_LEARNS_BY_REWARD.search(w) for w in scope.words):
        return True
    policy = {w for w in words if _POLICY.search(w)}
    if any(_TARGET_ENTROPY.search(w) for w in words) and all("prob" in w for w in policy):
        return False  # The temperature of an entropy bonus is trained on the entropy alone.
    return bool(policy) and any("reward" in w.lower() for w in scope.words)


def _bound_to(binding: Binding) -> ast.expr | None:
    """What a name is made of; nothing is known of one item of the rows that a function makes of several data."""
    match binding.value:
        case ast.Call(func=function, args=[_, _, *_] as data) if binding.kind == "for" and len(binding.unpack) == 1:
            column = binding.unpack[0]
            return data[column] if dotted(function) == "zip" and column < len(data) else None
    return binding.value


def _data_names(expression: ast.expr, holder: Scope) -> Iterable[str]:
    """The variables and attributes that an expression reads as data: not what it calls, and no classes."""
    called = {id(n.func) for n in walk(expression) if isinstance(n, ast.Call)}
    for node in walk(expression):
        if id(node) in called:
            continue
        match node:
            case ast.Name(id=name) if not name[:1].isupper() or any(
                b.kind in {"assign", "for", "parameter"} for b in holder.bindings.get(name, [])
            ):
                yield name
            case ast.Attribute(attr=attr):
                yield dotted(node) or f".{attr}"


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
