"""A slice holds what the model depends on, and nothing of data, loops and moves."""

from __future__ import annotations

from pathlib import Path

from gradlint.source.project import Project, SourceFile
from gradlint.source.script import Skipped
from gradlint.source.slice import slice_expression, slice_models
from gradlint.worker.protocol import Slice

HEAD = "import torch\nfrom torch import nn, optim\nfrom torchvision import datasets\n"
NET = (
    "class Net(nn.Module):\n    def __init__(self, width=8):\n        super().__init__()\n"
    "        self.fc = nn.Linear(4, width)\n"
)


def slices(text: str, tmp_path: Path) -> list[Slice | Skipped]:
    return slice_models(SourceFile(str(tmp_path / "train.py"), text), Project(tmp_path))


def only(text: str, tmp_path: Path) -> Slice:
    (found,) = slices(text, tmp_path)
    assert isinstance(found, Slice), found
    return found


def kept(sliced: Slice) -> list[str]:
    lines = sliced.text.split("\n")
    return [lines[s.line - 1].strip() for s in sliced.steps if s.action == "run"]


def test_data_loops_and_optimizers_are_left_out(tmp_path: Path) -> None:
    text = (
        HEAD
        + NET
        + (
            "train_set = datasets.MNIST('.', download=True)\nwidth = 16\nnet = Net(width).cuda()\n"
            "optimizer = optim.SGD(net.parameters(), lr=0.1)\nfor x, y in train_set:\n    net(x).sum().backward()\n"
        )
    )
    found = only(text, tmp_path)
    assert kept(found) == [
        "from torch import nn, optim",
        "class Net(nn.Module):",
        "width = 16",
        "net = Net(width).cuda()",
    ]
    assert (found.name, found.target, found.placeholders) == ("Net", "net", ())
    assert found.location is not None and found.location.line == 10


def test_sizes_from_data_are_labelled(tmp_path: Path) -> None:
    text = HEAD + NET + "data = datasets.CIFAR10('.')\nnet = Net(len(data.classes))\noptim.SGD(net.parameters(), 1)\n"
    found = only(text, tmp_path)
    assert [s.name for s in found.steps if s.action == "unknown"] == ["data"]
    assert found.placeholders == ("data (CIFAR10)",)


def test_initialisation_and_freezing_after_construction_are_kept(tmp_path: Path) -> None:
    text = (
        HEAD
        + NET
        + (
            "def start(m):\n    nn.init.zeros_(m.weight)\nnet = Net()\nnet.fc.apply(start)\n"
            "for p in net.parameters():\n    p.requires_grad = False\nnet.fc = nn.Linear(4, 2)\nnet.train()\n"
            "print(net)\noptim.SGD(net.parameters(), 1)\n"
        )
    )
    assert kept(only(text, tmp_path))[3:] == [
        "net = Net()",
        "net.fc.apply(start)",
        "for p in net.parameters():",
        "net.fc = nn.Linear(4, 2)",
    ]


def test_a_model_is_followed_through_arguments_to_its_caller(tmp_path: Path) -> None:
    text = (
        HEAD
        + NET
        + (
            "def train(model, rate):\n    opt = optim.SGD(model.parameters(), rate)\n"
            "def main(width):\n    net = Net(width)\n    train(net, 0.1)\n"
            "if __name__ == '__main__':\n    main(32)\n"
        )
    )
    found = only(text, tmp_path)
    assert found.target == "net"
    assert [(s.name, s.expression) for s in found.steps if s.action == "bind"] == [("width", "32")]


def test_a_model_in_a_trainer_class_is_an_attribute_of_self(tmp_path: Path) -> None:
    text = (
        HEAD
        + NET
        + (
            "class Trainer:\n    def __init__(self, width):\n        self.model = Net(width)\n"
            "        self.opt = optim.Adam(self.model.parameters())\nTrainer(12)\n"
        )
    )
    found = only(text, tmp_path)
    assert found.target == "self.model"
    assert [s.action for s in found.steps if s.scope][:3] == ["scope", "instance", "bind"]


def test_two_models_give_two_slices_in_source_order(tmp_path: Path) -> None:
    text = HEAD + NET + "g = Net(3)\nd = Net(5)\na = optim.SGD(d.parameters(), 1)\nb = optim.SGD(g.parameters(), 1)\n"
    assert [s.target for s in slices(text, tmp_path) if isinstance(s, Slice)] == ["g", "d"]


def test_a_class_that_nothing_constructs_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (found,) = slices(HEAD + NET, tmp_path)
    assert isinstance(found, Skipped)
    assert found.reason == "`Net` is defined but not constructed here"


