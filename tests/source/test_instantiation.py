"""Models, optimizers and trainers that `hydra.utils.instantiate` makes of configuration files."""

from __future__ import annotations

import pytest

from gradlint.source.project import Project
from gradlint.source.reader import read_models

NETS = """
from torch import nn

class Reader(nn.Module):
    def __init__(self, width, depth, rate=0.5):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.lstm = nn.LSTM(width, width)
    def forward(self, x):
        for layer in self.layers:
            x = layer(x).sigmoid()
        return self.lstm(x)[0]

class Owner:
    def __init__(self, net, width):
        self.net = net
        self.width = width
"""
TRAIN = """
import hydra
import torch

@hydra.main(version_base=None, config_path="conf", config_name="train")
def main(cfg):
    fit(cfg)

def fit(cfg):
    net = hydra.utils.instantiate(cfg.model)
    optimizer = hydra.utils.instantiate(cfg.optimizer, params=net.parameters())
    for x, y in torch.load("batches.pt"):
        optimizer.zero_grad()
        (net(x) - y).pow(2).mean().backward()
        optimizer.step()

if __name__ == "__main__":
    main()
"""
CONF = {
    "conf/train.yaml": "defaults:\n  - _self_\n  - model: small\nwidth: 8\nscale: 3e-4\n"
    "optimizer:\n  _target_: torch.optim.AdamW\n  lr: ${scale}\n",
    "conf/model/small.yaml": "_target_: nets.Reader\nwidth: ${width}\ndepth: 12\n",
}


def test_a_model_and_its_optimizer_are_those_that_the_configuration_names(read):
    script = read("train.py", {"train.py": TRAIN, "nets.py": NETS, **CONF})
    (step,) = script.steps
    assert [m.classes for m in step.models] == [("nets.Reader",)]
    assert step.models[0].recurrence is not None
    assert step.models[0].location.line == 10
    assert step.optimizer.algorithms == ("AdamW",)
    rate = step.optimizer.learning_rate.only
    assert rate.value == 3e-4
    assert rate.overridable
    assert [m.name for m in script.models] == ["net"]


def test_the_graph_has_the_depth_that_the_configuration_gives(tmp_path, read):
    read("train.py", {"train.py": TRAIN, "nets.py": NETS, **CONF})
    project = Project(tmp_path)
    (graph,) = read_models(project.file(tmp_path / "train.py"), project, strict=True)
    assert graph.stopped_at is None
    assert [n.kind for n in graph.nodes].count("linear") == 12
    assert {p.shape for p in graph.parameters if p.name.startswith("layers")} == {(8, 8), (8,)}


def test_a_script_without_its_configuration_knows_neither(read):
    script = read("train.py", {"train.py": TRAIN, "nets.py": NETS})
    assert script.models == ()
    assert script.optimizers == ()


def test_what_the_configuration_leaves_open_is_unknown(tmp_path, read):
    conf = CONF | {"conf/model/small.yaml": "_target_: nets.Reader\nwidth: ${oc.env:WIDTH}\ndepth: ???\n"}
    read("train.py", {"train.py": TRAIN, "nets.py": NETS, **conf})
    project = Project(tmp_path)
    (graph,) = read_models(project.file(tmp_path / "train.py"), project, strict=True)
    assert all(p.shape is None or None in p.shape for p in graph.parameters if p.name.startswith("layers"))
    assert [n.kind for n in graph.nodes].count("linear") == 1


LIT = """
import torch
from lightning import LightningModule

class Lit(LightningModule):
    def __init__(self, net, optimizer):
        super().__init__()
        self.save_hyperparameters()
        self.net = net
    def training_step(self, batch, i):
        return self.net(batch).mean()
    def configure_optimizers(self):
        return self.hparams.optimizer(params=self.parameters())
"""
LIT_TRAIN = """
import hydra
from lightning import Trainer

@hydra.main(config_path="conf", config_name="train.yaml")
def main(cfg):
    model = hydra.utils.instantiate(cfg.model)
    trainer = hydra.utils.instantiate(cfg.trainer, logger=None)
    trainer.fit(model=model)

main()
"""
LIT_CONF = {
    "conf/train.yaml": "defaults:\n  - model: lit\n  - trainer: default\n  - experiment: null\n",
    "conf/trainer/default.yaml": "_target_: lightning.Trainer\ngradient_clip_val: 0.5\n",
    "conf/model/lit.yaml": "_target_: lit.Lit\n"
    "optimizer:\n  _target_: torch.optim.Adam\n  _partial_: true\n  lr: 0.02\n"
    "net:\n  _target_: nets.Reader\n  width: 4\n  depth: 2\n",
}


