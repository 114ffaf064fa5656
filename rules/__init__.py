"""The built-in rules, one file each; a new file is found by itself."""

from __future__ import annotations

import importlib
import pkgutil

from gradlint.rule import Rule


def _rules() -> tuple[type[Rule], ...]:
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module.__name__
    )


RULES = _rules()