def test_expressions_are_sliced_and_bad_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(HEAD + NET + "WIDTH = 9\nimport time\n")
    found = slice_expression("Net(WIDTH)", Project(tmp_path), str(path))
    assert isinstance(found, Slice)
    assert (found.name, "WIDTH = 9" in kept(found), "import time" in kept(found)) == ("Net", True, False)
    assert isinstance(slice_expression("Missing()", Project(tmp_path), str(path)), Skipped)
    assert isinstance(slice_expression("Net(", Project(tmp_path), str(path)), Skipped)
    assert isinstance(slice_expression("no colon", Project(tmp_path)), Skipped)


def test_local_names_of_functions_do_not_pull_in_what_is_called_alike(tmp_path: Path) -> None:
    text = (
        HEAD
        + NET
        + (
            "    def forward(self, x):\n        loss = self.fc(x)\n        return [x for x in (loss,)][0]\n"
            "x = open('data')\nloss = x.read()\nnet = Net()\noptim.SGD(net.parameters(), 1)\n"
        )
    )
    assert kept(only(text, tmp_path)) == ["from torch import nn, optim", "class Net(nn.Module):", "net = Net()"]


def test_what_functions_read_may_be_bound_below_the_model(tmp_path: Path) -> None:
    text = (
        HEAD
        + "def noise(n):\n    return Tensor(n)\n"
        + NET
        + (
            "    def forward(self, x):\n        return self.fc(x + noise(4))\nnet = Net()\n"
            "optim.SGD(net.parameters(), 1)\nTensor = torch.FloatTensor\nepochs = 3\n"
        )
    )
    found = kept(only(text, tmp_path))
    assert "Tensor = torch.FloatTensor" in found
    assert "epochs = 3" not in found


def test_collected_arguments_are_empty_where_nothing_is_passed(tmp_path: Path) -> None:
    text = (
        HEAD
        + NET
        + (
            "def make(*sizes, **options):\n    net = Net(*sizes, **options)\n    optim.SGD(net.parameters(), 1)\n"
            "    return net\n"
        )
    )
    steps = only(text, tmp_path).steps
    assert {(s.name, s.expression) for s in steps if s.action == "option"} == {("sizes", "()"), ("options", "{}")}


def test_parts_that_a_helper_makes_for_a_model_are_no_models(tmp_path: Path) -> None:
    text = (
        HEAD
        + "def block(n):\n    layers = nn.Sequential(nn.Linear(n, n), nn.ReLU())\n    return layers\n"
        + "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.a = block(3)\n"
        + "net = Net()\n"
    )
    assert [s.target for s in slices(text, tmp_path) if isinstance(s, Slice)] == ["net"]


def test_a_hydra_configuration_is_composed_from_its_files(tmp_path: Path) -> None:
    import json

    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "main.yaml").write_text(
        "defaults:\n  - model: small\nmodel:\n  depth: 3\nhead: ${model.width}\n"
    )
    (tmp_path / "conf" / "model" / "small.yaml").write_text("width: 7\ndepth: 2\n")
    text = (
        HEAD
        + NET
        + (
            "import hydra\n@hydra.main(version_base=None, config_path='conf', config_name='main')\ndef main(cfg):\n"
            "    net = Net(cfg.head)\n    optim.SGD(net.parameters(), 1)\nmain()\n"
        )
    )
    (step,) = [s for s in only(text, tmp_path).steps if s.action == "configuration"]
    assert json.loads(step.expression) == {"model": {"width": 7, "depth": 3}, "head": 7}


def test_what_is_done_to_a_model_between_its_optimizer_and_the_training_is_kept(tmp_path: Path) -> None:
    text = (
        HEAD
        + NET
        + (
            "net = Net()\noptimizer = optim.SGD(net.parameters(), lr=0.1)\nnet.fc.weight.data.fill_(0)\n"
            "def train():\n    net(x).sum().backward()\n"
            "for epoch in range(2):\n    train()\nnet.load_state_dict(torch.load('best.pt'))\n"
        )
    )
    assert kept(only(text, tmp_path))[-2:] == ["net = Net()", "net.fc.weight.data.fill_(0)"]


def test_what_comes_behind_an_optimizer_that_trains_nothing_here_is_left_out(tmp_path: Path) -> None:
    text = HEAD + NET + "net = Net()\noptimizer = optim.SGD(net.parameters(), lr=0.1)\nnet.fc.weight.data.fill_(0)\n"
    assert kept(only(text, tmp_path))[-1] == "net = Net()"
