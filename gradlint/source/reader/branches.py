"""Branches: one of them where the condition is known, else both, and what they leave behind together."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from gradlint.source.reader.expressions import Expressions
from gradlint.source.reader.machine import MISSING
from gradlint.source.reader.values import (
    Frame,
    Jump,
    OutOfStepsError,
    ReadingStoppedError,
    Site,
    Tensor,
    Unknown,
    contains_tensor,
    merge,
    site_of,
)
from gradlint.source.walking import child_nodes, walk

_FOR_FILES = frozenset(
    ["BaseException", "EOFError", "Exception", "FileNotFoundError", "IOError", "KeyError", "OSError", "RuntimeError"]
)
"""What a handler catches that waits for a file which is missing or does not fit."""

_LEAVES_OR_LOADS = frozenset(["exit", "quit", "_exit", "abort", "load", "load_state_dict"])

MAX_DOUBTFUL = 60_000
"""Steps of one run that may go into branches whose condition is not known: a table of a dozen networks."""

MAX_DOUBTFUL_ELSEWHERE = 12_000
"""The same where the condition stands in another file, whose own reading follows every branch of it."""


class Branches(Expressions):
    """Runs `if`, `match` and `try`."""

    def _run_if(self, node: ast.If, frame: Frame) -> Jump | None:
        truth = self.holds(node.test, frame)
        if truth is not None:
            return self.execute(node.body if truth else node.orelse, frame)
        return self.both(node.body, node.orelse, frame, site_of(frame.file, node.test))

    def both(self, first: list[ast.stmt], second: list[ast.stmt], frame: Frame, site: Site) -> Jump | None:
        """Run both branches of a condition that is not known, and merge what they did."""
        if self.operations is not None:
            return self._both_in_graph(first, second, frame, site)
        if not self.branches:
            self.doubt_began = self.steps
            self.most_doubtful = MAX_DOUBTFUL if frame.file.path == self.home else MAX_DOUBTFUL_ELSEWHERE
        if self.doubtful + self.steps - self.doubt_began > self.most_doubtful:
            return self._pass_by([*first, *second], frame, site)
        before = dict(frame.names)
        self.uncertain += 1
        self.regions += 1
        self.branches += 1
        self.writes.append([])
        try:
            jump_a = self._under(site, True, first, frame)
            written = self._undo()
            after_a, frame.names = frame.names, dict(before)
            jump_b = self._under(site, False, second, frame)
        finally:
            self.uncertain -= 1
            self.regions -= 1
            self.branches -= 1
            if not self.branches:
                self.doubtful += self.steps - self.doubt_began
            log = self.writes.pop()
        raised = jump_a is not None and jump_a.kind == "raise"
        for table, name, value in written:
            if raised:
                break
            other = table.get(name, MISSING)
            alike = other is MISSING or (jump_b is not None and jump_b.kind == "raise")
            self.write(table, name, value if alike else merge([value, other], f"depends on `{site.text}`"))
        if self.writes:
            self.writes[-1] += log
        return self._join(frame, after_a, jump_a, jump_b, site)

    def _under(self, site: Site, holds: bool, block: list[ast.stmt], frame: Frame) -> Jump | None:
        """Run a block that runs only if the condition at a site is as in `holds`."""
        known = isinstance(site.node, ast.expr)
        if isinstance(site.node, ast.expr):
            self.conditions.append((site.node, holds))
        try:
            return self.execute(block, frame)
        finally:
            if known:
                self.conditions.pop()

    def _pass_by(self, branches: list[ast.stmt], frame: Frame, site: Site) -> Jump | None:
        """Read neither branch: what they set or return is not known."""
        if self.building:
            raise OutOfStepsError
        for statement in _statements(branches):
            match statement:
                case ast.Assign(targets=targets):
                    for target in targets:
                        self.assign(target, Unknown(f"depends on `{site.text}`"), frame)
                case ast.AugAssign(target=target) | ast.AnnAssign(target=target) | ast.For(target=target):
                    self.assign(target, Unknown(f"depends on `{site.text}`"), frame)
                case ast.Return():
                    frame.returns.append(Unknown(f"depends on `{site.text}`"))
        return None

    def _undo(self) -> list[tuple[dict[str, Any], str, Any]]:
        """Take back the attribute writes of a branch; what they wrote, once each."""
        log = self.writes[-1]
        written: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
        for table, name, _ in log:
            written[(id(table), name)] = (table, name, table.get(name))
        for table, name, old in reversed(log):
            if old is MISSING:
                table.pop(name, None)
            else:
                table[name] = old
        log.clear()
        return list(written.values())

    def _join(self, frame: Frame, after_a: dict[str, Any], a: Jump | None, b: Jump | None, site: Site) -> Jump | None:
        if a is not None and b is not None:
            if a.kind == "raise":
                return b
            if b.kind == "raise":
                frame.names = after_a
                return a
            if a.kind == b.kind == "return":
                return Jump("return", merge([a.value, b.value], f"depends on `{site.text}`"))
            return a if a.kind == "return" else b
        if a is not None or b is not None:
            jump = a or b
            if a is None:
                frame.names = after_a
            if jump is not None and jump.kind == "return":
                frame.returns.append(jump.value)
            return None
        merged = dict(frame.names)
        for name in {**after_a, **frame.names}:
            if name in after_a and name in frame.names:
                if after_a[name] is not frame.names[name]:
                    merged[name] = merge([after_a[name], frame.names[name]], f"depends on `{site.text}`")
            elif name in after_a:
                merged[name] = after_a[name]
        frame.names = merged
        return None

    def _both_in_graph(self, first: list[ast.stmt], second: list[ast.stmt], frame: Frame, site: Site) -> Jump | None:
        assert self.operations is not None
        if _only_raises(first):
            return self.execute(second, frame)
        if second and _only_raises(second):
            return self.execute(first, frame)
        builder = self.operations.builder
        before, count = dict(frame.names), len(builder.nodes)
        tensors = {n: (v.node, v.shape) for n, v in before.items() if isinstance(v, Tensor)}
        results = []
        for block in (first, second):
            frame.names = dict(before)
            for name, (node, shape) in tensors.items():
                before[name].node, before[name].shape = node, shape
            jump = self.execute(block, frame)
            added = builder.nodes[count:]
            results.append((jump, frame.names, {n.kind for n in added}))
            if added and not {n.kind for n in added} <= {
                "reshape",
                "upsample",
                "scale",
                "constant",
                "parameter",
                "dropout",
            }:
                raise _undecided(site)
        (jump_a, names_a, _), (jump_b, names_b, kinds_b) = results
        if not kinds_b:
            frame.names = names_b
            for name, (node, shape) in tensors.items():
                before[name].node, before[name].shape = node, shape
        if jump_a is None and jump_b is None:
            names_b = frame.names
            frame.names = {
                n: v
                if n not in names_a or names_a[n] is v or isinstance(v, Tensor)
                else merge([names_a[n], v], f"depends on `{site.text}`")
                for n, v in {**names_a, **names_b}.items()
            }
            return None
        returned = [j for j in (jump_a, jump_b) if j is not None and j.kind == "return"]
        if any(contains_tensor(j.value) for j in returned) or any(
            j is not None and j.kind != "return" for j in (jump_a, jump_b)
        ):
            raise _undecided(site)
        return self._join(frame, names_a, jump_a, jump_b, site)

    def _run_match(self, node: Any, frame: Frame) -> Jump | None:
        subject = self.evaluate(node.subject, frame)
        for case in node.cases:
            pattern = case.pattern
            options = pattern.patterns if isinstance(pattern, ast.MatchOr) else [pattern]
            if any(isinstance(o, ast.MatchAs) and o.pattern is None for o in options) and case.guard is None:
                return self.execute(case.body, frame)
            kinds = [self.evaluate(c, frame) for c in map(_bare_class, options) if c is not None]
            if len(kinds) == len(options) and case.guard is None:
                held = self.is_instance(subject, tuple(kinds))
                if held:
                    return self.execute(case.body, frame)
                if held is False:
                    continue
            values = [self.evaluate(o.value, frame) for o in options if isinstance(o, ast.MatchValue)]
            if isinstance(subject, (str, int, float)) and len(values) == len(options) and subject in values:
                return self.execute(case.body, frame)
            assumed = self.assumptions.truth(_condition(node.subject, options)) if self.operations is not None else None
            if assumed is True:
                return self.execute(case.body, frame)
            if assumed is None and not isinstance(subject, (str, int, float)):
                rest = node.cases[node.cases.index(case) + 1 :]
                others = [ast.copy_location(ast.Match(node.subject, rest), node)] if rest else []
                return self.both(case.body, list(others), frame, site_of(frame.file, _condition(node.subject, options)))
        return None

    def _run_try(self, node: Any, frame: Frame) -> Jump | None:
        jump = self._attempt(node, frame)
        if jump is not None and jump.kind == "raise" and node.handlers:
            jump = self.execute(node.handlers[0].body, frame)
        elif jump is None and node.orelse:
            jump = self.execute(node.orelse, frame)
        final = self.execute(node.finalbody, frame)
        return final or jump

    _run_trystar = _run_try

    def _attempt(self, node: Any, frame: Frame) -> Jump | None:
        """Run the body of a `try`; what it loads is there or not, where a handler goes on without and then trains."""
        if not any(_goes_on(h) for h in node.handlers):
            return self.execute(node.body, frame)
        first, trained = len(self.resumed), self.trained
        self.attempts += 1
        try:
            return self.execute(node.body, frame)
        finally:
            if self.trained and not trained:
                for module, site, depth in self.resumed[first:]:
                    if depth == self.attempts:
                        self.take_checkpoint(module, site)
            self.attempts -= 1


def _bare_class(pattern: ast.pattern) -> ast.expr | None:
    """The class of a pattern that asks for the type alone, as `case nn.Linear():` does."""
    if isinstance(pattern, ast.MatchClass) and not pattern.patterns and not pattern.kwd_patterns:
        return pattern.cls
    return None


def _condition(subject: ast.expr, options: list[Any]) -> ast.expr:
    """`case A | B` as a condition on the subject."""
    values = [o.value for o in options if isinstance(o, ast.MatchValue)]
    test = ast.Compare(subject, [ast.In()], [ast.Tuple(values, ast.Load())])
    if len(values) == 1:
        test = ast.Compare(subject, [ast.Eq()], values)
    return ast.copy_location(test, subject)


def _undecided(site: Site) -> ReadingStoppedError:
    condition = site.node if isinstance(site.node, ast.expr) else None
    return ReadingStoppedError(site, f"which branch runs depends on `{site.text}`, which is not known", condition)


def _statements(block: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block and of the blocks inside, but not of definitions."""
    for statement in block:
        yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _statements([c for c in child_nodes(statement) if isinstance(c, ast.stmt)])


def _goes_on(handler: ast.ExceptHandler) -> bool:
    """Whether a program goes on with nothing loaded when a file is missing or does not fit."""
    called = {ast.unparse(n.func).rpartition(".")[2] for n in walk(handler) if isinstance(n, ast.Call)}
    if isinstance(handler.body[-1], ast.Raise) or called & _LEAVES_OR_LOADS:
        return False
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(k is None or ast.unparse(k) in _FOR_FILES for k in kinds)


def _only_raises(block: list[ast.stmt]) -> bool:
    return bool(block) and isinstance(block[-1], ast.Raise)
