"""GL501: pretrained parameters are trained above the range for their family and optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from gradlint.finding import Evidence, Finding, Outcome, Related, Severity, Verdict
from gradlint.notation import number
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.probe.judging import lr_separates
from gradlint.replay import StepSubject, optimizer_subject, plain_number, replay
from gradlint.rule import Rule, RuleOptions
from gradlint.source.script import Model, Optimizer, ParameterGroup, Pretrained, Script
from gradlint.source.value import Value

ADAPTIVE = frozenset(
    ["adam", "adamw", "nadam", "radam", "adamax", "fusedadam", "hybridadam", "cpuadam", "adamw8bit", "adam8bit"]
)
USUAL_MOMENTUM = 0.9
"""The recipes for SGD in the table are with this momentum; plain SGD bears 1/(1 − 0.9) times the rate."""


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The recipe's range, and from where a rate is a warning or an error."""

    low: float
    high: float
    warning: float
    error: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= self.warning <= self.error:
            raise ValueError("expected 0 <= `low` <= `high` <= `warning` <= `error`")


ADAM_RANGES = {
    "bert": Range(1e-5, 5e-5, 1e-4, 5e-4),
    "t5": Range(1e-4, 3e-4, 1e-3, 2e-3),
    "gpt2": Range(1e-5, 1e-4, 2e-4, 1e-3),
    "decoder-1b": Range(1e-6, 2e-5, 5e-5, 2e-4),
    "lora": Range(1e-4, 5e-4, 1e-3, 1e-2),
    "vit": Range(1e-5, 1e-4, 3e-4, 1e-3),
    "clip": Range(1e-5, 1e-4, 3e-4, 1e-3),
    "cnn": Range(1e-5, 3e-4, 1e-3, 5e-3),
    "speech": Range(1e-5, 1e-4, 3e-4, 1e-3),
    "other": Range(1e-5, 3e-4, 1e-3, math.inf),
}
"""RULES for Adam and AdamW: Devlin 2019 A.3; Liu 2019; Raffel 2020; Touvron 2023; Hu 2021; Dosovitskiy 2021;
Kolesnikov 2020. "other" is where every family agrees that it is too high."""

SGD_RANGES = {"vit": Range(3e-3, 6e-2, 1e-1, 3e-1), "cnn": Range(1e-3, 1e-2, 5e-2, 2e-1)}
"""For SGD with momentum 0.9."""

ADAFACTOR_RANGES = {"t5": Range(1e-4, 1e-3, 5e-3, 2e-2)}

FAMILY_NAMES = {
    "bert": "a BERT-like encoder",
    "t5": "a T5 model",
    "gpt2": "a GPT-2-size decoder",
    "decoder-1b": "a decoder above 1B",
    "lora": "a LoRA adapter",
    "vit": "a vision transformer",
    "clip": "a CLIP tower",
    "cnn": "a CNN",
    "speech": "a speech encoder",
    "other": "a pretrained model",
}


class RateOptions(RuleOptions, frozen=True):
    """Ranges by family in `adam`, `sgd` and `adafactor`; what is given there replaces a row of the table."""

    adam: dict[str, Range] = msgspec.field(default_factory=dict)
    sgd: dict[str, Range] = msgspec.field(default_factory=dict)
    adafactor: dict[str, Range] = msgspec.field(default_factory=dict)

    def range(self, family: str, algorithm: str) -> Range | None:
        """The row for a family under an optimizer, or None if the table has none."""
        name = algorithm.lower()
        if name in ADAPTIVE or name.endswith("adamw") or name.startswith("paged"):
            return {**ADAM_RANGES, **self.adam}.get(family)
        if name == "sgd":
            return {**SGD_RANGES, **self.sgd}.get(family)
        if name == "adafactor":
            return {**ADAFACTOR_RANGES, **self.adafactor}.get(family)
        return None


@dataclass(frozen=True)
class RateSubject:
    """The step to replay, at the script's peak `rate` and at the `recommended` one."""

    step: StepSubject
    rate: float
    recommended: float


@dataclass(frozen=True)
class _Rate:
    peak: float
    value: Value | None
    scheduled: str | None


