"""Comprehensions."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.source.reader.operators import MAX_SEQUENCE, Operators
from gradlint.source.reader.values import Frame, Site, Unknown, is_plain, is_repeated, repeated, site_of
from gradlint.source.walking import walk

LONG_LOOP = 400
"""Steps after which a loop of a script that builds nothing counts as work on data and is left."""


LONG_BUILDING_LOOP = 4_000
"""The same inside a constructor, where tables of sizes are computed."""


class Comprehensions(Operators):
    """Evaluates comprehensions, whose loops are bounded like others."""

    def _comprehend(self, generators: list[ast.comprehension], frame: Frame, produce: Any, once: bool = False) -> bool:
        """Run the clauses, calling produce(frame) for each element; False if an iterable is not known.

        With `once`, what is not known gives one element that is not known.
        """
        if not generators:
            produce(frame)
            return True
        first, rest = generators[0], generators[1:]
        site = site_of(frame.file, first.iter)
        value = self.evaluate(first.iter, frame)
        items = self.items(value, site)
        if items is None and once:
            items = [self.element(value, site)]
        if items is None or len(items) > MAX_SEQUENCE:
            return False
        complete = True
        started, events = self.steps, self.events
        for item in items:
            if self.is_idle(started, events):
                return False
            self.assign(first.target, item, frame)
            keep = [self.truth(self.evaluate(test, frame)) for test in first.ifs]
            if None in keep:
                complete = False
            elif all(keep):
                complete &= self._comprehend(rest, frame, produce, once)
        return complete

    def is_idle(self, started: int, events: int) -> bool:
        """Whether a loop has run long without making or initialising anything."""
        if self.operations is not None or self.events != events:
            return False
        return self.steps - started > (LONG_BUILDING_LOOP if self.building else LONG_LOOP)

    def assign(self, target: ast.expr, value: Any, frame: Frame) -> None:
        """Bind a target; the statements know how."""
        raise NotImplementedError

    def _inner(self, frame: Frame) -> Frame:
        return Frame(frame.file, {}, outer=frame, returns=frame.returns)

    def _of_listcomp(self, node: ast.ListComp | ast.GeneratorExp, frame: Frame) -> Any:
        found: list[Any] = []
        inner = self._inner(frame)
        if self._comprehend(node.generators, inner, lambda f: found.append(self.evaluate(node.elt, f))):
            return self.made(found)
        return self._layers_of(node, frame) or Unknown("a comprehension over something that is not known")

    def _layers_of(self, node: ast.ListComp | ast.GeneratorExp, frame: Frame) -> list[Any]:
        """The layers that a comprehension of unknown length makes: those of one round."""
        found: list[Any] = []
        if self.operations is not None or not (self.building or _names_a_class(node.elt)):
            return []  # A comprehension over data.
        self._comprehend(
            node.generators, self._inner(frame), lambda f: found.append(self.evaluate(node.elt, f)), once=True
        )
        repeated(found)
        return self.made(found) if is_repeated(found) else []

    def element(self, value: Any, site: Site) -> Any:
        """One element of an iterable whose elements are not known."""
        raise NotImplementedError

    _of_generatorexp = _of_listcomp

    def _of_setcomp(self, node: ast.SetComp, frame: Frame) -> Any:
        found: list[Any] = []
        known = self._comprehend(
            node.generators, self._inner(frame), lambda f: found.append(self.evaluate(node.elt, f))
        )
        return set(found) if known and all(isinstance(v, (str, int, float)) for v in found) else Unknown("a set")

    def _of_dictcomp(self, node: ast.DictComp, frame: Frame) -> Any:
        table: dict[Any, Any] = {}

        def produce(inner: Frame) -> None:
            key, value = self.evaluate(node.key, inner), self.evaluate(node.value, inner)
            if isinstance(key, (str, int, float, tuple)) and is_plain(key):
                table[key] = value

        if self._comprehend(node.generators, self._inner(frame), produce):
            return table
        return Unknown("a comprehension over something that is not known")


def _names_a_class(node: ast.expr) -> bool:
    """Whether an expression calls something that is spelt as a class is."""
    callees = (n.func for n in walk(node) if isinstance(n, ast.Call))
    names = (
        f.attr if isinstance(f, ast.Attribute) else f.id for f in callees if isinstance(f, (ast.Attribute, ast.Name))
    )
    return any(name[:1].isupper() for name in names)
