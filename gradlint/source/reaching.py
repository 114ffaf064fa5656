"""Which bindings of a name reach a use of it."""

from __future__ import annotations

from gradlint.source.index import CONDITIONAL, Binding, Path, Position


def reaching(bindings: list[Binding], position: Position, path: Path) -> list[tuple[Binding, Path]]:
    """The bindings that can reach a use, latest first, each with the branches on which alone it holds.

    A binding is killed by a later one on every path to the use; branches of one `if` exclude each other.
    """
    if len(bindings) == 1 and not bindings[0].path and bindings[0].span is None:
        return [(bindings[0], ())] if bindings[0].position <= position else []
    found: list[tuple[Binding, Path]] = []
    covered: dict[int, set[int]] = {}
    owners = {id(b.owner): b.branch for b in path if b.kind in CONDITIONAL}
    for binding in sorted(bindings, key=lambda b: b.position, reverse=True):
        if binding.span is not None:
            if binding.span[0] <= position < binding.span[1]:
                return [(binding, ())]
            continue
        if binding.position > position:
            continue
        if any(owners.get(id(b.owner), b.branch) != b.branch for b in binding.path if b.kind in CONDITIONAL):
            continue
        only_on = tuple(b for b in binding.path if b.kind in CONDITIONAL and b not in path)
        found.append((binding, only_on))
        if not only_on:
            return found
        if _covers(only_on, covered):
            return found
    return found


def _covers(only_on: Path, covered: dict[int, set[int]]) -> bool:
    """Whether these branches, with those seen before, leave no way around."""
    for block in reversed(only_on):
        if block.kind != "if":
            return False
        branches = covered.setdefault(id(block.owner), set())
        branches.add(block.branch)
        if len(branches) < 2 and not block.sibling_exits:
            return False
    return True
