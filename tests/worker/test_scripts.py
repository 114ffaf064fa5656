"""From a script as people write it to its model: what leads there is followed, what cannot be known is labelled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradlint.graph.model import ModelGraph
from gradlint.source.project import Project
from gradlint.source.read import read_script
from gradlint.source.slice import slice_models
from gradlint.worker.client import WorkerPool, find_torch
from gradlint.worker.protocol import Built, Failed, Limits, ModelJob, Slice

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(find_torch() is None, reason="needs torch"),
    pytest.mark.skipif(sys.platform == "win32", reason="a fresh interpreter a model is slow"),
]

NET = """
import torch
from torch import nn, optim
class Net(nn.Module):
    def __init__(self, width=4, depth=1):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])
    def forward(self, x):
        return self.layers(x)
"""
TRAIN = "for x, y in loader:\n    optimizer.zero_grad(); net(x).sum().backward(); optimizer.step()\n"


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool() as opened:
        yield opened


def built(pool: WorkerPool, folder: Path, files: dict[str, str], path: str = "train.py") -> list[Built | Failed]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    project = Project(folder)
    source = project.file(folder / path)
    assert source is not None
    answers = []
    for part in slice_models(source, project, read_script(source, project)):
        assert isinstance(part, Slice), part
        with pool.open(ModelJob(part, limits=Limits(60))) as session:
            answers.append(session.built)
    return answers


def graph_of(pool: WorkerPool, folder: Path, files: dict[str, str], path: str = "train.py") -> ModelGraph:
    (answer,) = built(pool, folder, files, path)
    assert isinstance(answer, Built), answer
    return answer.graph


def widths(graph: ModelGraph) -> list[int]:
    return [n.attributes["in_features"] for n in graph.nodes if n.kind == "linear"]


# ---- what leads to a model -------------------------------------------------------------------------------------


SAME_NET = {
    "a factory": "def build(width):\n    return Net(width, depth=2)\nnet = build(6)\n",
    "main and argparse": (
        "import argparse\ndef main():\n    parser = argparse.ArgumentParser()\n"
        "    parser.add_argument('--width', type=int, default=6)\n    args = parser.parse_args()\n"
        "    net = Net(args.width, 2)\n    optimizer = optim.SGD(net.parameters(), 0.1)\n"
        "if __name__ == '__main__':\n    main()\n"
    ),
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass Config:\n    width: int = 6\n    depth: int = 2\n"
        "config = Config()\nnet = Net(config.width, config.depth)\n"
    ),
    "packed arguments": (
        "import argparse\ndef train(width, depth=2, lr=0.1):\n    net = Net(width, depth)\n"
        "    optimizer = optim.SGD(net.parameters(), lr)\n"
        "parser = argparse.ArgumentParser()\nparser.add_argument('--width', type=int, default=6)\n"
        "train(**vars(parser.parse_args()))\n"
    ),
    "keywords that are handed on": (
        "def make(lr, **settings):\n    net = Net(**settings)\n    return optim.SGD(net.parameters(), lr)\n"
        "make(0.1, width=6, depth=2)\n"
    ),
    "a trainer that holds its model": (
        "class Trainer:\n    def __init__(self, width):\n        self.model = self.__make(width).cuda()\n"
        "        self.optimizer = optim.Adam(self.model.parameters())\n"
        "    def __make(self, width):\n        return Net(width, 2)\nTrainer(6)\n"
    ),
    "settings of a base class": (
        "class Base:\n    def __init__(self, width):\n        self.width = width\n"
        "class Trainer(Base):\n    def __init__(self, width):\n        super().__init__(width)\n"
        "    def fit(self):\n        self.net = Net(self.width, 2)\n"
        "        self.optimizer = optim.Adam(self.net.parameters())\nTrainer(6).fit()\n"
    ),
    "a fold of a cross-validation": (
        "from sklearn.model_selection import KFold\nfor fold, (train, test) in enumerate(KFold(5).split(range(100))):\n"
        "    net = Net(6, 2)\n    optimizer = optim.SGD(net.parameters(), 0.1)\n    for x in train:\n"
        "        net(x).backward()\n        optimizer.step()\n"
    ),
    "device moves and wrappers": (
        "device = torch.device('cuda:0')\ntorch.distributed.init_process_group('nccl')\n"
        "net = torch.compile(nn.DataParallel(Net(6, 2).to(device), device_ids=[0]))\n"
        "optimizer = optim.SGD(net.parameters(), 0.1)\n"
    ),
}


@pytest.mark.parametrize("name", SAME_NET)
def test_a_model_is_followed_through(pool: WorkerPool, tmp_path: Path, name: str) -> None:
    graph = graph_of(pool, tmp_path, {"train.py": NET + SAME_NET[name]})
    assert widths(graph) == [6, 6]
    assert not [p for p in graph.placeholders if p not in ("fold", "train", "test")]


ELSEWHERE = {
    "a file that is imported": {
        "train.py": "from nets.mlp import Net\nnet = Net(6, 2)\n",
        "nets/mlp.py": NET,
        "nets/__init__.py": "",
    },
    "a function that another file calls": {
        "train.py": NET
        + "def train(width, depth):\n    net = Net(width, depth)\n    optim.SGD(net.parameters(), 0.1)\n",
        "main.py": (
            "import argparse\nfrom train import train\nif __name__ == '__main__':\n"
            "    parser = argparse.ArgumentParser()\n    parser.add_argument('--width', type=int, default=6)\n"
            "    args = parser.parse_args()\n    train(args.width, depth=2)\n"
        ),
    },
    "a trainer that another file makes": {
        "train.py": NET
        + (
            "class Trainer:\n    def __init__(self, options):\n        self.options = options\n"
            "        self.net = Net(self.options['width'], 2)\n"
            "        self.optimizer = optim.SGD(self.net.parameters(), 1)\n"
        ),
        "run.py": "import train as t\ndef main(width):\n    return t.Trainer({'width': width})\nmain(6)\n",
    },
    "a module of a package": {
        "models/train.py": "from . import networks\nfrom torch import optim\nnet = networks.Net(6, 2)\n",
        "models/networks.py": NET,
        "models/models.py": "raise RuntimeError('not the package')\n",
        "models/__init__.py": "",
    },
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_model_is_followed_into_other_files(pool: WorkerPool, tmp_path: Path, name: str) -> None:
    path = next(p for p in ELSEWHERE[name] if p.endswith("train.py"))
    graph = graph_of(pool, tmp_path, ELSEWHERE[name], path)
    assert widths(graph) == [6, 6]
    assert graph.placeholders == ()


def test_several_models_are_several_graphs(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + (
        "actor, critic = Net(6), Net(8)\ngenerator = Net(10)\n"
        "a = optim.Adam(list(actor.parameters()) + list(critic.parameters()))\nb = optim.Adam(generator.parameters())\n"
    )
    answers = built(pool, tmp_path, {"train.py": text})
    assert sorted(widths(a.graph)[0] for a in answers if isinstance(a, Built)) == [6, 8, 10]


# ---- what cannot be known --------------------------------------------------------------------------------------


def test_a_setting_that_the_data_decide_is_a_labelled_placeholder(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + (
        "import argparse, pickle\ndef load(options):\n    data = pickle.load(open(options.data, 'rb'))\n"
        "    options.vocab_size = len(data['vocab'])\n    return data\n"
        "def main():\n    parser = argparse.ArgumentParser()\n    parser.add_argument('--data', required=True)\n"
        "    options = parser.parse_args()\n    loader = load(options)\n    net = Net(options.vocab_size)\n"
        "    optimizer = optim.Adam(net.parameters())\nmain()\n"
    )
    graph = graph_of(pool, tmp_path, {"train.py": text})
    assert "vocab_size" in graph.placeholders
    assert len(widths(graph)) == 1


@pytest.mark.parametrize(
    ("option", "rest"),
    [
        ("'--net', required=True", "if args.net == 'wide':\n    net = Net(6)\nelse:\n    raise SystemExit('which?')\n"),
        ("'--net', required=True, help='which one: wide|deep'", "net = {'wide': Net(6), 'deep': Net(4)}[args.net]\n"),
        ("'--net', required=True, choices=['wide', 'deep']", "net = Net({'wide': 6, 'deep': 4}[args.net])\n"),
        ("'net'", "net = Net(6) if args.net in ('wide', 'wider') else None\n"),
    ],
)
def test_a_required_option_takes_a_value_that_the_script_knows(
    pool: WorkerPool, tmp_path: Path, option: str, rest: str
) -> None:
    text = f"{NET}import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument({option})\n"
    graph = graph_of(pool, tmp_path, {"train.py": text + "args = parser.parse_args()\n" + rest})
    assert widths(graph) == [6]
    assert graph.placeholders == ("net",)


def test_of_branches_on_what_is_not_known_the_first_is_taken(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + (
        "def main(config):\n    if config.model == 'wide':\n        net = Net(6)\n    elif config.model == 'deep':\n"
        "        net = Net(4, 3)\n    optimizer = optim.Adam(net.parameters())\n"
    )
    graph = graph_of(pool, tmp_path, {"train.py": text})
    assert widths(graph) == [6]
    assert "config" in graph.placeholders


def test_data_that_are_not_there_become_tensors_of_the_invented_length(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "import torch, pandas_of_another_name as pd\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, weights):\n        super().__init__()\n        self.fc = nn.Linear(4, 2)\n"
        "        self.register_buffer('weights', torch.tensor(weights, dtype=torch.float32))\n"
        "    def forward(self, x):\n        return self.fc(x)\nnet = Net(pd.read_csv('w.csv').values)\n"
    )
    assert widths(graph_of(pool, tmp_path, {"train.py": text})) == [4]


# ---- what is not installed, or not any more --------------------------------------------------------------------


def test_a_statement_that_fails_does_not_take_its_module_with_it(pool: WorkerPool, tmp_path: Path) -> None:
    files = {
        "train.py": "from parts import Net\nnet = Net(6, 2)\n",
        "parts.py": "import json\nsettings = json.load(open('settings.json'))\nfrom json import gone\n" + NET,
    }
    assert widths(graph_of(pool, tmp_path, files)) == [6, 6]


def test_why_a_model_is_not_there_is_told_at_the_line_of_the_cause(pool: WorkerPool, tmp_path: Path) -> None:
    files = {
        "train.py": "from parts import *\nnet = Net(6)\n",
        "parts.py": "from nothing.of.ours import x\nraise_this = 1 / 0\nNet = wrapped(raise_this)\n",
    }
    (answer,) = built(pool, tmp_path, {**files, "train.py": "from parts import Net\nfrom torch import optim\n"
                                       "net = Net(6)\noptimizer = optim.Adam(net.parameters())\n"})  # fmt: skip
    assert isinstance(answer, Failed)
    assert answer.reason.startswith("NameError: name 'wrapped' is not defined")
    assert answer.location is not None and (Path(answer.location.path).name, answer.location.line) == ("parts.py", 3)


def test_code_that_is_prepared_for_a_missing_package_finds_it_missing(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + "try:\n    import not_installed_at_all\n    net = Net(99)\nexcept ImportError:\n    net = Net(6)\n"
    assert widths(graph_of(pool, tmp_path, {"train.py": text})) == [6]


def test_a_base_class_of_a_missing_package_adds_nothing(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + (
        "from not_installed_at_all import Mixin, registry\n@registry.register('net')\nclass Mine(Net, Mixin):\n"
        "    pass\nnet = Mine(6)\n"
    )
    assert widths(graph_of(pool, tmp_path, {"train.py": text})) == [6]


def test_names_of_python_2_still_build_a_model(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + "net = nn.Sequential(*[nn.Linear(6, 6) for _ in xrange(2)])\n"
    assert widths(graph_of(pool, tmp_path, {"train.py": text})) == [6, 6]


def test_a_loss_is_no_model(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + (
        "class FocalLoss(nn.Module):\n    def __init__(self, gamma):\n        super().__init__()\n"
        "    def forward(self, z, y):\n        return (z - y).mean()\nnet = Net(6)\ncriterion = FocalLoss(2.0)\n"
    )
    assert widths(graph_of(pool, tmp_path, {"train.py": text})) == [6]


def test_an_optional_argument_that_training_needs_is_given(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.conv = nn.Conv2d(3, 8, 3)\n"
        "        self.words = nn.Embedding(20, 8)\n        self.out = nn.Linear(8, 20)\n"
        "    def forward(self, images, captions=None):\n        h = self.conv(images).mean((2, 3))\n"
        "        if self.training:\n            return self.out(h[:, None] + self.words(captions[:, :-1]))\n"
        "        return self.out(h)\nnet = Net()\n"
    )
    graph = graph_of(pool, tmp_path, {"train.py": text})
    assert graph.input is not None and "captions=int64" in graph.input


def test_weights_that_come_from_data_count_as_pretrained(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "import torch, gensim_of_another_name as gensim\nfrom torch import nn\nvectors = gensim.load('glove')\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.words = nn.Embedding(20, 8)\n        self.words.weight = nn.Parameter(vectors)\n"
        "        self.more = nn.Embedding(20, 8)\n        self.more.weight.data.copy_(vectors)\n"
        "        self.fc = nn.Linear(8, 2)\n"
        "    def forward(self, ids):\n        return self.fc(self.words(ids) + self.more(ids))\nnet = Net()\n"
    )
    graph = graph_of(pool, tmp_path, {"train.py": text})
    laws = {p.name: p.law for p in graph.parameters}
    assert all(laws[f"{name}.weight"].distribution == "pretrained" for name in ("words", "more"))
    assert laws["fc.weight"].distribution == "uniform"


def test_a_model_without_a_forward_is_followed_through_its_method(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "import torch\nfrom torch import nn, optim\nfrom torch.distributions import Categorical\n"
        "class Agent(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.actor = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))\n"
        "        self.critic = nn.Linear(8, 1)\n"
        "    def get_value(self, x):\n        return self.critic(x)\n"
        "    def act(self, x):\n        with torch.no_grad():\n            return self.actor(x), self.critic(x)\n"
        "    def get_action_and_value(self, x, action=None):\n        policy = Categorical(logits=self.actor(x))\n"
        "        action = policy.sample() if action is None else action\n"
        "        return policy.log_prob(action), self.critic(x)\n"
        "agent = Agent()\noptimizer = optim.Adam(agent.parameters())\n"
    )
    graph = graph_of(pool, tmp_path, {"train.py": text})
    assert {n.module for n in graph.nodes if n.kind == "linear"} == {"actor.0", "actor.2", "critic"}
    assert any("`get_action_and_value` was followed" in note for note in graph.notes)


def test_a_module_is_found_where_the_project_keeps_it(pool: WorkerPool, tmp_path: Path) -> None:
    files = {
        "train.py": "from nets import Net\nfrom torch import optim\nnet = Net(6, 2)\noptim.SGD(net.parameters(), 1)\n",
        "lib/nets.py": NET,
        "old/deep/nets.py": "Net = None\n",
    }
    assert widths(graph_of(pool, tmp_path, files)) == [6, 6]


def test_a_page_of_widgets_shows_its_first_choices(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + (
        "import streamlit as st\nkind = st.sidebar.selectbox('Kind', ['wide', 'deep'])\n"
        "depth = st.slider('Depth', 1, 9, 3)\nnet = Net(6 if kind == 'wide' else 4, depth)\n"
    )
    assert widths(graph_of(pool, tmp_path, {"train.py": text})) == [6, 6, 6]


def test_names_that_a_loader_hands_back_are_all_placeholders(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + "from data import load_dataset\nwords, width, loader = load_dataset()\nnet = Net(width)\n"
    graph = graph_of(pool, tmp_path, {"train.py": text})
    assert "width (load_dataset)" in graph.placeholders


def test_a_definition_may_stand_below_its_use(pool: WorkerPool, tmp_path: Path) -> None:
    text = "from torch import nn, optim\nnet = Net(6, 2)\noptimizer = optim.SGD(net.parameters(), 0.1)\n" + NET
    assert widths(graph_of(pool, tmp_path, {"train.py": text})) == [6, 6]


def test_both_branches_that_make_the_model_are_seen(pool: WorkerPool, tmp_path: Path) -> None:
    text = NET + (
        "resume = False\nif resume:\n    net = Net(4)\n    optimizer = optim.SGD(net.parameters(), 0.1)\n"
        "else:\n    net = Net(6)\n    optimizer = optim.SGD(net.parameters(), 0.1)\n"
    )
    assert widths(graph_of(pool, tmp_path, {"train.py": text})) == [6]
