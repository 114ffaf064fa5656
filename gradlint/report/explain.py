"""What `gradlint explain` shows: a rule's documentation, or the table of rules."""

from __future__ import annotations

import difflib

from rich.markdown import Markdown
from rich.table import Table

from gradlint.rule import registry


class UnknownRuleError(Exception):
    """No rule has that code or name."""


def documentation(code_or_name: str) -> Markdown:
    """A rule's documentation, rendered. Raises UnknownRuleError."""
    rules = registry().values()
    found = next((r for r in rules if code_or_name.upper() == r.code or code_or_name.lower() == r.name), None)
    if found is None:
        known = [*registry(), *(r.name for r in rules)]
        close = difflib.get_close_matches(code_or_name, known, n=1)
        hint = f", did you mean `{close[0]}`?" if close else ""
        raise UnknownRuleError(f"`{code_or_name}` is no rule{hint} (`gradlint explain` lists them)")
    return Markdown(found.documentation())


def table() -> Table:
    """All rules: code, name, severity, what it is about."""
    shown = Table("code", "name", "severity", "finds")
    for code, rule in registry().items():
        module = __import__(rule.__module__, fromlist=["__doc__"])
        summary = (module.__doc__ or "").strip().splitlines()[0].partition(": ")[2].rstrip(".")
        shown.add_row(code, rule.name, rule.severity.value, summary)
    return shown
