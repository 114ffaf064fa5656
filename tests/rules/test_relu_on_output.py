"""GL103 finds a rectifier at the end of a model that needs outputs of both signs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.config import Config
from gradlint.engine import Engine
from gradlint.finding import Finding, Outcome, Severity, Verdict
from gradlint.location import Location
from gradlint.probe.experiment import LayerMeasurement, Measurement, Measurements
from gradlint.rules.relu_on_output import DeadSubject, ReluOnOutput

SCRIPT = """
import torch
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        h = F.relu(self.one(x))
        return {output}

net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
criterion = nn.{loss}()
for x, y in loader:
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""


def severities(folder: Path, output: str, loss: str) -> list[Severity]:
    (folder / "train.py").write_text(SCRIPT.format(output=output, loss=loss), encoding="utf-8")
    result = Engine(Config(exec=False, select=("GL103",)), folder).run([folder / "train.py"])
    return [f.severity for f in result.findings]


@pytest.mark.parametrize("output", ["F.relu(self.two(h))", "torch.relu(self.two(h)).squeeze(1)"])
@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "BCEWithLogitsLoss"])
def test_a_rectifier_in_front_of_a_loss_of_logits_is_a_warning(output, loss, tmp_path):
    assert severities(tmp_path, output, loss) == [Severity.WARNING]


def test_targets_of_a_regression_may_be_positive(tmp_path):
    assert severities(tmp_path, "F.relu(self.two(h))", "MSELoss") == [Severity.INFO]


@pytest.mark.parametrize(
    "output", ["self.two(h)", "F.leaky_relu(self.two(h))", "F.softplus(self.two(h))", "(self.two(h), h)"]
)
def test_ends_that_pass_the_gradient_and_models_of_several_outputs_are_left_alone(output, tmp_path):
    assert severities(tmp_path, output, "CrossEntropyLoss") == []


def test_a_loss_that_is_not_known_is_left_alone(tmp_path):
    assert severities(tmp_path, "F.relu(self.two(h))", "PoissonNLLLoss") == []


BIASED = """
import torch
from torch import nn

net = nn.Sequential(nn.Linear(16, 32){norm}, nn.{activation}(), nn.Linear(32, 32), nn.{activation}(), nn.Linear(32, 4))
nn.init.constant_(net[0].bias, {bias})
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for x, y in loader:
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""


def biased(folder: Path, bias: float, activation: str = "ReLU", norm: str = "") -> list[Finding]:
    (folder / "train.py").write_text(BIASED.format(bias=bias, activation=activation, norm=norm), encoding="utf-8")
    return list(Engine(Config(exec=False, select=("GL103",)), folder).run([folder / "train.py"]).findings)


def test_a_bias_far_below_zero_holds_a_hidden_rectifier_shut(tmp_path):
    (finding,) = biased(tmp_path, -10)
    assert finding.severity is Severity.WARNING and finding.location.line == 6
    assert "the bias of `0` starts at -10" in finding.message


@pytest.mark.parametrize(
    ("bias", "activation", "norm"),
    [
        (-0.5, "ReLU", ""),
        (10, "ReLU", ""),
        (-10, "Tanh", ""),
        (-10, "LeakyReLU", ""),
        (-10, "ReLU", ", nn.BatchNorm1d(32)"),
    ],
)
def test_a_bias_that_lets_something_through_is_left_alone(bias, activation, norm, tmp_path):
    assert biased(tmp_path, bias, activation, norm) == []


def test_the_share_of_dead_units_decides(tmp_path):
    (finding,) = biased(tmp_path, -10)

    def verdict(dead: float | None) -> Verdict:
        layers = {"0": LayerMeasurement("0", dead=dead)}
        return ReluOnOutput().judge(finding, Measurements({"baseline": Measurement("baseline", layers=layers)}))

    assert (verdict(1.0).outcome, verdict(1.0).severity) == (Outcome.CONFIRMED, Severity.ERROR)
    assert (verdict(0.6).outcome, verdict(0.6).severity) == (Outcome.CONFIRMED, None)
    assert [verdict(x).outcome for x in (0.1, None)] == [Outcome.REFUTED, Outcome.UNVERIFIED]


def test_of_several_layers_the_dead_ones_are_counted():
    rule = ReluOnOutput()
    finding = rule.finding(Location("t.py", 1), "", subject=DeadSubject(("a", "b")))
    layers = {"a": LayerMeasurement("a", dead=0.2), "b": LayerMeasurement("b", dead=0.9)}
    verdict = rule.judge(finding, Measurements({"baseline": Measurement("baseline", layers=layers)}))
    assert verdict.outcome is Outcome.CONFIRMED
    assert verdict.reason == "`b`: 90% of the units are 0 for the whole batch; 1 of 2 layers are dead"
