"""What decorators put into a registry: `@MODELS.register_module()`, `@ARCHS.register("edsr")`, `@register_model`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint.source.callers import Importers
from gradlint.source.index import dotted
from gradlint.source.project import SourceFile

TIMM_REGISTRY = "register_model"
"""The decorator under which timm, and networks written for it, register what `timm.create_model` makes."""

TIMM_MAKERS = frozenset(
    [
        "timm.create_model",
        "timm.models.create_model",
        "timm.models.factory.create_model",
        "timm.models._factory.create_model",
    ]
)

TIMM_WORDS = frozenset(
    [
        "model_name",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "scriptable",
        "exportable",
    ]
)
"""Arguments of `timm.create_model` that the registered function does not get."""

LOOK_UPS = frozenset(["get", "build", "__getitem__"])
"""Methods that take something out of a registry."""

KINDS = ("type", "_type_", "name", "NAME")
"""Keys under which a configuration names what `build` makes."""


def is_registry(name: str) -> bool:
    """Whether a class is a registry, by its name."""
    return name.endswith(("Registry", "Registers", "Register"))


def registered(importers: Importers, registry: str, key: str, home: SourceFile | None) -> tuple[SourceFile, str] | None:
    """The file and name of the function or class that a registry of the project holds under a key; None if it has none,
    or several. `registry` is the name of the registry, or of the decorator itself; `home` the file that makes it.
    """
    places = {
        (file.path, name): (file, name)
        for file in [*([home] if home is not None else []), *importers.importing(registry, key)]
        for name in _under(file.tree, registry, key)
    }
    return next(iter(places.values())) if len(places) == 1 else None


def _under(tree: ast.Module, registry: str, key: str) -> Iterator[str]:
    for statement in tree.body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
            for decorator in statement.decorator_list:
                if _puts_into(decorator, registry) and key in _keys(decorator, statement.name):
                    yield statement.name


def _puts_into(decorator: ast.expr, registry: str) -> bool:
    owner, _, method = (dotted(decorator.func if isinstance(decorator, ast.Call) else decorator) or "").rpartition(".")
    return method == registry or (method.startswith("register") and owner.rpartition(".")[2] == registry)


def _keys(decorator: ast.expr, own: str) -> list[str]:
    """The keys that a decorator names: the strings among its arguments, else the name of what it decorates."""
    if not isinstance(decorator, ast.Call):
        return [own]
    named = [*decorator.args, *(k.value for k in decorator.keywords if k.arg in ("name", "module_name", "key"))]
    given = [e for n in named for e in (n.elts if isinstance(n, (ast.List, ast.Tuple)) else [n])]
    strings = [n.value for n in given if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return strings or [own]
