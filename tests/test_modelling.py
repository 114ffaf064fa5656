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
