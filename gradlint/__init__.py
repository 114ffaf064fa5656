"""gradlint: a linter for vanishing and exploding gradients in PyTorch training scripts."""

from __future__ import annotations

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`gradlint.probe` without an import of its own."""
    if name == "probe":
        from importlib import import_module

        return import_module("gradlint.probe")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
