"""Fine-tuning rates against the table, by family, optimizer, momentum, schedule and frozen parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradlint.finding import Severity
from gradlint.location import Location
from gradlint.rules.finetune_lr_too_high import FinetuneLrTooHigh
from gradlint.source.script import Frozen, Model, Optimizer, ParameterGroup, Pretrained, Schedule, Script
from gradlint.source.value import Call, Resolution, Value

HERE = Location("train.py", 20)


def known(*values):
    return Resolution(tuple(Value(v, HERE) for v in values))


def model(family="bert", certain=True, **more):
    load = Pretrained(family, Call(("transformers.AutoModel.from_pretrained",), HERE), "name", certain=certain)
    return Model("model", ("AutoModel",), HERE, pretrained=load, **more)


def optimizer(rate, algorithm="AdamW", of=None, part="all", **more):
    rates = rate if isinstance(rate, Resolution) else known(rate)
    group = ParameterGroup((of or model(),), part, rates)
    return Optimizer("optimizer", (algorithm,), HERE, (group,), rates, **more)


def severities(*optimizers):
    script = Script("train.py", ".", "", optimizers=optimizers)
    return [f.severity for f in FinetuneLrTooHigh().check_script(script)]


@pytest.mark.parametrize(
    ("family", "algorithm", "rate", "expected"),
    [
        ("bert", "AdamW", 5e-5, []),
        ("bert", "AdamW", 2e-4, [Severity.WARNING]),
        ("bert", "Adam", 5e-4, [Severity.ERROR]),
        ("t5", "AdamW", 3e-4, []),
        ("t5", "AdamW", 2e-3, [Severity.ERROR]),
        ("vit", "AdamW", 5e-4, [Severity.WARNING]),
        ("cnn", "Adam", 1e-3, [Severity.WARNING]),
        ("cnn", "Adam", 3e-4, []),
        ("other", "Adam", 2e-4, []),
        ("bert", "Lion", 1e-2, []),
        ("decoder-1b", "HybridAdam", 3e-4, [Severity.ERROR]),
    ],
)
def test_table(family, algorithm, rate, expected):
    assert severities(optimizer(rate, algorithm, model(family))) == expected


def test_adapters_have_rates_of_their_own():
    adapter = Call(("peft.get_peft_model",), HERE)
    tuned = [replace(model(family), adapter=adapter) for family in ("bert", "vit")]
    assert [severities(optimizer(rate, of=m)) for m in tuned for rate in (5e-4, 5e-3, 1e-2)] == [
        [],
        [Severity.WARNING],
        [Severity.ERROR],
    ] * 2


def test_sgd_is_compared_at_its_effective_rate():
    assert severities(optimizer(5e-2, "SGD", model("cnn"), momentum=known(0.9))) == [Severity.WARNING]
    assert severities(optimizer(5e-2, "SGD", model("cnn"), momentum=known(0.0))) == []


def test_peak_of_the_schedule_counts():
    one_cycle = Schedule("OneCycleLR", HERE, max_lr=known(1e-3))
    assert severities(optimizer(1e-5, schedules=(one_cycle,))) == [Severity.ERROR]
    scaled = Schedule("LambdaLR", HERE, peak_factor=0.01)
    assert severities(optimizer(1e-3, schedules=(scaled,))) == []


def test_what_is_not_trained_in_full_is_silent():
    frozen = (Frozen("backbone", "requires_grad", HERE),)
    assert severities(optimizer(1e-2, of=model(frozen=frozen))) == []
    assert severities(optimizer(1e-2, part="head")) == []
    assert severities(optimizer(1e-2, layer_decay=True)) == []
    assert severities(optimizer(1e-2, of=model(certain=False))) == []


def test_an_adapter_is_not_told_to_be_trained_in_full():
    script = Script("train.py", ".", "", optimizers=(optimizer(2e-3, of=model(adapter="lora")),))
    (finding,) = FinetuneLrTooHigh().check_script(script)
    assert "in full" not in finding.message
    assert "freeze" not in finding.help


def test_adapters_have_a_range_of_their_own():
    assert severities(optimizer(5e-4, of=model(adapter="lora", frozen=(Frozen("all", "peft", HERE),)))) == []
    assert severities(optimizer(2e-3, of=model(adapter="lora"))) == [Severity.WARNING]


def test_the_mildest_of_several_rates_decides_and_an_unknown_one_silences():
    assert severities(optimizer(known(1e-3, 3e-5))) == []
    assert severities(optimizer(replace(known(1e-3), unknown="read from a file"))) == []
