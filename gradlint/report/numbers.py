"""How numbers are written for people: two significant digits, powers of ten where they are far from 1."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from gradlint.finding import Evidence, Finding, Outcome


def short(value: float | None) -> str:
    """Two significant digits: "3.1e-9", "0.82", "35"; "?" for None."""
    if value is None:
        return "?"
    if not math.isfinite(value) or value == 0:
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "0" if value == 0 else "NaN")
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def decades(log10: float) -> str:
    """A power of ten as in "1e-8.9", and plain "1" where it is one."""
    rounded = round(log10, 1) + 0.0
    return "1" if rounded == 0 else f"1e{rounded:g}"


def chain(evidence: Evidence) -> str:
    """The gradient ratio predicted, measured and after each remedy, on one line, or "" where there is none of them."""
    parts = []
    if evidence.predicted_gradient_ratio is not None:
        parts.append(f"predicted {short(evidence.predicted_gradient_ratio)}")
    if evidence.measured_gradient_ratio is not None:
        seeds = f"{evidence.seeds} seeds" if evidence.seeds and evidence.seeds > 1 else ""
        spread = f"spread ×{short(evidence.spread)}" if evidence.spread is not None and evidence.spread > 1 else ""
        about = ", ".join(x for x in (seeds, spread) if x)
        parts.append(f"measured {short(evidence.measured_gradient_ratio)}" + (f" ({about})" if about else ""))
    after = [f"{short(value)} ({label})" for label, value in evidence.whatif.items() if value is not None]
    if after:
        parts.append(f"remedied {', '.join(after)}")
    return f"gradient ratio {' → '.join(parts)}" if parts else ""


def counts(findings: Sequence[Finding]) -> str:
    """How many findings there are, and of which verdict: "3 findings (2 confirmed, 1 unverified)"."""
    by = Counter(f.verdict.outcome for f in findings if f.verdict is not None)
    verdicts = ", ".join(f"{by[outcome]} {outcome.value}" for outcome in Outcome if by[outcome])
    number = f"{len(findings) or 'No'} finding{'s' * (len(findings) != 1)}"
    return f"{number} ({verdicts})" if verdicts else number
