"""GL002: a suppression comment suppresses nothing."""

from __future__ import annotations

from gradlint.finding import Severity
from gradlint.rule import Rule


class UnusedSuppression(Rule):
    """
    ## What it does
    Reports a `# gradlint: ignore[…]`, `# gradlint: ignore-file[…]` or `# noqa: GL…` that no finding needs.

    ## Why it hurts
    A comment that suppresses nothing will one day hide a finding that nobody has looked at.

    ## Example
    ```python
    optimizer.step()  # gradlint: ignore[GL401]  (the model is not recurrent any more)
    ```

    ## Use instead
    ```python
    optimizer.step()
    ```

    ## How it is confirmed
    There is nothing to measure.

    ## Fix safety
    Safe: removes the comment.

    ## Options
    None.

    ## References
    - ruff's rule unused-noqa (RUF100)
    """

    code = "GL002"
    name = "unused-suppression"
    since = "0.1"
    severity = Severity.WARNING
    BAD = "x = 1  # gradlint: ignore[GL101]\n"
    GOOD = "x = 1\n"
