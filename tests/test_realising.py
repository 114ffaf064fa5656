"""Findings settled on the script's own steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradlint.cli import cli
from gradlint.finding import Outcome
from gradlint.probe.experiment import OVERFLOW, Measurement
from gradlint.probe.judging import spikes, worst_stretch
from gradlint.realising import RATE_STEPS, compare_rates

REINFORCE = """\
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for update in range(400):
    states = torch.randn(32, 4)
    dist = torch.distributions.Categorical(logits=policy(states))
    actions = dist.sample()
    rewards = torch.randn(32) * (GLITCH if update % 40 == 30 else 1.0)
    optimizer.zero_grad()
    loss = -(dist.log_prob(actions) * rewards).mean()
    loss.backward()
    optimizer.step()
"""


def curve(*losses: float) -> Measurement:
    return Measurement("step", losses=losses, batch="real")


def falling(start: float, end: float, steps: int = RATE_STEPS) -> Measurement:
    return curve(*(max(end, start + (end - start) * i / (steps * 0.7)) for i in range(steps)))


def outcome(own: Measurement, other: Measurement, by_end: bool = True) -> Outcome:
    return compare_rates(own, other, 3e-5, by_end=by_end).outcome


def test_a_loss_that_runs_away_at_the_scripts_rate_alone_confirms() -> None:
    assert outcome(falling(2.0, 9.0), falling(2.0, 1.5)) is Outcome.CONFIRMED
    assert outcome(curve(2.0, 3.0, OVERFLOW), curve(2.0, 1.9, 1.8), by_end=False) is Outcome.CONFIRMED
    assert outcome(falling(2.0, 9.0), falling(2.0, 9.0)) is Outcome.UNVERIFIED


def test_a_loss_that_stays_behind_confirms_and_one_that_keeps_up_refutes() -> None:
    assert outcome(falling(2.0, 1.7), falling(2.0, 0.7)) is Outcome.CONFIRMED
    assert outcome(falling(2.0, 1.7), falling(2.0, 0.7), by_end=False) is Outcome.UNVERIFIED
    assert outcome(falling(2.0, 0.8), falling(2.0, 0.7)) is Outcome.UNVERIFIED
    assert outcome(falling(2.0, 0.5), falling(2.0, 0.7)) is Outcome.REFUTED


def test_a_higher_rate_that_is_ahead_after_a_few_steps_is_not_cleared() -> None:
    assert outcome(falling(2.0, 0.5, 40), falling(2.0, 0.7, 40)) is Outcome.UNVERIFIED


def test_norms_that_fall_as_training_goes_on_are_no_spike() -> None:
    norms = [10.0 * 0.95**i for i in range(100)]
    assert spikes(norms) and not spikes(worst_stretch(norms))
    norms[60] = 30.0
    assert spikes(worst_stretch(norms))
    assert worst_stretch(norms[:5]) == tuple(norms[:5])


@pytest.mark.torch
@pytest.mark.parametrize(("glitch", "verdict"), [("500.0", "confirmed"), ("1.0", "refuted")])
def test_rewards_that_spike_now_and_then_show_on_the_scripts_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glitch: str, verdict: str
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(REINFORCE.replace("GLITCH", glitch))
    arguments = ["check", "train.py", "--select", "GL404", "--real", "--output-format", "json"]
    found = json.loads(CliRunner().invoke(cli, arguments).output)["findings"]
    assert [(f["code"], f["verdict"]) for f in found] == [("GL404", verdict)]
    assert "100 steps of the script" in found[0]["verdict_reason"]
