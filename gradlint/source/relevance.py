"""Tests that drop files which cannot say anything about training."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint.source.project import UNPARSABLE, Project, SourceFile

_WORDS = re.compile(
    rb"\b(?:torch|lightning|pytorch_lightning|transformers|accelerate|timm|deepspeed|fastai|trl|peft|torchvision|ignite"
    rb"|apex|catalyst|diffusers)\b"
)

MAX_IMPORTS = 24
"""How many imports of a file are looked up."""


def is_relevant(raw: bytes) -> bool:
    """Whether a file names torch or a library built on it; all facts that gradlint reads need one."""
    return _WORDS.search(raw) is not None


def is_launcher(file: SourceFile, project: Project) -> bool:
    """Whether a file that names none of them may start a training that stands in what it imports of the project."""
    if "train" not in file.text.lower() or "import" not in file.text:
        return False
    try:
        tree = file.tree
    except UNPARSABLE:
        return False
    for count, (module, level) in enumerate(_imports(tree)):
        other = project.module(module, file, level) if count < MAX_IMPORTS else None
        if other is not None and other.path != file.path and is_relevant(other.text.encode()):
            return True
    return False


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((n.name, 0) for n in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                if module:
                    yield module, level
                yield from ((f"{module}.{n.name}" if module else n.name, level) for n in names)
