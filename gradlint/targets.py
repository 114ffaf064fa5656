"""Models that are named from outside, by `--model` or `[tool.gradlint.models]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradlint.config import ModelTarget
    from gradlint.source.project import Project, SourceFile
    from gradlint.source.script import Skipped
    from gradlint.worker.protocol import Slice

_FILE_ENDS = (".py:", ".pyw:")


class TargetError(ValueError):
    """A target that cannot be read; the message is one line that quotes it."""


@dataclass(frozen=True)
class Target:
    """One model to check.

    `path` and `expression` of `FILE.py:EXPR`, or no `path` and "module:attribute". `name` is what the model is
    called in the configuration ("" for `--model`), `input` its input ("1x3x224x224").
    """

    expression: str
    path: Path | None = None
    name: str = ""
    input: str | None = None


def parse_target(text: str, folder: Path, name: str = "", input_spec: str | None = None) -> Target:
    """Read `FILE.py:EXPR` (the file relative to `folder`) or `module:attribute`.

    Raises TargetError.
    """
    from gradlint.graph.input_grammar import InputSpecError, parse_spec

    if input_spec is not None:
        try:
            parse_spec(input_spec)
        except InputSpecError as error:
            raise TargetError(f"model `{text}`: {error}") from error
    cleaned = text.strip()
    for end in _FILE_ENDS:
        if end in cleaned:
            file, _, expression = cleaned.partition(end)
            path = (folder / (file + end[:-1])).resolve()
            if not expression.strip():
                raise TargetError(f"model `{text}`: an expression is missing after `{path.name}:`, such as `Net()`")
            if not path.is_file():
                raise TargetError(f"model `{text}`: there is no file {path}")
            return Target(expression.strip(), path, name, input_spec)
    module, _, attribute = cleaned.partition(":")
    if not module or not attribute or not all(p.isidentifier() for p in [*module.split("."), *attribute.split(".")]):
        raise TargetError(f"model `{text}`: write FILE.py:EXPRESSION or module:attribute")
    return Target(cleaned, None, name, input_spec)


def configured_targets(models: Mapping[str, str | ModelTarget], folder: Path) -> list[Target]:
    """The models that a configuration in `folder` lists, in its order.

    Raises TargetError.
    """
    return [
        parse_target(value, folder, name)
        if isinstance(value, str)
        else parse_target(value.target, folder, name, value.input)
        for name, value in models.items()
    ]


def slice_target(target: Target, project: Project, script_args: Iterable[str] = ()) -> Slice | Skipped:
    """What builds the model. A module of the project is sliced as its file, so that importing it runs no training."""
    from gradlint.source.project import SourceFile
    from gradlint.source.slice import slice_expression

    arguments = tuple(script_args)
    if target.path is not None:
        return slice_expression(target.expression, project, str(target.path), arguments)
    module, _, attribute = target.expression.partition(":")
    own = project.module(module, SourceFile(str(project.root / "<model>"), ""))
    if own is not None and attribute.partition(".")[0] in _bound(own):
        return slice_expression(attribute, project, own.path, arguments)
    return slice_expression(target.expression, project, None, arguments)


def _bound(file: SourceFile) -> set[str]:
    """The names that the file itself defines at its top level: what a package hands on has to be imported."""
    import ast

    found: set[str] = set()
    for statement in file.tree.body:
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {t.id for t in targets if isinstance(t, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found
