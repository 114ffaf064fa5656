"""GL403: the bound of a clipping is one that never bites, or that bites everything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.finding import Evidence, Finding, Outcome, Severity, Verdict
from gradlint.notation import number
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.replay import StepSubject, gradient_norms, replay, step_subject
from gradlint.rule import Positive, Rule, RuleOptions
from gradlint.source.script import Script
from gradlint.verdicts import unmeasured

DIRECT = ("clip_grad_norm_", "clip_grad_norm", "clip_grad_value_", "clip_grad_value")
"""Calls whose bound is the number itself; for a Trainer's argument 0 means "off", which is a decision."""


class BoundOptions(RuleOptions, frozen=True):
    """`too_large`: a bound from here on is taken for none."""

    too_large: Positive = 100.0


@dataclass(frozen=True)
class BoundSubject:
    """The bound and the step that it is on."""

    bound: float
    step: StepSubject


class ClipIneffective(Rule):
    """
    ## What it does
    Looks for `clip_grad_norm_` and `clip_grad_value_` with a bound of 0 or less, of 100 or more, or infinite.

    ## Why it hurts
    A bound of 100 is rarely reached before the damage is done. A bound of 0 multiplies the gradient by zero: the
    model does not train. An infinite bound is a way to read the norm, not to bound it.

    ## Example
    ```python
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1000)
    ```

    ## Use instead
    ```python
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    ```

    ## How it is confirmed
    The step is replayed ten times: confirmed when no gradient norm reaches the bound, refuted when one does.

    ## Fix safety
    No fix is offered: the right bound depends on the model.

    ## Options
    - `too-large` (100; above 0): a bound from here on is taken for none

    ## References
    - Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013, §3.2
    """

    code = "GL403"
    name = "clip-ineffective"
    since = "0.1"
    severity = Severity.ERROR
    Options = BoundOptions
    BAD = """\
import torch
from torch import nn

model = nn.Linear(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 4, (32,))
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1000.0)
    optimizer.step()
"""
    GOOD = BAD.replace("1000.0", "1.0")

    def check_script(self, script: Script) -> Iterator[Finding]:
        seen = set()
        for step in script.steps:
            clipping = step.clipping
            if clipping is None or clipping.location in seen or not clipping.how.endswith(DIRECT):
                continue
            values = clipping.bound.numbers()
            if clipping.bound.only is None or not values:
                continue
            bound = float(values[0].value)
            if 0 < bound < self.options.too_large or math.isnan(bound):
                continue
            if not clipping.enabled and bound <= 0:  # `if args.clip > 0:` asks for it first.
                continue
            if math.isinf(bound) and sum(e.kind == "clip" for e in step.events) > 1:
                continue  # The norm is read before it is clipped.
            seen.add(clipping.location)
            yield self.finding(
                clipping.location,
                f"the gradient is clipped to {number(bound)}, "
                + ("which sets it to zero" if bound <= 0 else "a bound that is hardly ever reached"),
                help="1.0 to 5.0 is customary",
                # An infinite bound is how the norm is read for a log.
                severity=Severity.INFO if math.isinf(bound) else None,
                model=step.models[0].name if step.models else None,
                optimizer=step.optimizer.algorithm if step.optimizer else None,
                needs_probe=0 < bound < math.inf,
                subject=BoundSubject(bound, step_subject(step)),
            )

    def experiments(self, finding: Finding) -> list[Experiment]:
        return [Experiment("baseline"), *replay(finding.subject.step)]

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        norms = [n for n in gradient_norms(seen) if not math.isnan(n)]
        if not norms:
            return unmeasured(seen, "no gradient norm was measured")
        largest = max(norms)
        evidence = Evidence(numbers={"gradient_norm_largest": largest, "max_norm": finding.subject.bound})
        if largest >= finding.subject.bound:
            return Verdict(Outcome.REFUTED, f"gradient norm measured up to {number(largest)}", Severity.INFO, evidence)
        return Verdict(Outcome.CONFIRMED, f"gradient norm measured at most {number(largest)}", None, evidence)
