"""The numbers of findings on one line: gradient ratios of their evidence, and how many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gradlint.finding import Evidence, Finding, Outcome
from gradlint.notation import number


def chain(evidence: Evidence) -> str:
    """The gradient ratio predicted, measured and after each remedy, on one line, or "" where there is none of them."""
    parts = []
    if evidence.predicted_gradient_ratio is not None:
        parts.append(f"predicted {number(evidence.predicted_gradient_ratio)}")
    if evidence.measured_gradient_ratio is not None:
        seeds = f"{evidence.seeds} seeds" if evidence.seeds and evidence.seeds > 1 else ""
        spread = f"spread ×{number(evidence.spread)}" if evidence.spread is not None and evidence.spread > 1 else ""
        about = ", ".join(x for x in (seeds, spread) if x)
        parts.append(f"measured {number(evidence.measured_gradient_ratio)}" + (f" ({about})" if about else ""))
    after = [f"{number(value)} ({label})" for label, value in evidence.whatif.items() if value is not None]
    if after:
        parts.append(f"remedied {', '.join(after)}")
    return f"gradient ratio {' → '.join(parts)}" if parts else ""


def counts(findings: Sequence[Finding]) -> str:
    """How many findings there are, and of which verdict: "3 findings (2 confirmed, 1 unverified)"."""
    by = Counter(f.verdict.outcome for f in findings if f.verdict is not None)
    verdicts = ", ".join(f"{by[outcome]} {outcome.value}" for outcome in Outcome if by[outcome])
    total = f"{len(findings) or 'No'} finding{'s' * (len(findings) != 1)}"
    return f"{total} ({verdicts})" if verdicts else total
