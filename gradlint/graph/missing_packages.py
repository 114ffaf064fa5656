"""Stand-ins for packages that a script imports and that are not installed where it is checked."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from gradlint.graph.frames import is_user_file
from gradlint.graph.stand_ins import member
from gradlint.graph.stubs import Unknown, invented_size


class _StubObject:
    """An instance of a class of a missing package."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Unknown(f"{type(self).__name__}.{name}")

    def __len__(self) -> int:
        return invented_size(type(self).__name__)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return Unknown(type(self).__name__)(*arguments, **keywords)


class _StubMeta(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unknown(f"{cls.__name__}.{name}")


class StubModule(types.ModuleType):
    """A missing package, or a name that a package has no more: everything is in it, nothing does anything.

    Where a package was renamed, what is left of it is taken from its successors.
    """

    __path__: list[str] = []  # noqa: RUF012

    def __init__(self, name: str, root: str = "") -> None:
        super().__init__(name)
        self.__dict__["gradlint_root"] = root

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        for successor in _successors(self.__name__):
            if hasattr(successor, name):
                return getattr(successor, name)
        made: Any = member(self.__name__, name)
        if made is not ...:
            pass
        elif name[:1].isupper():
            made = _stub_class(f"{self.__name__}.{name}", name)
        else:
            made = Unknown(f"{self.__name__}.{name}")
        setattr(self, name, made)
        return made

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return Unknown(self.__name__)(*arguments, **keywords)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (_stub_class(self.__name__, self.__name__.rpartition(".")[2]),)


_RENAMED = {"pytorch_transformers": "transformers", "pytorch_pretrained_bert": "transformers"}
_OLD_MODULES = re.compile(r"^transformers\.(?P<kind>modeling|configuration|tokenization)_(?P<family>\w+)$")
"""Modules of transformers before version 4: `modeling_bert` is `models.bert.modeling_bert` today."""


def _successors(name: str) -> Iterator[types.ModuleType]:
    """The modules in which what a missing module held is found today."""
    top = name.partition(".")[0]
    renamed = _RENAMED.get(top, top)
    if renamed != "transformers":
        return
    old = _OLD_MODULES.match(renamed + name[len(top) :])
    for module in [f"transformers.models.{old['family']}.{old['kind']}_{old['family']}"] if old else []:
        with contextlib.suppress(Exception):
            yield importlib.import_module(module)
    with contextlib.suppress(Exception):
        yield importlib.import_module("transformers")


def _stub_class(qualified_name: str, name: str) -> type:
    """A class that may be subclassed; those that are modules in their package are `nn.Module`s here too."""
    if name in ("LightningModule", "ModelMixin", "PreTrainedModel") or name.endswith("BaseModule"):
        from torch import nn

        nothing = lambda self, *_, **__: None  # noqa: E731
        names = ("save_hyperparameters", "log", "log_dict", "print", "register_to_config")
        return type(name, (nn.Module,), {"gradlint_stub": qualified_name, **dict.fromkeys(names, nothing)})
    return _StubMeta(name, (_StubObject,), {"gradlint_stub": qualified_name})


class MissingPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stub for a package that is not installed, or for a part that one has no more, where the user's own file
    imports it.

    Library code that probes for optional packages still finds nothing, and so does user code that is
    prepared for it (`try: import x` with an `except ImportError`).
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.stubbed: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        top = fullname.partition(".")[0]
        if any(fullname == s or fullname.startswith(s + ".") for s in self.stubbed):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if top in sys.stdlib_module_names or ("." in fullname and self._is_own(top)):
            return None
        frame = _importer(sys._getframe(1))
        if frame is None or not is_user_file(frame.f_code.co_filename, self.root) or _is_prepared(frame):
            return None
        own = self._elsewhere(fullname, Path(frame.f_code.co_filename))
        if own is not None:
            return own
        self.stubbed.append(fullname)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def _elsewhere(self, name: str, importer: Path) -> importlib.machinery.ModuleSpec | None:
        """A module of the project in a folder that is put on the path where its scripts are run: the nearest one."""
        found = [f for f in _folders_with(name, self.root) if importer not in (f / f"{name}.py", f / name)]
        if not found:
            return None
        folder = max(found, key=lambda f: (len(os.path.commonpath([f, importer])), -len(f.parts), str(f)))
        sys.path.append(str(folder))
        # Asked for anew, so that the project's own finder takes it.
        return importlib.util.find_spec(name)

    def _is_own(self, top: str) -> bool:
        """Whether a package is the project's: what it lacks is an error of the project."""
        file = getattr(sys.modules.get(top), "__file__", None)
        return file is None or is_user_file(file, self.root)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """See `importlib.abc.Loader`."""
        _hide_from_libraries()
        return StubModule(spec.name, self.root)

    def exec_module(self, module: types.ModuleType) -> None:
        """See `importlib.abc.Loader`."""


_GUARD = "gradlint_guard"


def _hide_from_libraries() -> None:
    """Let library code that imports a stub find nothing, as it would have before a user's file imported it.

    torch takes its number types from numpy wherever that is imported; from a stub it would get no types.
    """
    imported = builtins.__import__
    if hasattr(imported, _GUARD):
        return

    def guarded(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        stub = None if level else sys.modules.get(name.partition(".")[0])
        if isinstance(stub, StubModule):
            file = (sys._getframe(1).f_globals if globals is None else globals).get("__file__")
            if isinstance(file, str) and not is_user_file(file, stub.__dict__["gradlint_root"]):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, globals, locals, fromlist, level)

    setattr(guarded, _GUARD, True)
    builtins.__import__ = guarded


_SCANNED = 5000
"""Entries of a project that are looked at for a module."""


@cache
def _folders_with(name: str, root: str) -> tuple[Path, ...]:
    """The folders of a project that hold a module or a package of that name."""
    if "." in name or not root:
        return ()
    found, seen = [], 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in ("site-packages", "node_modules"))
        seen += len(folders) + len(files)
        if seen > _SCANNED:
            break
        package = name in folders and any(p.suffix == ".py" for p in (Path(folder) / name).iterdir())
        if f"{name}.py" in files or package:
            found.append(Path(folder))
    return tuple(found)


def _importer(frame: FrameType | None) -> FrameType | None:
    while frame is not None and (
        "importlib" in frame.f_code.co_filename or frame.f_code.co_filename.startswith(("<frozen", __file__))
    ):
        frame = frame.f_back
    return frame


def _is_prepared(frame: FrameType) -> bool:
    return any(first <= frame.f_lineno <= last for first, last in _guarded_lines(frame.f_code.co_filename))


@cache
def _guarded_lines(path: str) -> tuple[tuple[int, int], ...]:
    """The bodies of `try` statements that catch ImportError."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return ()
    return tuple(
        (node.body[0].lineno, node.body[-1].end_lineno or node.body[-1].lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any(_catches_import_error(h) for h in node.handlers)
    )


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)}
    return not names.isdisjoint({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
