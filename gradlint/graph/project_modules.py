"""Imports the project's own modules statement by statement, so that one that fails does not take the module with it."""

from __future__ import annotations
import __future__

import ast
import importlib.abc
import importlib.machinery
import types
from collections.abc import Sequence

from gradlint.graph.execute_statements import bound_names
from gradlint.graph.frames import is_user_file
from gradlint.graph.stubs import Unknown
from gradlint.location import Location
from gradlint.older_python import parse


class ProjectModules(importlib.abc.MetaPathFinder):
    """Finds modules of the project that are written in Python.

    What a statement raises is kept in `failures`, by the names that it would have bound, which are placeholders then;
    of `from module import *` under "*". Code that catches errors of its imports is run as it is.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.failures: dict[str, tuple[BaseException, Location]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return None
        if spec.origin is None or not is_user_file(spec.origin, self.root):
            return None
        loader = spec.loader

        def executed(module: types.ModuleType) -> None:
            self._execute(module, loader.get_data(loader.path), loader.path)

        loader.exec_module = executed  # type: ignore[method-assign]
        return spec

    def _execute(self, module: types.ModuleType, source: bytes, path: str) -> None:
        try:
            tree = ast.parse(source, path)
        except SyntaxError:
            tree = parse(source.decode("utf-8", "replace"), path)
        module.__doc__ = ast.get_docstring(tree, clean=False)
        flags = _future_flags(tree)
        for statement in tree.body:
            code = compile(ast.Module([statement], []), path, "exec", flags, dont_inherit=True)
            try:
                exec(code, module.__dict__)
            except (Exception, SystemExit) as error:
                self._recover(module, statement, error, path)

    def _recover(self, module: types.ModuleType, statement: ast.stmt, error: BaseException, path: str) -> None:
        location = Location(path, statement.lineno)
        if isinstance(statement, ast.ImportFrom) and any(a.name == "*" for a in statement.names):
            self.failures.setdefault("*", (error, location))
        for name in bound_names(statement):
            if name not in module.__dict__:
                module.__dict__[name] = Unknown(name)
                self.failures.setdefault(name, (error, location))


def _future_flags(tree: ast.Module) -> int:
    """The compiler's flags for what a module imports from `__future__`."""
    names = [a.name for s in tree.body if isinstance(s, ast.ImportFrom) and s.module == "__future__" for a in s.names]
    flags = 0
    for name in names:
        flags |= getattr(getattr(__future__, name, None), "compiler_flag", 0)
    return flags