def test_a_partial_optimizer_and_a_trainer_of_lightning_are_followed(read):
    script = read("train.py", {"train.py": LIT_TRAIN, "lit.py": LIT, "nets.py": NETS, **LIT_CONF})
    (step,) = script.steps
    assert (step.framework, step.clipping.bound.only.value) == ("lightning", 0.5)
    assert [v.value for v in step.optimizer.learning_rate.values] == [0.02]
    assert step.models[0].classes == ("lit.Lit",)
    assert step.models[0].recurrence is not None


def test_a_class_knows_what_configurations_pass_to_it(read):
    helper = "from nets import Reader\nimport torch\nclass Agent:\n    def __init__(self, cfg, rate):\n"
    helper += "        import hydra\n        self.net = hydra.utils.instantiate(cfg)\n"
    helper += "        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=rate)\n"
    helper += "    def update(self, x):\n        self.net(x).mean().backward()\n        self.optimizer.step()\n"
    train = (
        "import hydra\n@hydra.main(config_path='conf', config_name='train')\ndef main(cfg):\n"
        "    agent = hydra.utils.instantiate(cfg.agent, _recursive_=False)\n    agent.update(0)\n"
    )
    conf = {
        "conf/train.yaml": "agent:\n  _target_: agent.Agent\n  rate: 1e-3\n  cfg:\n    _target_: nets.Reader\n"
        "    width: 3\n    depth: 1\n"
    }
    script = read("agent.py", {"agent.py": helper, "train.py": train, "nets.py": NETS, **conf})
    (optimizer,) = script.optimizers
    assert [v.value for v in optimizer.learning_rate.values] == [1e-3]
    assert [m.classes for m in optimizer.models] == [("nets.Reader",)]


@pytest.mark.parametrize(
    ("files", "width"),
    [
        ({"conf/train.yaml": "defaults:\n  - net/wide\nwidth: 3\n", "conf/net/wide.yaml": "width: 9\n"}, 3),
        ({"conf/train.yaml": "defaults:\n  - net@_global_: wide\n", "conf/net/wide.yaml": "width: 9\n"}, 9),
        (
            {
                "conf/train.yaml": "defaults:\n  - net: wide\n",
                "conf/net/wide.yaml": "# @package _global_\nwidth: 9\n",
            },
            9,
        ),
        ({"conf/train.yaml": "defaults:\n  - net/x@: wide\nwidth: 2\n", "conf/net/x/wide.yaml": "width: 9\n"}, 2),
    ],
)
def test_groups_stand_under_the_package_that_they_are_given(read, files, width):
    train = (
        "import hydra, torch\nfrom nets import Reader\n@hydra.main(config_path='conf', config_name='train')\n"
        "def main(cfg):\n    net = Reader(4, 2)\n    optimizer = torch.optim.SGD(net.parameters(), lr=cfg.width)\n"
        "    net(0).backward()\n    optimizer.step()\n"
    )
    script = read("train.py", {"train.py": train, "nets.py": NETS, **files})
    assert [v.value for v in script.optimizers[0].learning_rate.values] == [width]


def test_groups_of_hydra_before_1_0_stand_at_the_top(read):
    train = (
        "import hydra, torch\n@hydra.main(config_path='conf/train.yaml', strict=True)\ndef main(cfg):\n"
        "    net = hydra.utils.instantiate(cfg.reader)\n    net(0).backward()\n"
        "    torch.optim.SGD(net.parameters(), lr=cfg.lr).step()\n"
    )
    files = {
        "conf/train.yaml": "defaults:\n  - net: wide\nlr: 0.5\n",
        "conf/net/wide.yaml": "reader:\n  class: nets.Reader\n  params:\n    width: 9\n    depth: 1\n",
    }
    script = read("train.py", {"train.py": train, "nets.py": NETS, **files})
    assert [m.classes for m in script.models] == [("nets.Reader",)]
    assert [v.value for v in script.optimizers[0].learning_rate.values] == [0.5]
