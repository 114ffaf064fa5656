"""Training steps that run from a script but stand two files away, or behind one that never names torch."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from gradlint.cli import cli
from gradlint.source.project import Project
from gradlint.source.relevance import concerns_training

NETS = """
from torch import nn

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 16, batch_first=True)
    def forward(self, x):
        return self.gru(x)[0]
"""
ENGINE = """
def one_pass(net, optimizer, loader):
    for x, y in loader:
        optimizer.zero_grad()
        (net(x) - y).pow(2).mean().backward()
        optimizer.step()

def several_passes(net, optimizer, loader):
    for _ in range(3):
        one_pass(net, optimizer, loader)

def unused(net, optimizer, loader):
    net(loader).backward()
    optimizer.step()
"""
FIT = """
import torch
from engine import several_passes

def fit(net, loader):
    several_passes(net, torch.optim.Adam(net.parameters()), loader)
"""
RUN = """
import torch
from nets import *
from fit import *

fit(Reader(), torch.load("batches.pt"))
"""


def test_a_step_two_files_away_belongs_to_the_script_that_starts_it(read):
    script = read("run.py", {"run.py": RUN, "fit.py": FIT, "engine.py": ENGINE, "nets.py": NETS})
    steps = [(Path(s.optimizer_step.path).name, s.optimizer_step.line) for s in script.steps]
    assert steps == [("engine.py", 6)]
    (model,) = script.steps[0].models
    assert model.recurrence is not None


def test_the_model_of_a_helper_is_known_from_the_notebook_that_calls_it(tmp_path, monkeypatch):
    cells = ["import torch\nfrom nets import *\nfrom fit import *", "net = Reader()\nfit(net, torch.load('b.pt'))"]
    parts = [{"cell_type": "code", "source": c, "metadata": {}, "outputs": [], "execution_count": 1} for c in cells]
    notebook = json.dumps({"cells": parts, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    for name, text in {"fit.py": FIT, "engine.py": ENGINE, "nets.py": NETS, "run.ipynb": notebook}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    printed = CliRunner().invoke(cli, ["check", "--no-exec", "--select", "GL401", "run.ipynb"]).stdout
    assert "engine.py:6" in printed
    assert "`net` is recurrent (GRU)" in printed


def test_a_file_that_only_starts_a_training_elsewhere_is_read(tmp_path):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "trainer.py").write_text("import torch\n")
    (tmp_path / "main.py").write_text("from trainer import Trainer\nTrainer().train()\n")
    (tmp_path / "plain.py").write_text("import json\ntrain = json.load(open('a.json'))\n")
    project = Project(tmp_path)
    verdicts = {n: concerns_training(project.file(tmp_path / n), project) for n in ("main.py", "plain.py")}
    assert verdicts == {"main.py": True, "plain.py": False}
