"""Calls of a class or function by another name: what they pass reaches its parameters."""

from __future__ import annotations

import pytest

EXPERIMENT = """
import torch
from torch import nn
from nets import NETS, Lstm

class Experiment:
    def __init__(self, args):
        self.args = args
        self.model = Lstm(8)

    def train(self, batches):
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.args.lr)
        for x, y in batches:
            optimizer.zero_grad()
            (self.model(x) - y).pow(2).mean().backward()
            optimizer.step()

class Other:
    def __init__(self, args):
        self.args = args
"""
NETS = """
from torch import nn

class Lstm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lstm = nn.LSTM(width, width)
    def forward(self, x):
        return self.lstm(x)[0]

NETS = {"lstm": Lstm}
"""
RUN = """
import argparse
from experiment import Experiment, Other

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=4e-4)
parser.add_argument("--task", required=True)
args = parser.parse_args()
"""
CALLS = {
    "an alias": "Exp = Experiment\nexp = Exp(args)\n",
    "a choice": "Exp = Experiment if args.task else Other\nexp = Exp(args)\n",
    "branches": "if args.task:\n    Exp = Experiment\nelse:\n    Exp = Other\nexp = Exp(args)\n",
    "a table": 'TASKS = {"forecast": Experiment, "other": Other}\nexp = TASKS[args.task](args)\n',
    "get": 'TASKS = {"forecast": Experiment}\nexp = TASKS.get(args.task)(args)\n',
    "an import": "from experiment import Experiment as E\nexp = E(args)\n",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_class_that_is_called_by_another_name_knows_its_arguments(read, call):
    script = read("experiment.py", {"experiment.py": EXPERIMENT, "nets.py": NETS, "run.py": RUN + call})
    (optimizer,) = script.optimizers
    assert [v.value for v in optimizer.learning_rate.values] == [4e-4]


def test_a_name_that_another_class_goes_by_passes_nothing(read):
    call = "Exp = Other\nexp = Exp(args)\n"
    script = read("experiment.py", {"experiment.py": EXPERIMENT, "nets.py": NETS, "run.py": RUN + call})
    (optimizer,) = script.optimizers
    assert optimizer.learning_rate.values == ()
    assert "nobody in the project passes `args`" in optimizer.learning_rate.unknown


def test_a_function_that_is_called_by_another_name_knows_its_arguments(read):
    helper = """
        import torch
        def make_adam(net, lr):
            return torch.optim.Adam(net.parameters(), lr)
        """
    run = """
        from helper import make_adam
        from nets import Lstm
        MAKERS = {"adam": make_adam}
        optimizer = MAKERS[input()](Lstm(8), 0.03)
        """
    script = read("helper.py", {"helper.py": helper, "run.py": run, "nets.py": NETS})
    (optimizer,) = script.optimizers
    assert [v.value for v in optimizer.learning_rate.values] == [0.03]
    assert [m.classes for m in optimizer.models] == [("nets.Lstm",)]
