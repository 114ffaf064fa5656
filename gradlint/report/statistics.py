"""`--statistics`: how often each rule found something, most often first."""

from __future__ import annotations

from collections import Counter

from gradlint.finding import Outcome
from gradlint.result import Result, is_refuted


def render(result: Result) -> str:
    """One line a rule: count, of which confirmed, code, name."""
    found = [f for f in result.findings if not is_refuted(f)]
    total = Counter((f.code, f.name) for f in found)
    confirmed = Counter(f.code for f in found if f.verdict is not None and f.verdict.outcome is Outcome.CONFIRMED)
    rows = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return "".join(f"{n:>6}  {code}  {name} ({confirmed[code]} confirmed)\n" for (code, name), n in rows)
