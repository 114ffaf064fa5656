"""Values that reach a model and its optimizer through objects made of a mapping, and through calls to come."""

from __future__ import annotations

import pytest

HEAD = """
import argparse
import importlib
import json
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import timm
import torch
from torch import nn
from torchvision import models
from transformers import AutoModelForSequenceClassification
"""
LOOP = """
for x, y in data:
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
"""
SETTINGS = (
    '{"name": "bert-base-uncased", "lr": 0.01, "net": {"pretrained": true}, "sgd": {"lr": 0.01, "momentum": 0.9}}'
)
BERT = """
net = AutoModelForSequenceClassification.from_pretrained({holder}.name)
optimizer = torch.optim.AdamW(net.parameters(), lr={holder}.lr)
"""
OPEN = 'json.load(open("settings.json"))'

HOLDERS = {
    "a namespace": f"kept = SimpleNamespace(**{OPEN})",
    "a namespace of argparse": f"kept = argparse.Namespace(**{OPEN})",
    "a dataclass": f"""
@dataclass
class Settings:
    name: str = "bert-base-cased"
    lr: float = 2e-5
    net: dict = None
    sgd: dict = None

kept = Settings(**{OPEN})
""",
    "a subclass of dict": f"""
class Dotted(dict):
    def __init__(self, *values, **more):
        super().__init__(*values, **more)
        for key, value in self.items():
            self[key] = Dotted(value) if isinstance(value, dict) else value
    __getattr__ = dict.get

kept = Dotted({OPEN})
""",
    "the dict of an object": """
class Settings:
    def __init__(self, path):
        with open(path) as file:
            self.__dict__.update(json.load(file))

kept = Settings("settings.json")
""",
    "setattr in a loop": f"""
class Settings:
    def __init__(self, table):
        for key, value in table.items():
            setattr(self, key, value)

kept = Settings({OPEN})
""",
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_an_object_made_of_a_mapping_holds_its_entries(read, holder):
    text = HEAD + HOLDERS[holder] + BERT.format(holder="kept") + LOOP
    script = read("train.py", {"train.py": text, "settings.json": SETTINGS})
    (optimizer,) = script.optimizers
    assert [v.value for v in optimizer.learning_rate.values] == [0.01]
    assert [m.pretrained.name for m in optimizer.models] == ["bert-base-uncased"]


def test_what_a_function_gets_in_a_mapping_and_hands_on_reaches_the_constructors(read):
    text = (
        HEAD
        + f"""
settings = {OPEN}

def make_net(classes, **more):
    net = models.resnet50(**more)
    net.fc = nn.Linear(2048, classes)
    return net

def make_optimizer(parameters, **more):
    return torch.optim.SGD(parameters, **more)

net = make_net(5, **settings["net"])
optimizer = make_optimizer(net.parameters(), **settings["sgd"])
"""
        + LOOP
    )
    (optimizer,) = read("train.py", {"train.py": text, "settings.json": SETTINGS}).optimizers
    assert [v.value for v in optimizer.learning_rate.values] == [0.01]
    assert [v.value for v in optimizer.momentum.values] == [0.9]
    (model,) = optimizer.models
    assert model.pretrained is not None
    assert model.pretrained.family == "cnn"


MAKERS = {
    "partial of a function": 'makers = {"r50": partial(models.resnet50, weights="DEFAULT")}\nnet = makers["r50"]()',
    "partial of a class": """
class Net(nn.Module):
    def __init__(self, name, pretrained):
        super().__init__()
        self.body = timm.create_model(name, pretrained=pretrained)
    def forward(self, x):
        return self.body(x)

net = partial(Net, pretrained=True)("resnet50")
""",
    "a dotted path": """
def made(settings):
    module, name = settings["path"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**settings.get("arguments", {}))

net = made({"path": "torchvision.models.resnet50", "arguments": {"pretrained": True}})
""",
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_call_to_come_makes_what_it_names(read, maker):
    text = HEAD + MAKERS[maker] + "\noptimizer = torch.optim.Adam(net.parameters(), lr=0.01)\n" + LOOP
    (optimizer,) = read("train.py", {"train.py": text}).optimizers
    (model,) = optimizer.models
    assert model.pretrained is not None
    assert (model.pretrained.family, model.pretrained.certain) == ("cnn", True)


@pytest.mark.parametrize(
    ("parameters", "saved", "given"),
    [
        ("lr=0.01, name='bert-base-uncased'", "", ""),
        ("settings", "settings", "{'lr': 0.01, 'name': 'bert-base-uncased'}"),
        ("**settings", "", "lr=0.01, name='bert-base-uncased'"),
    ],
)
def test_saved_hyperparameters_are_what_the_constructor_got(read, parameters, saved, given):
    text = (
        HEAD
        + f"""
import lightning

class Lit(lightning.LightningModule):
    def __init__(self, {parameters}):
        super().__init__()
        self.save_hyperparameters({saved})
        self.net = AutoModelForSequenceClassification.from_pretrained(self.hparams.name)
    def training_step(self, batch, i):
        return self.net(**batch).loss
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])

lightning.Trainer(max_epochs=3).fit(Lit({given}), data)
"""
    )
    script = read("train.py", {"train.py": text})
    (optimizer,) = script.optimizers
    assert [v.value for v in optimizer.learning_rate.values] == [0.01]
    assert {m.pretrained.name for m in script.models if m.pretrained} == {"bert-base-uncased"}