class FinetuneLrTooHigh(Rule):
    """
    ## What it does
    Looks for a pretrained model (`from_pretrained`, `weights=…`, `pretrained=True`, timm, torch.hub, a loaded
    checkpoint) whose pretrained parameters are trained above the range for its family and optimizer. The rate is
    followed to where it is decided: a literal, a command-line default, a config file, the optimizer's own default,
    `max_lr` of OneCycleLR, schedule factors, parameter groups. Frozen backbones, optimizers over the head alone,
    adapters and layer-wise decay are left alone or have their own range.

    | family, trained in full | optimizer | recipe range | warning from | error from |
    |---|---|---|---|---|
    | BERT, RoBERTa, DistilBERT, DeBERTa, ELECTRA | Adam(W) | 1e-5 – 5e-5 | 1e-4 | 5e-4 |
    | T5 | Adam(W) | 1e-4 – 3e-4 | 1e-3 | 2e-3 |
    | T5 | Adafactor | 1e-4 – 1e-3 | 5e-3 | 2e-2 |
    | GPT-2-size decoders | Adam(W) | 1e-5 – 1e-4 | 2e-4 | 1e-3 |
    | decoders of 1B and more | Adam(W) | 1e-6 – 2e-5 | 5e-5 | 2e-4 |
    | LoRA, QLoRA on any | Adam(W) | 1e-4 – 5e-4 | 1e-3 | 1e-2 |
    | ViT, Swin, DeiT, CLIP towers | Adam(W) | 1e-5 – 1e-4 | 3e-4 | 1e-3 |
    | ViT | SGD, momentum 0.9 | 3e-3 – 6e-2 | 1e-1 | 3e-1 |
    | CNN (ResNet, EfficientNet, VGG …) | Adam(W) | 1e-5 – 3e-4 | 1e-3 | 5e-3 |
    | CNN | SGD, momentum 0.9 | 1e-3 – 1e-2 | 5e-2 | 2e-1 |
    | Whisper, wav2vec2, HuBERT | Adam(W) | 1e-5 – 1e-4 | 3e-4 | 1e-3 |

    ## Why it hurts
    The first updates at such a rate move the weights out of the region that pretraining found. The loss jumps, or
    the gradient vanishes and the model answers the same for every input; which seed survives is luck.

    ## Example
    ```python
    model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    ```

    ## Use instead
    ```python
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5)  # with warm-up
    ```

    ## How it is confirmed
    Where the weights are at hand, ten steps on the same batch at the script's rate and at the recommended one:
    confirmed when the loss ends above 1.5 times its start at the script's rate alone, or makes no progress where
    the recommended rate does; refuted when it makes progress at both. Without the weights: unverified.

    ## Fix safety
    No fix is offered: the rate is a decision.

    ## Options
    - `adam`, `sgd`, `adafactor`: rows that replace the table's, by family: `{low, high, warning, error}`, none
      below 0 or below the one before it

    ## References
    - Mosbach et al., On the Stability of Fine-tuning BERT, ICLR 2021
    - Devlin et al. 2019, appendix A.3; Raffel et al. 2020; Hu et al. 2021; Dosovitskiy et al. 2021
    """

    code = "GL501"
    name = "finetune-lr-too-high"
    since = "0.1"
    severity = Severity.WARNING
    Options = RateOptions
    BAD = """\
import torch
from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
for _ in range(100):
    ids, y = torch.randint(0, 30000, (16, 64)), torch.randint(0, 2, (16,))
    optimizer.zero_grad()
    loss = model(input_ids=ids, labels=y).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
"""
    GOOD = BAD.replace("5e-4", "3e-5")

    def check_script(self, script: Script) -> Iterator[Finding]:
        for optimizer in script.optimizers:
            if optimizer.layer_decay:
                continue
            seen: set[Model] = set()
            for group in optimizer.groups:
                for model in group.models:
                    if model in seen:
                        continue
                    found = self._judge_group(optimizer, group, model)
                    if found is not None:
                        seen.add(model)
                        yield found

    def _judge_group(self, optimizer: Optimizer, group: ParameterGroup, model: Model) -> Finding | None:
        pretrained = model.pretrained or (model.model_class.pretrained if model.model_class else None)
        if pretrained is None or not pretrained.certain or not _trained(model, group):
            return None
        rate = _peak(optimizer, group)
        if rate is None or not optimizer.algorithms:
            return None
        family = "lora" if model.adapter else pretrained.family
        rows = [(a, self.options.range(family, a)) for a in optimizer.algorithms]
        severities = [_severity(row, _comparable(rate.peak, a, optimizer)) for a, row in rows]
        algorithm, row = rows[0]
        if row is None or any(s is None for s in severities):
            return None
        severity = min((s for s in severities if s is not None), key=lambda s: s.rank)
        return self._found(optimizer, group, model, pretrained, rate, row, family, algorithm, severity)

    def _found(
        self,
        optimizer: Optimizer,
        group: ParameterGroup,
        model: Model,
        pretrained: Pretrained,
        rate: _Rate,
        row: Range,
        family: str,
        algorithm: str,
        severity: Severity,
    ) -> Finding:
        location = group.location if group.location and len(optimizer.groups) > 1 else optimizer.location
        what = f"`{pretrained.name}`" if pretrained.name else f"`{model.name}`"
        scheduled = f" (the peak of `{rate.scheduled}`)" if rate.scheduled else ""
        related = [Related(pretrained.call.location, "the pretrained weights are loaded here")]
        if rate.value is not None and rate.value.origin != location:
            way = ", ".join(rate.value.way)
            related.append(Related(rate.value.origin, f"the rate is decided here{f' ({way})' if way else ''}"))
        times = rate.peak / row.high
        recommended = math.sqrt(row.low * row.high)
        outcome = "training diverges or collapses" if severity is Severity.ERROR else "it may diverge or collapse"
        how, instead = ("through an adapter", "") if model.adapter else ("in full", ", or freeze the pretrained part")
        return self.finding(
            location,
            f"{what} is fine-tuned {how} with {algorithm} at {number(rate.peak)}{scheduled}, {number(times)} times "
            f"the upper end of the usual range for {FAMILY_NAMES.get(family, 'its family')}: {outcome}",
            help=f"use {number(row.low)} to {number(row.high)} with warm-up{instead}",
            severity=severity,
            related=related,
            evidence=Evidence(numbers={"learning_rate": rate.peak, "recommended_learning_rate": recommended}),
            model=model.name,
            optimizer=algorithm,
            confidence="medium" if family == "other" else "high",
            subject=RateSubject(optimizer_subject(optimizer), rate.peak, recommended),
        )

    def experiments(self, finding: Finding) -> list[Experiment]:
        subject = finding.subject
        if not isinstance(subject, RateSubject):
            return []
        return [
            *replay(subject.step, subject.rate, f"lr {number(subject.rate)}"),
            *replay(subject.step, subject.recommended, f"lr {number(subject.recommended)}"),
        ]

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        subject = finding.subject
        if not isinstance(subject, RateSubject):
            return Verdict(Outcome.UNVERIFIED, "the rate is not known")
        script = seen.get(f"lr {number(subject.rate)}")
        recommended = seen.get(f"lr {number(subject.recommended)}")
        if script is None or recommended is None:
            failed = seen.of.get(f"lr {number(subject.rate)}")
            reason = failed.error if failed is not None and failed.error else "the two rates were not replayed"
            return Verdict(Outcome.UNVERIFIED, reason)
        if any("not at hand" in note for note in script.notes):
            return Verdict(
                Outcome.UNVERIFIED, "the pretrained weights are not at hand; `gradlint probe` measures with them"
            )
        separation = lr_separates(script, recommended)
        if separation is None:
            return Verdict(Outcome.UNVERIFIED, "the loss of the replay is not finite at the start")
        evidence = Evidence(
            numbers={"loss_ratio_after_10": separation.script, "loss_ratio_recommended": separation.recommended}
        )
        told = (
            f"after ten steps on one batch the loss is {number(separation.script)} times its start, "
            f"{number(separation.recommended)} at {number(subject.recommended)}"
        )
        if separation.how:
            return Verdict(Outcome.CONFIRMED, f"{separation.how}: {told}", evidence=evidence)
        if separation.script <= 1:
            return Verdict(Outcome.REFUTED, told, Severity.INFO, evidence)
        return Verdict(Outcome.UNVERIFIED, told, evidence=evidence)


