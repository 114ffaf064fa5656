"""GL604 speaks of a first loss far above that of guessing, once it was measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from gradlint.config import Config
from gradlint.engine import Engine
from gradlint.finding import Outcome, Severity
from gradlint.graph.model import Loss, ModelGraph
from gradlint.location import Location
from gradlint.probe.experiment import OVERFLOW, Measurement, Measurements
from gradlint.rule import Context
from gradlint.rules.loss_off_chance import LossOffChance, OffChanceSubject
from gradlint.source.script import Optimizer
from gradlint.source.value import UNKNOWN
from tests.rules.build import Net, sloped

RULE = LossOffChance()


def judged(loss: float, *notes: str, classes: int = 10):
    finding = RULE.finding(Location("train.py", 5), "m", subject=OffChanceSubject(classes))
    return RULE.judge(finding, Measurements({"baseline": Measurement("baseline", loss=loss, notes=notes)}))


@pytest.mark.parametrize(
    ("multiple", "outcome", "severity"),
    [
        (1.0, Outcome.REFUTED, Severity.INFO),
        (2.9, Outcome.REFUTED, Severity.INFO),
        (3.1, Outcome.CONFIRMED, Severity.INFO),
        (9.9, Outcome.CONFIRMED, Severity.INFO),
        (10.1, Outcome.CONFIRMED, Severity.WARNING),
    ],
)
def test_the_multiple_of_guessing_decides(multiple, outcome, severity):
    verdict = judged(multiple * math.log(10))
    assert (verdict.outcome, verdict.severity) == (outcome, severity)


def test_what_is_no_finite_cross_entropy_is_not_compared():
    assert judged(OVERFLOW).outcome is Outcome.UNVERIFIED
    assert judged(99.0, "cross_entropy over a single class, squared error was used").outcome is Outcome.UNVERIFIED
    finding = RULE.finding(Location("train.py", 5), "m", subject=OffChanceSubject(10))
    assert RULE.judge(finding, Measurements()).outcome is Outcome.UNVERIFIED


def asked(spread: float | None, **graph_facts: object) -> list[OffChanceSubject]:
    """The questions on a classifier of 10 classes whose logits are predicted to have 10**spread for their std."""
    net = Net().dense(1, "relu")
    net.linear(10)
    graph: ModelGraph = replace(net.graph(loss=Loss("cross_entropy")), **graph_facts)
    profile = replace(sloped(graph, 0.0), std_at=tuple(spread for _ in graph.nodes))
    context = Context(optimizers=(Optimizer("opt", ("Adam",), Location("train.py", 9), (), UNKNOWN),))
    return [f.subject for f in RULE.check_graph(graph, profile, context)]


def test_logits_that_are_predicted_to_be_small_are_not_measured():
    assert asked(-0.5) == []
    assert asked(0.5) == asked(None) == [OffChanceSubject(10)]


@pytest.mark.parametrize("facts", [{"pretrained": True}, {"loss": Loss("mse")}, {"loss": Loss(inside=True)}])
def test_loaded_weights_and_other_losses_are_left_alone(facts):
    assert asked(0.5, **facts) == []


def test_it_is_never_a_finding_without_a_measurement(tmp_path: Path):
    (tmp_path / "train.py").write_text(RULE.BAD, encoding="utf-8")
    result = Engine(Config(exec=False, select=("GL604",)), tmp_path).run([tmp_path / "train.py"])
    assert result.findings == ()
