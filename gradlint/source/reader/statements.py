"""Statements: assignment, jumps, and the way to every other kind."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.source.reader.by_type import ByType
from gradlint.source.reader.definitions import Definitions
from gradlint.source.reader.values import (
    Array,
    Choice,
    Frame,
    Jump,
    Module,
    OutOfStepsError,
    Pieces,
    Site,
    Tensor,
    Unknown,
    site_of,
)

BREAK, CONTINUE = Jump("break"), Jump("continue")


class Statements(Definitions):
    """Executes statements."""

    def execute(self, statements: list[ast.stmt], frame: Frame) -> Jump | None:
        """Run a block."""
        for statement in statements:
            self.steps += 1
            if self.steps > self.limit:
                raise OutOfStepsError
            jump: Jump | None = self.methods[type(statement)](statement, frame)
            if jump is not None:
                return jump
        return None

    def _run_other(self, node: ast.stmt, frame: Frame) -> None:
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
        site = site_of(frame.file, node)
        target = node.target
        left = self.evaluate(target, frame)
        right = self.evaluate(node.value, frame)
        if isinstance(left, list) and isinstance(node.op, ast.Add) and isinstance(right, (list, tuple)):
            left.extend(self.placed(v, left) for v in right)
            return
        if isinstance(left, Module) and left.torch in ("ModuleList", "Sequential") and isinstance(node.op, ast.Add):
            self.call(self.attribute(left, "extend", site), [right], {}, site)
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
        _ASSIGNED[type(target)](self, target, value, frame)

    def _assign_name(self, target: ast.Name, value: Any, frame: Frame) -> None:
        name = target.id
        frame.outward.get(name, frame).names[name] = value
        if self.building == 0 and isinstance(value, (Module, Choice)):
            for one in value.values if isinstance(value, Choice) else (value,):
                if isinstance(one, Module) and not one.variable:
                    one.variable = name

    def _assign_attribute(self, target: ast.Attribute, value: Any, frame: Frame) -> None:
        self.set_attribute(self.evaluate(target.value, frame), target.attr, value, site_of(frame.file, target))

    def _assign_item(self, target: ast.Subscript, value: Any, frame: Frame) -> None:
        held = self.evaluate(target.value, frame)
        self.set_item(held, self.evaluate(target.slice, frame), value, site_of(frame.file, target))

    def _assign_starred(self, target: ast.Starred, value: Any, frame: Frame) -> None:
        self.assign(target.value, value, frame)

    def _assign_each(self, target: ast.Tuple | ast.List, value: Any, frame: Frame) -> None:
        parts = self.unpack(value, target.elts, site_of(frame.file, target))
        for one, part in zip(target.elts, parts, strict=True):
            self.assign(one, part, frame)

    def _assign_nothing(self, target: ast.expr, value: Any, frame: Frame) -> None:
        """A target that only broken code has."""

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


_ASSIGNED = ByType(
    {
        ast.Name: Statements._assign_name,
        ast.Attribute: Statements._assign_attribute,
        ast.Subscript: Statements._assign_item,
        ast.Starred: Statements._assign_starred,
        ast.Tuple: Statements._assign_each,
        ast.List: Statements._assign_each,
    },
    Statements._assign_nothing,
)
"""How a target of each kind is bound."""
