"""The order of events: which backward a step uses, which exclude each other."""

from __future__ import annotations

from gradlint.source.events import Event
from gradlint.source.index import CONDITIONAL, Path


def backward_before(events: list[Event], step: int) -> int | None:
    """The latest backward before a step that can run with it; else one later in the same loop."""
    for i in range(step - 1, -1, -1):
        if events[i].kind == "backward" and not exclusive(events[i].path, events[step].path):
            return i
    for i in range(step + 1, len(events)):
        if (
            events[i].kind == "backward"
            and same_loop(events[i].path, events[step].path)
            and not exclusive(events[i].path, events[step].path)
        ):
            return i
    return None


def exclusive(a: Path, b: Path) -> bool:
    """Whether two places lie in different branches of one statement."""
    branches = {id(x.owner): x.branch for x in b if x.kind in CONDITIONAL}
    return any(x.kind in CONDITIONAL and branches.get(id(x.owner), x.branch) != x.branch for x in a)


def same_loop(a: Path, b: Path) -> bool:
    """Whether two places lie in the body of one loop."""
    return any(x.kind == "loop" and x in b for x in a)


def cover(events: list[Event], path: Path) -> bool:
    """Whether clips in the branches of one `if` leave no way around."""
    seen: dict[int, set[int]] = {}
    for event in events:
        around = [b for b in event.path if b.kind in CONDITIONAL and b not in path]
        if len(around) == 1 and around[0].kind == "if":
            seen.setdefault(id(around[0].owner), set()).add(around[0].branch)
    return any(branches == {0, 1} for branches in seen.values())
