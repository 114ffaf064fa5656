"""Statements: assignment, branches whose condition may not be known, bounded loops, definitions."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from gradlint.source.reader.expressions import Expressions
from gradlint.source.reader.machine import MISSING
from gradlint.source.reader.values import (
    Array,
    Choice,
    External,
    Frame,
    Function,
    Module,
    Pieces,
    ReadingStoppedError,
    Site,
    Tensor,
    Unknown,
    UserClass,
    contains_tensor,
    merge,
)

MAX_ROUNDS = 10_000
"""Rounds of one loop with a known length."""


@dataclass(frozen=True)
class Jump:
    """How a block ended early: return, break, continue or raise, with the value returned or raised."""

    kind: str
    value: Any = None


BREAK, CONTINUE = Jump("break"), Jump("continue")


class Statements(Expressions):
    """Executes statements."""

    def execute(self, statements: list[ast.stmt], frame: Frame) -> Jump | None:
        """Run a block."""
        for statement in statements:
            self.step()
            kind = type(statement)
            method = self.methods.get(kind)
            if method is None:
                method = self.methods[kind] = getattr(self, f"_run_{kind.__name__.lower()}", self._passed_over)
            jump: Jump | None = method(statement, frame)
            if jump is not None:
                return jump
        return None

    def _passed_over(self, node: ast.stmt, frame: Frame) -> None:
        """A statement that says nothing of models."""

    def _run_expr(self, node: ast.Expr, frame: Frame) -> None:
        self.evaluate(node.value, frame)

    def _run_assign(self, node: ast.Assign, frame: Frame) -> None:
        value = self.evaluate(node.value, frame)
        for target in node.targets:
            self.assign(target, value, frame)

    def _run_annassign(self, node: ast.AnnAssign, frame: Frame) -> None:
        if node.value is not None:
            self.assign(node.target, self.evaluate(node.value, frame), frame)
        elif frame.owner is not None and isinstance(node.target, ast.Name):
            frame.names.setdefault(node.target.id, Unknown(f"`{node.target.id}` has no default"))

    def _run_augassign(self, node: ast.AugAssign, frame: Frame) -> None:
        site = Site(frame.file, node)
        target = node.target
        left = self.evaluate(target, frame)
        right = self.evaluate(node.value, frame)
        if isinstance(left, list) and isinstance(node.op, ast.Add) and isinstance(right, (list, tuple)):
            left.extend(right)
            return
        value = self.binary(node.op, left, right, site)
        if isinstance(left, Tensor) and isinstance(value, Tensor) and isinstance(target, ast.Name):
            left.node, left.shape = value.node, value.shape
            return
        if isinstance(left, Array) and isinstance(value, Array):
            self.write_law(left, value.law, site)
            return
        self.assign(target, value, frame)

    def assign(self, target: ast.expr, value: Any, frame: Frame) -> None:
        """Bind a target."""
        site = Site(frame.file, target)
        match target:
            case ast.Name(id=name):
                frame.outward.get(name, frame).names[name] = value
                if isinstance(value, (Module, Choice)) and self.building == 0:
                    for one in value.values if isinstance(value, Choice) else (value,):
                        if isinstance(one, Module) and not one.variable:
                            one.variable = name
            case ast.Attribute(value=owner, attr=name):
                self.set_attribute(self.evaluate(owner, frame), name, value, site)
            case ast.Subscript(value=owner, slice=key):
                self.set_item(self.evaluate(owner, frame), self.evaluate(key, frame), value, site)
            case ast.Starred(value=inner):
                self.assign(inner, value, frame)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                for one, part in zip(targets, self.unpack(value, targets, site), strict=True):
                    self.assign(one, part, frame)

    def unpack(self, value: Any, targets: list[ast.expr], site: Site) -> list[Any]:
        """One part of `value` for each target."""
        count = len(targets)
        starred = next((i for i, t in enumerate(targets) if isinstance(t, ast.Starred)), None)
        if isinstance(value, Pieces) and starred is None and self.operations is not None:
            known = Pieces(value.tensor, value.op, value.dim, value.count or count, value.site, value.rank_change)
            return [self.operations.piece(known, i) for i in range(count)]
        items = self.items(value, site)
        if items is not None:
            if starred is not None and len(items) >= count - 1:
                after = count - starred - 1
                end = len(items) - after
                return [*items[:starred], items[starred:end], *items[end:]]
            if len(items) == count:
                return items
        if isinstance(value, Tensor) and self.operations is not None:
            return [self.operations.index(value, i, site) for i in range(count)]
        numeric = isinstance(value, Unknown) and value.numeric
        return [Unknown("part of a value that is not known", numeric=numeric) for _ in targets]

    # -- branches ------------------------------------------------------------------------------------------------

    def _run_if(self, node: ast.If, frame: Frame) -> Jump | None:
        truth = self.truth(self.evaluate(node.test, frame))
        if truth is not None:
            return self.execute(node.body if truth else node.orelse, frame)
        return self.both(node.body, node.orelse, frame, Site(frame.file, node.test))

    def both(self, first: list[ast.stmt], second: list[ast.stmt], frame: Frame, site: Site) -> Jump | None:
        """Run both branches of a condition that is not known, and merge what they did."""
        if self.operations is not None:
            return self._both_in_graph(first, second, frame, site)
        before = dict(frame.names)
        self.uncertain += 1
        self.regions += 1
        self.writes.append([])
        try:
            jump_a = self.execute(first, frame)
            written = self._undo()
            after_a, frame.names = frame.names, dict(before)
            jump_b = self.execute(second, frame)
        finally:
            self.uncertain -= 1
            self.regions -= 1
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
        return self._join(frame, before, after_a, jump_a, jump_b, site)

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

    def _join(
        self, frame: Frame, before: dict[str, Any], after_a: dict[str, Any], a: Jump | None, b: Jump | None, site: Site
    ) -> Jump | None:
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
                raise ReadingStoppedError(site, f"which branch runs depends on `{site.text}`, which is not known")
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
            raise ReadingStoppedError(site, f"which branch runs depends on `{site.text}`, which is not known")
        return self._join(frame, before, names_a, jump_a, jump_b, site)

    def _run_match(self, node: Any, frame: Frame) -> Jump | None:
        subject = self.evaluate(node.subject, frame)
        for case in node.cases:
            pattern = case.pattern
            options = pattern.patterns if isinstance(pattern, ast.MatchOr) else [pattern]
            if any(isinstance(o, ast.MatchAs) and o.pattern is None for o in options) and case.guard is None:
                return self.execute(case.body, frame)
            values = [self.evaluate(o.value, frame) for o in options if isinstance(o, ast.MatchValue)]
            if isinstance(subject, (str, int, float)) and len(values) == len(options) and subject in values:
                return self.execute(case.body, frame)
            if not isinstance(subject, (str, int, float)):
                rest = node.cases[node.cases.index(case) + 1 :]
                others = [ast.copy_location(ast.Match(node.subject, rest), node)] if rest else []
                return self.both(case.body, list(others), frame, Site(frame.file, node.subject))
        return None

    # -- loops ---------------------------------------------------------------------------------------------------

    def _run_for(self, node: ast.For, frame: Frame) -> Jump | None:
        site = Site(frame.file, node.iter)
        value = self.evaluate(node.iter, frame)
        alternatives = value.values if isinstance(value, Choice) else (value,)
        for one in alternatives:
            jump = self._loop_over(node, one, frame, site)
            if jump is not None:
                return jump
        return self.execute(node.orelse, frame) if node.orelse else None

    def _loop_over(self, node: ast.For, value: Any, frame: Frame, site: Site) -> Jump | None:
        items = self.items(value, site)
        if items is None:
            return self._once(
                node.body, frame, site, lambda: self.assign(node.target, self._element(value, site), frame)
            )
        started, events = self.steps, self.events
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
        return None

    def _forget(self, loop: ast.For | ast.While, frame: Frame) -> None:
        """What a loop that was left early computes is not known."""
        for name in sorted(_read_names(loop.body)):
            held = frame.names.get(name)
            if isinstance(held, (int, float, str, list, dict, set, tuple)):
                frame.names[name] = Unknown("computed in a long loop", numeric=isinstance(held, (int, float)))

    def _element(self, value: Any, site: Site) -> Any:
        if isinstance(value, Tensor) and self.operations is not None:
            return self.operations.index(value, 0, site)
        if isinstance(value, Pieces) and self.operations is not None:
            return self.operations.piece(value, 0)
        return Unknown(
            "an element of something that is not known", numeric=isinstance(value, Unknown) and value.numeric
        )

    def _once(self, body: list[ast.stmt], frame: Frame, site: Site, prepare: Any) -> Jump | None:
        """Run the body of a loop of unknown length once; what it changes in the graph becomes a loop node."""
        before = {n: (v, v.node) for n, v in frame.names.items() if isinstance(v, Tensor)}
        prepare()
        self.uncertain += 1
        self.regions += 1
        try:
            jump = self.execute(body, frame)
        finally:
            self.uncertain -= 1
            self.regions -= 1
        if self.operations is not None:
            carried = _read_names(body)
            for name, (_, node) in sorted(before.items()):
                value = frame.names.get(name)
                if isinstance(value, Tensor) and value.node != node and name in carried:
                    builder = self.operations.builder
                    frame.names[name] = builder.emit("loop", "loop", [value], site, {"steps": None}, value.shape)
        if jump is not None and jump.kind == "return":
            if self.operations is not None and contains_tensor(jump.value):
                return jump
            frame.returns.append(jump.value)
        return None

    def _run_while(self, node: ast.While, frame: Frame) -> Jump | None:
        site = Site(frame.file, node.test)
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

    # -- the rest ------------------------------------------------------------------------------------------------

    def _run_return(self, node: ast.Return, frame: Frame) -> Jump:
        return Jump("return", self.evaluate(node.value, frame) if node.value is not None else None)

    def _run_break(self, node: ast.Break, frame: Frame) -> Jump:
        return BREAK

    def _run_continue(self, node: ast.Continue, frame: Frame) -> Jump:
        return CONTINUE

    def _run_raise(self, node: ast.Raise, frame: Frame) -> Jump:
        return Jump("raise", Unknown("an exception"))

    def _run_with(self, node: ast.With | ast.AsyncWith, frame: Frame) -> Jump | None:
        for item in node.items:
            value = self.evaluate(item.context_expr, frame)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, value, frame)
        return self.execute(node.body, frame)

    _run_asyncwith = _run_with
    _run_asyncfor = _run_for

    def _run_try(self, node: Any, frame: Frame) -> Jump | None:
        jump = self.execute(node.body, frame)
        if jump is not None and jump.kind == "raise" and node.handlers:
            jump = self.execute(node.handlers[0].body, frame)
        elif jump is None and node.orelse:
            jump = self.execute(node.orelse, frame)
        final = self.execute(node.finalbody, frame)
        return final or jump

    _run_trystar = _run_try

    def _run_global(self, node: ast.Global, frame: Frame) -> None:
        top = frame
        while top.outer is not None:
            top = top.outer
        frame.outward.update(dict.fromkeys(node.names, top))

    def _run_nonlocal(self, node: ast.Nonlocal, frame: Frame) -> None:
        for name in node.names:
            outer = frame.outer
            while outer is not None and name not in outer.names:
                outer = outer.outer
            if outer is not None:
                frame.outward[name] = outer

    def _run_delete(self, node: ast.Delete, frame: Frame) -> None:
        for target in node.targets:
            if isinstance(target, ast.Attribute):
                owner = self.evaluate(target.value, frame)
                if isinstance(owner, Module):
                    for table in (owner.children, owner.parameters, owner.attributes):
                        table.pop(target.attr, None)
            elif isinstance(target, ast.Subscript):
                owner = self.evaluate(target.value, frame)
                key = self.evaluate(target.slice, frame)
                self.delete_item(owner, key)

    def _run_import(self, node: ast.Import, frame: Frame) -> None:
        for alias in node.names:
            if alias.asname:
                frame.names[alias.asname] = self.import_module(alias.name, frame)
            else:
                first = alias.name.split(".")[0]
                frame.names[first] = self.import_module(first, frame)

    def _run_importfrom(self, node: ast.ImportFrom, frame: Frame) -> None:
        for alias in node.names:
            if alias.name == "*":
                top = frame
                while top.outer is not None:
                    top = top.outer
                if node not in top.scope.stars:
                    top.scope.stars.append(node)
            else:
                name = alias.asname or alias.name
                frame.names[name] = self.import_from(node.module or "", alias.name, frame, node.level)

    def _run_functiondef(self, node: ast.FunctionDef | ast.AsyncFunctionDef, frame: Frame) -> None:
        value: Any = self.make_function(node, frame)
        for decorator in reversed(node.decorator_list):
            value = self.decorate(value, decorator, frame)
        frame.names[node.name] = value

    _run_asyncfunctiondef = _run_functiondef

    def decorate(self, value: Any, decorator: ast.expr, frame: Frame) -> Any:
        """A function or class after one decorator; decorators from outside the project leave it as it is."""
        name = decorator.func if isinstance(decorator, ast.Call) else decorator
        last = name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""
        if isinstance(value, Function) and last in (
            "property",
            "cached_property",
            "staticmethod",
            "classmethod",
            "setter",
        ):
            value.role = "property" if last == "cached_property" else last
            return value
        if last == "dataclass" and isinstance(value, UserClass):
            value.is_record = True
            return value
        applied = self.evaluate(decorator, frame)
        if isinstance(applied, Function):
            result = self.call(applied, [value], {}, Site(frame.file, decorator))
            if isinstance(result, (Function, UserClass)) and not isinstance(value, UserClass):
                return value if result.name == "wrapper" else result
        return value

    def _run_classdef(self, node: ast.ClassDef, frame: Frame) -> None:
        bases = [self.evaluate(b, frame) for b in node.bases if not isinstance(b, ast.Starred)]
        cls = UserClass(node.name, node, frame, [b for b in bases if isinstance(b, (UserClass, External, Unknown))])
        body = Frame(frame.file, cls.members, outer=frame, owner=cls)
        self.execute(node.body, body)
        cls.members = body.names
        for base in cls.ancestors[1:]:
            if isinstance(base, UserClass):
                cls.is_module |= base.is_module
                cls.is_record |= base.is_record
                cls.torch_base = cls.torch_base or base.torch_base
            elif isinstance(base, External):
                self.inherit(cls, base)
        if not cls.is_module and "forward" in cls.members and any(isinstance(b, Unknown) for b in cls.ancestors):
            cls.is_module, cls.torch_base = True, cls.torch_base or "Module"
        value: Any = cls
        for decorator in reversed(node.decorator_list):
            value = self.decorate(value, decorator, frame)
        frame.names[node.name] = value


def _only_raises(block: list[ast.stmt]) -> bool:
    return bool(block) and isinstance(block[-1], ast.Raise)


def _read_names(body: list[ast.stmt]) -> set[str]:
    return {n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name)}
