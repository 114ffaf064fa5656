"""What each walk back from a loss goes through: they answer different questions, and differ for that."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import indent

import pytest

from gradlint.source.callers import importers_of
from gradlint.source.carried_state import _behind
from gradlint.source.computed_from import ComputedFrom
from gradlint.source.evaluate import Evaluator
from gradlint.source.gradient_flow import GradientFlow, backwards
from gradlint.source.models import Models
from gradlint.source.project import Project
from gradlint.source.singularities import GUARDS
from gradlint.source.ungiven import _in_the_loss

SCRIPT = """
import torch
from torch import nn

net = nn.Linear(4, 4)

def step(x, other, mask):
{body}
    loss.backward()
"""

WALKS = ("carried", "ungiven", "computed", "guarded", "flow")


def reached(body: str, folder: Path) -> tuple[str, ...]:
    """The walks that come from the loss to the network."""
    path = folder / "t.py"
    path.write_text(SCRIPT.format(body=indent(body, "    ")))
    project = Project(folder)
    file = project.file(path)
    assert file is not None
    models = Models(Evaluator(project, importers_of(project)))
    scope = next(s for s in models.evaluator.index(file).scopes if s.name == "step")
    ((site, loss),) = backwards(scope)

    def names(guards: frozenset[str]) -> set[str]:
        return {n.id for n in ComputedFrom(scope, guards).of(loss) if isinstance(n, ast.Name)}

    answers = {
        "carried": "net" in _behind(site),
        "ungiven": "net" in _in_the_loss(scope),
        "computed": "net" in names(frozenset()),
        "guarded": "net" in names(GUARDS),
        "flow": GradientFlow(models, scope).of(loss).made,
    }
    return tuple(walk for walk in WALKS if answers[walk])


@pytest.mark.parametrize(
    ("body", "walks"),
    [
        ("out = net(x)\nloss = out.sum()", WALKS),
        ("loss = net(x).sum() + other.detach().sum()", WALKS),
        # A hidden state is carried with its graph whether or not this loss needs it: the walk over names stops nowhere.
        ("loss = net(x).detach().sum()", ("carried",)),
        ("loss = (net(x) > 0).sum()", ("carried",)),
        ("with torch.no_grad():\n    out = net(x)\nloss = out.sum()", ("carried",)),
        ("loss = net(x).sum()\nloss = other.sum()", ("carried",)),
        # What is chosen by a mask carries a gradient, but may be what is finite only.
        ("loss = torch.where(mask, net(x), other).sum()", ("carried", "ungiven", "computed", "flow")),
        # Through lists and loops go those two that ask whether something is live at all.
        ("parts = []\nparts.append(net(x).sum())\nloss = sum(parts)", ("carried", "flow")),
        ("for out in [net(x)]:\n    loss = out.sum()", ("carried", "flow")),
    ],
)
def test_a_walk_goes_through_what_its_question_allows(body, walks, tmp_path):
    assert reached(body, tmp_path) == walks
