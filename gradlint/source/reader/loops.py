"""Bounded loops."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.source.reader.branches import Branches
from gradlint.source.reader.values import (
    Choice,
    Frame,
    Jump,
    Pieces,
    Site,
    Tensor,
    Unknown,
    contains_tensor,
    is_repeated,
    site_of,
)
from gradlint.source.walking import walk

MAX_ROUNDS = 10_000
"""Rounds of one loop with a known length."""


class Loops(Branches):
    """Runs `for` and `while`: every round where the length is known, else one."""

    def _run_for(self, node: ast.For, frame: Frame) -> Jump | None:
        site = site_of(frame.file, node.iter)
        value = self.evaluate(node.iter, frame)
        alternatives = value.values if isinstance(value, Choice) else (value,)
        for one in alternatives:
            jump = self._loop_over(node, one, frame, site)
            if jump is not None:
                return jump
        return self.execute(node.orelse, frame) if node.orelse else None

    _run_asyncfor = _run_for

    def _loop_over(self, node: ast.For, value: Any, frame: Frame, site: Site) -> Jump | None:
        items = self.items(value, site)
        if items is None:
            return self._once(
                node.body, frame, site, lambda: self.assign(node.target, self.element(value, site), frame)
            )
        started, events = self.steps, self.events
        unsure = is_repeated(items)
        before = self._carried(frame) if unsure else {}
        for n, item in enumerate(items):
            if n >= MAX_ROUNDS or self.is_idle(started, events):
                self._forget(node, frame)
                return None
            self.assign(node.target, item, frame)
            jump = self.execute(node.body, frame)
            if jump is not None and jump.kind == "break":
                break
            if jump is not None and jump.kind != "continue":
                return jump
        self._close(node.body, frame, site, before)
        return None

    def _forget(self, loop: ast.For | ast.While, frame: Frame) -> None:
        """What a loop that was left early computes is not known."""
        for name in sorted(_read_names(loop.body)):
            held = frame.names.get(name)
            if isinstance(held, (int, float, str, list, dict, set, tuple)):
                frame.names[name] = Unknown("computed in a long loop", numeric=isinstance(held, (int, float)))

    def element(self, value: Any, site: Site) -> Any:
        """One element of an iterable whose elements are not known."""
        if isinstance(value, Tensor) and self.operations is not None:
            return self.operations.index(value, 0, site)
        if isinstance(value, Pieces) and self.operations is not None:
            return self.operations.piece(value, 0)
        return Unknown(
            "an element of something that is not known", numeric=isinstance(value, Unknown) and value.numeric
        )

    def _once(self, body: list[ast.stmt], frame: Frame, site: Site, prepare: Any) -> Jump | None:
        """Run the body of a loop of unknown length once; what it changes in the graph becomes a loop node."""
        before = self._carried(frame)
        prepare()
        self.rounds += 1
        self.regions += 1
        try:
            jump = self.execute(body, frame)
        finally:
            self.rounds -= 1
            self.regions -= 1
        self._close(body, frame, site, before)
        if jump is not None and jump.kind == "return":
            if self.operations is not None and contains_tensor(jump.value):
                return jump
            frame.returns.append(jump.value)
        return None

    def _carried(self, frame: Frame) -> dict[str, tuple[Tensor, int]]:
        """The tensors that a loop starts with, and their nodes."""
        return {n: (v, v.node) for n, v in frame.names.items() if isinstance(v, Tensor)}

    def _close(self, body: list[ast.stmt], frame: Frame, site: Site, before: dict[str, tuple[Tensor, int]]) -> None:
        """Put a loop node behind what a loop of unknown length changes in the graph."""
        if self.operations is None or not before:
            return
        carried = _read_names(body)
        for name, (_, node) in sorted(before.items()):
            value = frame.names.get(name)
            if isinstance(value, Tensor) and value.node != node and name in carried:
                builder = self.operations.builder
                frame.names[name] = builder.emit("loop", "loop", [value], site, {"steps": None}, value.shape)

    def _run_while(self, node: ast.While, frame: Frame) -> Jump | None:
        site = site_of(frame.file, node.test)
        started, events = self.steps, self.events
        for _ in range(MAX_ROUNDS):
            truth = self.truth(self.evaluate(node.test, frame))
            if truth is None:
                return self._once(node.body, frame, site, lambda: None)
            if not truth:
                return self.execute(node.orelse, frame) if node.orelse else None
            jump = self.execute(node.body, frame)
            if jump is not None and jump.kind == "break":
                return None
            if jump is not None and jump.kind != "continue":
                return jump
            if self.is_idle(started, events):
                self._forget(node, frame)
                return None
        return None


def _read_names(body: list[ast.stmt]) -> set[str]:
    return {n.id for s in body for n in walk(s) if isinstance(n, ast.Name)}
