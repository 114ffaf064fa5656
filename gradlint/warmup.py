"""Whether an optimizer surely starts at its full rate: no schedule warms it up, and no code of its file either."""

from __future__ import annotations

import re

from gradlint.source.script import Optimizer, Script

BY_HAND = re.compile(
    r"warm|noam|step_and_update_lr|adjust_l\w*r|set_lr|\blr_lambda\b|lr_scale|[\"']lr[\"']\]\s*\*?=(?!=)", re.IGNORECASE
)
"""Whatever may raise a rate step by step, anywhere in a file's code: where in doubt, the rules are silent."""

COMMENT = re.compile(r"#.*")


def scheduled(optimizer: Optimizer) -> bool:
    """Whether one of its schedules may raise the rate from below."""
    return any(s.warmup is not False or s.max_lr is not None for s in optimizer.schedules)


def starts_cold(optimizer: Optimizer, script: Script | None) -> bool:
    """Whether Adam surely takes its first steps at the full rate.

    Of an optimizer in another file nothing is sure: what that file does to the rate was not looked for.
    """
    if optimizer.algorithm not in ("Adam", "AdamW") or scheduled(optimizer):
        return False
    if script is None:
        return True
    return optimizer.location.path == script.path and BY_HAND.search(COMMENT.sub("", script.text)) is None
