"""The names of a function's parameters, as calls bind them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Signature:
    """Parameters by kind; `rest` and `keywords` are the names after `*` and `**`."""

    positional: tuple[str, ...]
    keyword_only: tuple[str, ...]
    rest: str | None
    keywords: str | None


def signature_of(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> Signature:
    """The parameters of a definition, kept with its node, for a function is called more often than it is written."""
    kept: Any = node
    found: Signature | None = getattr(kept, "gradlint_signature", None)
    if found is None:
        spec = node.args
        found = kept.gradlint_signature = Signature(
            positional=tuple(a.arg for a in (*spec.posonlyargs, *spec.args)),
            keyword_only=tuple(a.arg for a in spec.kwonlyargs),
            rest=spec.vararg.arg if spec.vararg is not None else None,
            keywords=spec.kwarg.arg if spec.kwarg is not None else None,
        )
    return found
