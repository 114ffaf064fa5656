"""Parts of a model are not models, and loads before training are pretrained starts."""

from __future__ import annotations

import pytest

BLOCK = """
import torch
from torch import nn

def block(n):
    return nn.Sequential(nn.Linear(n, n), nn.ReLU())
"""


def test_a_block_made_in_a_helper_is_no_model(read):
    script = read(
        "train.py",
        {
            "train.py": BLOCK
            + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[block(8) for _ in range(3)])
    def forward(self, x):
        return self.layers(x)

net = Net()
"""
        },
    )
    assert [m.name for m in script.models] == ["net"]


def test_a_factory_that_the_script_calls_makes_a_model(read):
    script = read("train.py", {"train.py": BLOCK + "net = block(8)\nopt = torch.optim.SGD(net.parameters(), lr=0.1)\n"})
    assert len(script.models) == 1


def test_layers_gathered_in_a_list_are_parts_of_the_sequential_that_gets_them(read):
    script = read(
        "train.py",
        {
            "train.py": """
from torch import nn

layers = [nn.Linear(4, 8), nn.ReLU()]
layers.append(nn.Linear(8, 8))
layers += [nn.ReLU(), nn.Linear(8, 2)]
net = nn.Sequential(*layers)
"""
        },
    )
    assert [m.name for m in script.models] == ["net"]


def test_a_new_head_is_a_part_of_its_model(read):
    script = read(
        "train.py",
        {
            "train.py": """
import torchvision
from torch import nn

net = torchvision.models.resnet18(weights="DEFAULT")
net.fc = nn.Linear(512, 10)
"""
        },
    )
    assert [m.name for m in script.models] == ["net"]


BERT = """
import torch
from torch import nn

class BertModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
    def forward(self, x):
        return self.fc(x)

model = BertModel()
{before}
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for x in data:
    model(x).sum().backward()
    optimizer.step()
{after}
"""


@pytest.mark.parametrize(
    ("before", "after", "certain"),
    [
        ("model.load_state_dict(torch.load('bert.bin'))", "", True),
        ("state = torch.load('bert.bin')\nmodel.load_state_dict(state, strict=False)", "", True),
        ("if path:\n    model.load_state_dict(torch.load('bert.bin'))", "", False),
        ("model.load_state_dict(torch.load('checkpoint/last.pt'))", "", None),
        ("model.load_state_dict(other.state_dict())", "", None),
        ("", "model.load_state_dict(torch.load('bert.bin'))", None),
    ],
)
def test_a_load_before_training_is_a_pretrained_start(read, before, after, certain):
    model = read("train.py", {"train.py": BERT.format(before=before, after=after)}).models[0]
    assert (model.pretrained.certain if model.pretrained else None) is certain


def test_a_network_of_no_known_family_is_not_surely_pretrained(read):
    text = BERT.format(before="model.load_state_dict(torch.load('mine.bin'))", after="").replace("Bert", "My")
    pretrained = read("train.py", {"train.py": text}).models[0].pretrained
    assert pretrained is not None
    assert not pretrained.certain
