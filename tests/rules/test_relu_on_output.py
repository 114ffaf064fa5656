"""GL103 finds a rectifier at the end of a model that needs outputs of both signs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.config import Config
from gradlint.engine import Engine
from gradlint.finding import Severity

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
