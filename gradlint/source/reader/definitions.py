"""Imports and definitions of functions and classes."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.source.hydra_configuration import composed
from gradlint.source.reader.libraries import with_attributes
from gradlint.source.reader.loops import Loops
from gradlint.source.reader.values import (
    External,
    Frame,
    Function,
    Unknown,
    UserClass,
    site_of,
)


class Definitions(Loops):
    """Binds names to what files, functions and classes define."""

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
        if last == "main" and isinstance(value, Function) and not value.defaults:
            self._configure(value, decorator)
        applied = self.evaluate(decorator, frame)
        if isinstance(applied, Function):
            result = self.call(applied, [value], {}, site_of(frame.file, decorator))
            if isinstance(result, (Function, UserClass)) and not isinstance(value, UserClass):
                return value if result.name == "wrapper" else result
        return value

    def _configure(self, function: Function, decorator: ast.expr) -> None:
        """Give a function under `@hydra.main` the configuration that is at hand for its only parameter."""
        table = composed([decorator], function.frame.file.path, self.project.trail.files)
        if table is not None and len(function.node.args.args) == 1:
            function.defaults = [with_attributes(table)]

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
