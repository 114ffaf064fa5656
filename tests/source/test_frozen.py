"""Networks that a project fills by its own `from_pretrained`, and which of their parameters a switch leaves on."""

from __future__ import annotations

import pytest

NETS = """
import torch
from torch import nn

class Base(nn.Module):
    @classmethod
    def from_pretrained(cls, name, *args, report=False):
        model = cls(*args)
        missing = fill(model, torch.load(name))
        if report:
            return model, missing
        return model

class Bert(Base):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)
    def forward(self, x):
        return self.layer(x)

class Net(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.bert = Bert.from_pretrained("bert-base-uncased")
        self.head = nn.Linear(8, 2)
        for param in self.bert.parameters():
            {switch}
    def forward(self, x):
        return self.head(self.bert(x))
"""
TRAIN = """
import argparse
import torch
from nets import Net

parser = argparse.ArgumentParser()
parser.add_argument("--how", default="{how}")
args = parser.parse_args()
net = Net(args.how)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
"""
TWO_WAYS = """if how == "head":
                param.requires_grad = False
            elif how == "all":
                param.requires_grad = True"""
PERHAPS = """param.requires_grad = False
            if wanted():
                param.requires_grad = True"""


@pytest.mark.parametrize(
    ("switch", "how", "frozen"),
    [
        ("pass", "all", []),
        (TWO_WAYS, "head", ["backbone"]),
        (TWO_WAYS, "all", []),
        (PERHAPS, "all", ["backbone"]),
    ],
)
def test_what_a_switch_in_the_constructor_leaves_on(read, switch, how, frozen):
    files = {"nets.py": NETS.format(switch=switch), "train.py": TRAIN.format(how=how)}
    (model,) = read("train.py", files).models
    assert model.pretrained is not None
    assert (model.pretrained.family, model.pretrained.name) == ("bert", "bert-base-uncased")
    assert model.pretrained.certain
    assert [f.what for f in model.frozen] == frozen


def test_a_network_that_its_own_method_fills(read):
    train = """
    import torch
    from nets import Bert

    net = Bert.from_pretrained("bert-base-uncased")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for x in data:
        net(x).sum().backward()
        optimizer.step()
    """
    (optimizer,) = read("train.py", {"nets.py": NETS.format(switch="pass"), "train.py": train}).optimizers
    (model,) = optimizer.models
    assert model.pretrained is not None
    assert model.pretrained.name == "bert-base-uncased"