def _trained(model: Model, group: ParameterGroup) -> bool:
    """Whether the group surely trains the pretrained parameters in full."""
    if group.part not in ("all", "trainable", "backbone", "decay", "no_decay"):
        return False
    return not model.frozen or model.adapter is not None


def _peak(optimizer: Optimizer, group: ParameterGroup) -> _Rate | None:
    """The highest rate that the group reaches at the least; None where a branch of it is not known."""
    for schedule in optimizer.schedules:
        if schedule.max_lr is not None:
            peak = plain_number(schedule.max_lr)
            only = schedule.max_lr.only
            return _Rate(peak, only, schedule.name) if peak is not None else None
    resolution = group.learning_rate
    if not resolution.values and resolution.unknown is not None:
        resolution = optimizer.learning_rate
    numbers = resolution.numbers()
    if not numbers or resolution.unknown is not None or len(numbers) < len(resolution.values):
        return None
    factor, scheduled = 1.0, None
    for schedule in optimizer.schedules:
        if schedule.peak_factor is not None and schedule.peak_factor != 1.0:
            factor *= schedule.peak_factor
            scheduled = schedule.name
    return _Rate(float(numbers[0].value) * factor, numbers[0], scheduled)


def _comparable(rate: float, algorithm: str, optimizer: Optimizer) -> float:
    """The rate of SGD as if its momentum were 0.9, what the table is written for."""
    if algorithm.lower() != "sgd":
        return rate
    momentum = plain_number(optimizer.momentum) or 0.0
    return rate * (1 - USUAL_MOMENTUM) / (1 - momentum) if 0 <= momentum < 1 else rate


def _severity(row: Range | None, rate: float) -> Severity | None:
    if row is None:
        return None
    nearly = rate * (1 + 1e-9)
    if nearly >= row.error:
        return Severity.ERROR
    return Severity.WARNING if nearly >= row.warning else None
