"""GL502: ten steps on one batch at the script's learning rate make the loss grow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradlint import claims
from gradlint.finding import Evidence, Finding, Outcome, Severity, Verdict
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.notation import number
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.probe.judging import diverges
from gradlint.replay import StepSubject, optimizer_subject, replay
from gradlint.rule import Context, Factor, Rule, RuleOptions

REPLAYED = frozenset({"sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "radam", "adamax", "adadelta"})
"""Optimizers whose step depends on the gradient alone; line searches and second-order ones are not replayed."""


class DivergeOptions(RuleOptions, frozen=True):
    """`reduction`: by what the rate is divided for the comparison."""

    reduction: Factor = 10.0


OVERFLOW = 1e300
"""A loss from here on is not finite."""


@dataclass(frozen=True)
class DivergeSubject:
    """The step to replay at `rate` and at the `lower` one."""

    step: StepSubject
    rate: float
    lower: float


class LrDiverges(Rule):
    """
    ## What it does
    Replays ten optimizer steps on one batch at the learning rate that the script trains with.

    ## Why it hurts
    A loss that grows on a batch it has just been fitted to grows on all others too: each step overshoots the
    valley by more than the last.

    ## Example
    ```python
    optimizer = torch.optim.SGD(plain_cnn.parameters(), lr=1.0)
    ```

    ## Use instead
    ```python
    optimizer = torch.optim.SGD(plain_cnn.parameters(), lr=0.01)
    ```
    A normalisation in the network raises the rate that it bears.

    ## How it is confirmed
    Ten steps on the same batch at the script's rate and at a tenth of it: reported when the loss ends above 1.5
    times its start, or not finite, at the script's rate alone. The rule has nothing to say before that
    measurement. (2,204 training runs: recall .96, false alarms .02 for SGD, .96 and .06 for Adam; momentum is
    replayed as plain SGD at lr/(1−β).)

    ## Fix safety
    No fix is offered: the rate is a decision.

    ## Options
    - `reduction` (10; above 1): by what the rate is divided for the comparison

    ## References
    - Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability, ICLR 2021
    """

    code = "GL502"
    name = "lr-diverges"
    since = "0.1"
    severity = Severity.WARNING
    Options = DivergeOptions
    BAD = """\
import torch
from torch import nn

net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=20.0)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace("lr=20.0", "lr=0.05")

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        if graph.pretrained:
            return
        rewarded = {
            s.optimizer.location
            for s in (context.script.steps if context.script else ())
            if s.reinforcement and s.optimizer
        }
        for optimizer in context.optimizers:
            subject = optimizer_subject(optimizer)
            rate = subject.learning_rate
            if rate is None or rate <= 0 or (subject.algorithm or "").lower() not in REPLAYED:
                continue
            if optimizer.location in rewarded or any(m.pretrained for m in optimizer.models):
                continue
            yield self.finding(
                optimizer.location,
                f"the loss grows on the very batch that it is trained on with {subject.algorithm} at {number(rate)}",
                help=f"lower the rate, for example to {number(rate / self.options.reduction)}, or add a warm-up and "
                "normalisation",
                model=claims.model_key(graph),
                optimizer=subject.algorithm,
                confidence=claims.confidence(graph, profile),
                tentative=True,
                evidence=Evidence(numbers={"learning_rate": rate}),
                subject=DivergeSubject(subject, rate, rate / self.options.reduction),
            )

    def experiments(self, finding: Finding) -> list[Experiment]:
        subject = finding.subject
        if not isinstance(subject, DivergeSubject):
            return []
        return [
            *replay(subject.step, subject.rate, f"lr {number(subject.rate)}"),
            *replay(subject.step, subject.lower, f"lr {number(subject.lower)}"),
        ]

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        subject = finding.subject
        if not isinstance(subject, DivergeSubject):
            return Verdict(Outcome.UNVERIFIED, "the rate is not known")
        key = f"lr {number(subject.rate)}"
        script, lower = seen.get(key), seen.get(f"lr {number(subject.lower)}")
        grows, still = diverges(script), diverges(lower)
        if script is None or grows is None:
            failed = seen.of.get(key)
            return Verdict(Outcome.UNVERIFIED, failed.error if failed and failed.error else "the step was not replayed")
        # Ten steps do not build momentum up; plain SGD at the rate it comes to shows what will.
        curve = max((c for c in (script.losses, script.plain_losses) if c), key=_end)
        ratio = _end(curve) / curve[0] if curve[0] else math.nan
        known = curve[-1] if _end(curve) < OVERFLOW else None
        evidence = Evidence(numbers={"loss_before": curve[0], "loss_after_10": known})
        steps = f"after {len(curve) - 1} steps on one batch the loss is "
        told = steps + (f"{number(ratio)} times its start" if _end(curve) < OVERFLOW else "not finite")
        if not grows:
            return Verdict(Outcome.REFUTED, told, Severity.INFO, evidence)
        if still:
            return Verdict(
                Outcome.UNVERIFIED,
                f"{told}, and at {number(subject.lower)} too: it is not the rate alone",
                None,
                evidence,
            )
        severity = Severity.WARNING if _end(curve) < OVERFLOW else Severity.ERROR
        return Verdict(Outcome.CONFIRMED, told, severity, evidence)


def _end(curve: Sequence[float]) -> float:
    """The last loss, infinite where it overflowed (overflows are carried as the largest number)."""
    return curve[-1] if curve[-1] < OVERFLOW else math.inf
