"""Tests that drop files which cannot say anything about training."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint.source.project import UNPARSABLE, Project, SourceFile
from gradlint.source.walking import walk

_WORDS = re.compile(
    rb"\b(?:torch|lightning|pytorch_lightning|transformers|accelerate|timm|deepspeed|fastai|trl|peft|torchvision|ignite"
    rb"|apex|catalyst|diffusers)\b"
)

MAX_IMPORTS = 64
"""How many imports of a file are looked up."""


def is_relevant(raw: bytes) -> bool:
    """Whether a file names torch or a library built on it; all facts that gradlint reads come from one that does."""
    return _WORDS.search(raw) is not None


def concerns_training(file: SourceFile, project: Project) -> bool:
    """Whether a file is relevant, or imports one of the project that is: it may build its models or start its training.

    The depth of a model and the number of steps are often set in such a file.
    """
    return is_relevant(file.text.encode()) or _imports_relevant(file, project, {file.path})


def _imports_relevant(file: SourceFile, project: Project, seen: set[str]) -> bool:
    """Whether an import is of a relevant file; what a package's `__init__` hands on counts as well."""
    if "import" not in file.text:
        return False
    try:
        tree = file.tree
    except UNPARSABLE:
        return False
    for count, (module, level) in enumerate(_imports(tree)):
        other = project.module(module, file, level) if count < MAX_IMPORTS else None
        if other is None or other.path in seen:
            continue
        seen.add(other.path)
        if is_relevant(other.text.encode()):
            return True
        if other.path.endswith("__init__.py") and _imports_relevant(other, project, seen):
            return True
    return False


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((n.name, 0) for n in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                if module:
                    yield module, level
                yield from ((f"{module}.{n.name}" if module else n.name, level) for n in names)
