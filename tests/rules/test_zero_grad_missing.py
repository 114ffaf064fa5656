"""GL405 finds steps on gradients that nothing clears, of the script's own optimizers and of those it is given."""

from __future__ import annotations

import pytest
from scripts import found, lines

LOOP = """
def train(net, loader, {name}):
    for x, y in loader:
        {before}
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        {name}.step()
"""


@pytest.mark.parametrize("name", ["optimizer", "optim"])
def test_an_optimizer_that_nobody_in_reach_passes_is_one(name, tmp_path):
    (finding,) = found("GL405", LOOP.format(name=name, before="net.train()"), tmp_path)
    assert lines([finding], tmp_path) == [f"{name}.step()"]
    assert f"`{name}.step()`" in finding.message


@pytest.mark.parametrize(
    ("name", "before"),
    [("optimizer", "optimizer.zero_grad()"), ("optimizer", "net.zero_grad()"), ("stepper", "net.train()")],
)
def test_what_clears_and_what_may_be_no_optimizer_is_left_alone(name, before, tmp_path):
    assert found("GL405", LOOP.format(name=name, before=before), tmp_path) == []


def test_a_single_step_is_not_known_to_be_repeated(tmp_path):
    text = LOOP.format(name="optimizer", before="net.train()").replace(
        "for x, y in loader:", "if loader:\n        x = y = loader"
    )
    assert found("GL405", text, tmp_path) == []
