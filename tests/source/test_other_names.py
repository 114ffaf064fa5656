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


def test_a_model_named_by_a_text_that_is_evaluated_is_that_of_the_configuration(read):
    """Packages under `lib/` are put on the path by a script's own line; a yacs default may be overridden."""
    default = """
        from yacs.config import CfgNode as CN
        _C = CN()
        _C.LR = 0.25
        _C.MODEL = CN()
        _C.MODEL.NAME = "nets"
        """
    train = """
        import sys
        sys.path.insert(0, "lib")
        import torch
        import models
        from config import config
        net = eval("models." + config.MODEL.NAME + ".Lstm")(3)
        optimizer = torch.optim.SGD(net.parameters(), lr=config.LR)
        net(0).mean().backward()
        optimizer.step()
        """
    files = {
        "lib/config/__init__.py": "from .default import _C as config\n",
        "lib/config/default.py": default,
        "lib/models/__init__.py": "from . import nets\n",
        "lib/models/nets.py": NETS,
        "tools/train.py": train,
    }
    (step,) = read("tools/train.py", files).steps
    assert [m.classes for m in step.models] == [("lib.models.nets.Lstm",)]
    assert [(v.value, v.overridable) for v in step.optimizer.learning_rate.values] == [(0.25, True)]


def test_a_text_that_is_not_known_evaluates_to_nothing_known(read):
    train = """
        import torch
        net = eval("torch.nn." + input())(3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer.step()
        """
    (optimizer,) = read("train.py", {"train.py": train}).optimizers
    assert optimizer.models == ()
