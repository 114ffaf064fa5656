"""Which models are built to settle what is said of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gradlint.config import Config
from gradlint.engine import Engine
from gradlint.finding import Finding, Outcome
from gradlint.worker.client import find_torch

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(find_torch() is None, reason="needs torch"),
    pytest.mark.skipif(sys.platform == "win32", reason="a fresh interpreter a model is slow"),
]

CLASS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self{parameters}):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.Sigmoid()) for _ in range(6)])
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.layers(x))
"""


def found(folder: Path, parameters: str) -> Finding:
    script = folder / "net.py"
    script.write_text(CLASS.format(parameters=parameters))
    result = Engine(Config(seeds=1), folder).run([script])
    (finding,) = [f for f in result.findings if f.code == "GL101"]
    return finding


def test_a_class_that_nothing_constructs_is_measured_with_its_defaults(tmp_path: Path) -> None:
    verdict = found(tmp_path, ", classes=4").verdict
    assert verdict is not None and verdict.outcome is Outcome.CONFIRMED


def test_a_class_whose_constructor_takes_more_stays_unmeasured(tmp_path: Path) -> None:
    verdict = found(tmp_path, ", classes").verdict
    assert verdict is not None and verdict.outcome is Outcome.UNVERIFIED
    assert "not constructed" in verdict.reason


TWO = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, skip):
        super().__init__()
        self.fc, self.skip = nn.Linear(32, 32), skip

    def forward(self, x):
        h = torch.sigmoid(self.fc(x))
        return x + h if self.skip else h

class Net(nn.Module):
    def __init__(self, skip):
        super().__init__()
        self.blocks = nn.Sequential(*[Block(skip) for _ in range(8)])
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.blocks(x))

residual = Net(True)
plain = Net(False)
"""


def test_of_two_models_of_a_class_the_one_that_was_found_wanting_is_measured(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(TWO)
    result = Engine(Config(seeds=1), tmp_path).run([tmp_path / "nets.py"])
    (finding,) = [f for f in result.findings if f.code == "GL101"]
    assert finding.verdict is not None and finding.verdict.outcome is Outcome.CONFIRMED
    ratio = finding.evidence.measured_gradient_ratio
    assert ratio is not None and ratio < 1e-3


OWN_STEP = """
import torch
from torch import nn

class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 2)
        self.optimizer = torch.optim.Adam(self.parameters())

    def forward(self, x):
        return self.head(self.rnn(x)[0])

    def learn(self, x, y):
        loss = ((self(x) - y) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

agent = Agent()
agent.learn(torch.randn(2, 5, 4), torch.randn(2, 5, 2))
"""


def test_a_model_that_makes_its_own_steps_is_measured(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(OWN_STEP)
    result = Engine(Config(seeds=1), tmp_path).run([tmp_path / "agent.py"])
    (finding,) = [f for f in result.findings if f.code == "GL401"]
    assert finding.verdict is not None and "not found" not in finding.verdict.reason
