"""GL407 finds states that take their graph along, and no state that is cut, made anew or carried within one pass."""

from __future__ import annotations

import pytest
from scripts import found, lines

SCRIPT = """
class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(16, 32)

    def forward(self, x, hidden):
        return self.rnn(x, hidden)

model = Tagger()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
hidden = None
for x, y in loader:
    {before}
    out, hidden = model(x, hidden)
    {after}
    loss = nn.functional.mse_loss(out, y)
    loss.backward({keep})
    optimizer.step()
"""


def script(before: str = "", after: str = "", keep: str = "") -> str:
    return SCRIPT.format(before=before.replace("\n", "\n    "), after=after, keep=keep)


@pytest.mark.parametrize(
    ("keep", "outcome"), [("retain_graph=True", "run back through all"), ("", "second `backward()`")]
)
def test_a_state_that_is_carried_with_its_graph_is_found(keep, outcome, tmp_path):
    (finding,) = findings = found("GL407", script(keep=keep), tmp_path)
    assert outcome in finding.message
    assert lines(findings, tmp_path) == [f"loss.backward({keep})"]


def test_a_detach_whose_result_is_thrown_away_cuts_nothing(tmp_path):
    (finding,) = found("GL407", script("if hidden is not None:\n    for h in hidden: h.detach()"), tmp_path)
    assert "changes nothing in place" in (finding.help or "")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hidden = torch.zeros(1, 32, 32)", ""),
        ("", "hidden = tuple(h.detach() for h in hidden)"),
        ("", "hidden = repackage(hidden)"),
        ("if hidden is not None:\n    for h in hidden: h.detach_()", ""),
        ("reset(hidden)", ""),
        ("if done:\n    hidden = None", ""),
    ],
)
def test_a_state_that_is_cut_or_made_anew_is_left_alone(before, after, tmp_path):
    assert found("GL407", script(before, after, "retain_graph=True"), tmp_path) == []


def test_a_state_is_carried_within_one_pass_without_fault(tmp_path):
    text = script().replace("out, hidden = model(x, hidden)", "for t in x: out, hidden = model(t, hidden)")
    assert found("GL407", text.replace("{before}", "").replace("    \n", "    hidden = None\n", 1), tmp_path) == []


def test_evaluation_may_carry_the_state(tmp_path):
    text = script(keep="retain_graph=True").replace(
        "    out, hidden = model(x, hidden)", "    with torch.no_grad(): out, hidden = model(x, hidden)"
    )
    assert found("GL407", text, tmp_path) == []


STATEFUL = """
class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(16, 32)
        self.hidden = torch.zeros(1, 32, 32)

    def forward(self, x):
        out, self.hidden = self.rnn(x, self.hidden{cut})
        return out

model = Tagger()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    {renew}
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward(retain_graph=True)
    optimizer.step()
"""


def test_a_state_that_the_model_keeps_is_found(tmp_path):
    (finding,) = found("GL407", STATEFUL.format(cut="", renew=""), tmp_path)
    assert "self.hidden" in finding.message


@pytest.mark.parametrize(
    ("cut", "renew"), [(".detach()", ""), ("", "model.hidden = torch.zeros(1, 32, 32)"), ("", "model.reset()")]
)
def test_a_state_that_the_model_or_the_loop_renews_is_left_alone(cut, renew, tmp_path):
    assert found("GL407", STATEFUL.format(cut=cut, renew=renew), tmp_path) == []


def test_of_an_unknown_model_a_kept_graph_and_the_name_of_the_state_are_enough(tmp_path):
    text = "def train(model, loader):\n    state = model.begin()\n    for x, y in loader:\n"
    text += "        out, state = model(x, state)\n        loss = out.mean()\n        loss.backward({})\n"
    assert len(found("GL407", text.format("retain_graph=True"), tmp_path)) == 1
    assert found("GL407", text.format(""), tmp_path) == []
