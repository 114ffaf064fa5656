"""GL404: a training step on gradients that spike is not clipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.clipping import clip_after_backward
from gradlint.finding import Evidence, Finding, Fix, Outcome, Related, Severity, Verdict
from gradlint.notation import number
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.probe.judging import EXPLODED_NORM, diverges, spikes
from gradlint.replay import StepSubject, gradient_norms, replay, step_subject
from gradlint.rule import Positive, Rule, RuleOptions
from gradlint.source.script import Script, TrainingStep
from gradlint.verdicts import unmeasured


class StepOptions(RuleOptions, frozen=True):
    """`reinforcement`, `adversarial`: report such steps before anything is measured; `every`: all others too.

    `max_norm` is the bound that the fix writes.
    """

    reinforcement: bool = True
    adversarial: bool = False
    every: bool = False
    max_norm: Positive = 1.0


@dataclass(frozen=True)
class UnclippedSubject:
    """The step to replay, and whether its loss is made of rewards or of an opponent's answers."""

    step: StepSubject
    reinforcement: bool = False
    adversarial: bool = False

    @property
    def spiky(self) -> bool:
        """Whether the gradient may spike from one batch to the next, as that of a plain loss does not."""
        return self.reinforcement or self.adversarial


class UnclippedStep(Rule):
    """
    ## What it does
    Looks for training steps without clipping where the gradient is known to spike: losses made of rewards or
    advantages, and by option GANs and everything else. Any other unclipped step is reported only when the probe
    measures a gradient norm that spikes. Recurrent models have a rule of their own, GL401.

    ## Why it hurts
    A policy-gradient loss is multiplied by the return. One episode with an unusual return makes one gradient a
    hundred times larger than the others, and one such step can undo the policy.

    ## Example
    ```python
    loss = -(log_prob * advantage).mean()
    loss.backward()
    optimizer.step()
    ```

    ## Use instead
    ```python
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm=0.5)
    optimizer.step()
    ```

    ## How it is confirmed
    The gradient norm is measured over ten steps or batches: confirmed above 1e3, for losses of rewards and GANs also
    when the largest is at least 10 times the median. Steps that the learning rate makes diverge do not count: that
    is GL502. Spiking rewards only show on the script's own batches (`gradlint probe`); on a synthetic
    batch the finding stays unverified.

    ## Fix safety
    Safe: inserts `clip_grad_norm_` with `max_norm=1.0` after `backward()`.

    ## Options
    - `reinforcement` (true), `adversarial` (false), `every` (false): which steps are reported unmeasured
    - `max-norm` (1.0; above 0): the bound that the fix writes

    ## References
    - Andrychowicz et al., What Matters In On-Policy Reinforcement Learning?, ICLR 2021, §3.6
    """

    code = "GL404"
    name = "unclipped-step"
    since = "0.1"
    severity = Severity.INFO
    Options = StepOptions
    BAD = """\
import torch
from torch import nn

policy = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for _ in range(100):
    states = torch.randn(32, 4)
    dist = torch.distributions.Categorical(logits=policy(states))
    actions = dist.sample()
    rewards = 1000.0 * torch.randn(32) ** 3
    optimizer.zero_grad()
    loss = -(dist.log_prob(actions) * rewards).mean()
    loss.backward()
    optimizer.step()
"""
    GOOD = BAD.replace(
        "    loss.backward()\n",
        "    loss.backward()\n    torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm=0.5)\n",
    )

    def check_script(self, script: Script) -> Iterator[Finding]:
        seen = set()
        for step in script.steps:
            if step.optimizer_step in seen or (step.clipping is not None and step.clipping.enabled):
                continue
            if any(m.recurrence or (m.model_class and m.model_class.recurrence) for m in step.models):
                continue
            seen.add(step.optimizer_step)
            yield self._found(step)

    def _found(self, step: TrainingStep) -> Finding:
        claim = (
            (step.reinforcement and self.options.reinforcement)
            or (step.adversarial and self.options.adversarial)
            or self.options.every
        )
        why = "the loss is built from rewards, which spike, and " if step.reinforcement else ""
        related = [Related(step.backward, "the gradient comes from here")] if step.backward else []
        return self.finding(
            step.optimizer_step,
            f"{why}nothing clips the gradient before the optimizer step",
            help=f"clip between `backward()` and `step()`: "
            f"`torch.nn.utils.clip_grad_norm_(parameters, max_norm={self.options.max_norm:g})`",
            related=related,
            model=step.models[0].name if step.models else None,
            optimizer=step.optimizer.algorithm if step.optimizer else None,
            tentative=not claim,
            subject=UnclippedSubject(step_subject(step), step.reinforcement, step.adversarial),
        )

    def experiments(self, finding: Finding) -> list[Experiment]:
        subject = finding.subject
        if not isinstance(subject, UnclippedSubject):
            return []
        return [Experiment("baseline"), *replay(subject.step)]

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        subject = finding.subject
        if not isinstance(subject, UnclippedSubject):
            return Verdict(Outcome.UNVERIFIED, "the step is not known")
        # Where the rate makes the loss diverge the norms follow it: that is GL502's finding. And the bound on the
        # norm of a plain step is one for losses averaged over the batch, which the replay's need not be.
        alone = not subject.spiky or bool(diverges(seen.get("step")))
        baseline = seen.baseline
        norms = (baseline.gradient_norms if baseline else ()) if alone else gradient_norms(seen)
        series = spikes(norms)
        if series is None:
            return unmeasured(seen, "no gradient norm was measured")
        evidence = Evidence(numbers={"gradient_norm_largest": series.largest, "gradient_norm_median": series.median})
        told = f"gradient norm measured up to {number(series.largest)}, median {number(series.median)}"
        spiking = series.spiking if subject.spiky else series.largest > EXPLODED_NORM
        if spiking:
            return Verdict(Outcome.CONFIRMED, told, Severity.WARNING, evidence)
        real = any(m.batch.startswith("real") for m in seen.of.values())
        if subject.reinforcement and not real:
            return Verdict(
                Outcome.UNVERIFIED,
                "rewards spike only on the script's own batches: use `gradlint probe`",
                None,
                evidence,
            )
        return Verdict(Outcome.REFUTED, told, Severity.INFO, evidence)

    def fix(self, finding: Finding, script: Script) -> Fix | None:
        step = next((s for s in script.steps if s.optimizer_step == finding.location), None)
        return clip_after_backward(step, script, self.options.max_norm) if step else None
