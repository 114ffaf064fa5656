"""What `gradlint explain` shows: a rule's documentation, or the table of rules."""

from __future__ import annotations

import difflib
import re

from rich.markdown import Markdown
from rich.table import Table

from gradlint.rule import Rule, registry


class UnknownRuleError(Exception):
    """No rule has that code or name."""


def documentation(code_or_name: str) -> Markdown | Table:
    """A rule's documentation, rendered; of the beginning of several codes, their table. Raises UnknownRuleError."""
    rules = registry().values()
    begins = re.fullmatch(r"GL\d{0,2}", code_or_name.upper())
    if begins and any(code.startswith(begins[0]) for code in registry()):
        return table(begins[0])
    found = next((r for r in rules if code_or_name.upper() == r.code or code_or_name.lower() == r.name), None)
    if found is None:
        known = [*registry(), *(r.name for r in rules)]
        close = difflib.get_close_matches(code_or_name, known, n=1)
        hint = f", did you mean `{close[0]}`?" if close else ""
        raise UnknownRuleError(f"`{code_or_name}` is no rule{hint} (`gradlint explain` lists them)")
    return Markdown(found.documentation())


def table(prefix: str = "") -> Table:
    """The rules whose codes begin so: code, name, severity, what it is about."""
    shown = Table("code", "name", "severity", "finds")
    for code, rule in registry().items():
        if code.startswith(prefix):
            shown.add_row(code, rule.name, rule.severity.value, summary(rule))
    return shown


def pages() -> dict[str, str]:
    """The pages of the documentation site about rules, by file name: one for each rule, and the table of all."""
    rules = registry()
    rows = [
        f"| [{code}]({rule.name}.md) | `{rule.name}` | {rule.severity.value} | {summary(rule)} |"
        for code, rule in rules.items()
    ]
    index = [
        "# Rules\n",
        "`gradlint explain CODE` shows the same pages in a terminal. The severity is the rule's own; a prediction or a",
        "measurement can raise or lower it.\n",
        "| code | name | severity | finds |\n|---|---|---|---|",
        *rows,
    ]
    return {"index.md": "\n".join(index) + "\n"} | {f"{rule.name}.md": _page(rule) for rule in rules.values()}


def summary(rule: type[Rule]) -> str:
    """What the rule is about, in one line."""
    module = __import__(rule.__module__, fromlist=["__doc__"])
    return (module.__doc__ or "").strip().splitlines()[0].partition(": ")[2].rstrip(".")


def _page(rule: type[Rule]) -> str:
    about = f"Since {rule.since} · {rule.severity.value} · suppress with `# gradlint: ignore[{rule.code}] -- reason`\n"
    title, _, body = rule.documentation().partition("\n\n")
    scripts = [
        f"<details markdown>\n<summary>{label}</summary>\n\n```python\n{text.strip()}\n```\n\n</details>\n"
        for label, text in (
            ("A script that this rule finds fault with", rule.BAD),
            ("A script that is fine", rule.GOOD),
        )
        if text
    ]
    # A Markdown list needs an empty line before it, which the docstrings leave out after a sentence.
    spaced = re.sub(r"(?m)^(?!\s*[-*] )(\S.*)\n(?=[-*] )", r"\1\n\n", body)
    return "\n".join([f"{title}\n", about, spaced, *scripts])
