"""`gradlint check` on the fixtures: what is wrong with each bad one is found and settled, the good ones are silent."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROOT = FIXTURES.parent
GRADLINT = Path(sysconfig.get_path("scripts")) / "gradlint"


@dataclass(frozen=True)
class Expectation:
    """Codes that must be found in bad.py: those that a synthetic batch confirms, and those that it cannot settle."""

    confirmed: frozenset[str] = frozenset()
    unverified: frozenset[str] = frozenset()


def codes(*names: str) -> frozenset[str]:
    return frozenset(names)


EXPECTED = {
    "bert_finetune": Expectation(unverified=codes("GL501")),
    "cnn_batchnorm_lr": Expectation(confirmed=codes("GL502")),
    "gan_generator": Expectation(confirmed=codes("GL201")),
    "lstm_sentiment": Expectation(confirmed=codes("GL101")),
    "resnet152_init": Expectation(confirmed=codes("GL201")),
    "resnet152_no_skip": Expectation(confirmed=codes("GL301")),
    "rl_arm": Expectation(unverified=codes("GL404")),
    "rnn_translation": Expectation(confirmed=codes("GL111")),
}

# Found whatever the verdict: a gradient that is bounded at initialisation is GL401's honest "unverified".
ALSO_FOUND = {"rnn_translation": codes("GL401")}


@cache
def check(script: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [GRADLINT, "check", str(script), "--output-format", "json", "--show-refuted"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode in {0, 1}, done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def reported(report: dict[str, Any]) -> dict[str, set[str]]:
    """Verdicts by code, of the findings that a person gets to see."""
    found: dict[str, set[str]] = {}
    for finding in report["findings"]:
        if finding["verdict"] != "refuted":
            found.setdefault(finding["code"], set()).add(finding["verdict"])
    return found


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_the_fault_of_bad_is_found_and_settled(case: str) -> None:
    found = reported(check(FIXTURES / case / "bad.py")[1])
    expected = EXPECTED[case]
    assert {code for code in expected.confirmed if "confirmed" in found.get(code, ())} == expected.confirmed, found
    assert {code for code in expected.unverified if "unverified" in found.get(code, ())} == expected.unverified, found
    assert ALSO_FOUND.get(case, frozenset()) <= found.keys()


def test_a_checkpoint_made_at_run_time_is_said_to_be_missing() -> None:
    # Two functions train a `model` each; what is said is of the one that is fine-tuned.
    (finding,) = check(FIXTURES / "bert_finetune" / "bad.py")[1]["findings"]
    assert "the pretrained weights are not at hand" in finding["verdict_reason"]


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_good_is_silent(case: str) -> None:
    status, report = check(FIXTURES / case / "good.py")
    assert reported(report) == {}
    assert status == 0


def test_a_published_checkpoint_at_a_reckless_rate_is_an_error() -> None:
    status, report = check(FIXTURES / "bert_finetune" / "static_bad.py")
    found = [f for f in report["findings"] if f["code"] == "GL501"]
    assert [f["severity"] for f in found] == ["error"]
    assert found[0]["verdict"] == "unverified"
    assert status == 1


def test_a_published_checkpoint_at_the_recipe_rate_is_silent() -> None:
    status, report = check(FIXTURES / "bert_finetune" / "static_good.py")
    assert reported(report) == {}
    assert status == 0
