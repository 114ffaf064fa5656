"""Train the sixteen fixtures for real: every bad one fails to learn, every good one learns."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch]

FIXTURES = Path(__file__).parents[1] / "fixtures"
SUMMARY = re.compile(r"^final loss (?P<loss>\S+) accuracy (?P<accuracy>\S+)", re.MULTILINE)
LIMIT_SECONDS = 600
"""Each takes less than a minute on an idle core; the limit allows for a busy machine."""


@dataclass(frozen=True)
class Expectation:
    """Accuracy that bad stays under and good exceeds; between them lies the margin."""

    bad_below: float
    good_above: float


EXPECTED = {
    "bert_finetune": Expectation(0.50, 0.90),
    "cnn_batchnorm_lr": Expectation(0.40, 0.95),
    "gan_generator": Expectation(0.20, 0.70),
    "lstm_sentiment": Expectation(0.60, 0.80),
    "resnet152_init": Expectation(0.40, 0.90),
    "resnet152_no_skip": Expectation(0.50, 0.90),
    "rl_arm": Expectation(0.25, 0.45),
    "rnn_translation": Expectation(0.20, 0.90),
}


@dataclass(frozen=True)
class Summary:
    """What a fixture says of itself in its last line."""

    loss: float
    accuracy: float


def train(script: Path) -> Summary:
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = SUMMARY.search(done.stdout)
    assert found, f"{script} prints no summary:\n{done.stdout[-500:]}"
    return Summary(float(found["loss"]), float(found["accuracy"]))


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_bad_fails_to_learn(case: str) -> None:
    assert train(FIXTURES / case / "bad.py").accuracy < EXPECTED[case].bad_below


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_good_learns(case: str) -> None:
    summary = train(FIXTURES / case / "good.py")
    assert math.isfinite(summary.loss)
    assert summary.accuracy > EXPECTED[case].good_above
