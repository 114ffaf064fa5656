"""Through which functions data enters a model that has no `forward`."""

import textwrap
from pathlib import Path

import pytest

from gradlint.graph.model import ModelGraph
from gradlint.source.project import Project, SourceFile
from gradlint.source.reader import read_models

HEADER = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"

CODER = """
    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(40, 20), nn.Linear(20, 5)
            self.c, self.d = nn.Linear(5, 20), nn.Linear(20, 40)
            self.seen = []

        def encode(self, y):
            return self.b(torch.relu(self.a(y)))

        def decode(self, z):
            return self.d(torch.relu(self.c(z)))

        def keep(self, item):
            self.seen.append(item)
"""


def graphs_of(text: str) -> list[ModelGraph]:
    file = SourceFile("/nowhere/train.py", HEADER + textwrap.dedent(text), module="train")
    return read_models(file, Project(Path("/nowhere")), strict=True)


def ops(graph: ModelGraph) -> list[str]:
    return [n.op for n in graph.nodes if n.kind not in ("input", "output")]


def test_methods_that_join_layers_are_read_where_there_is_no_forward():
    graphs = graphs_of(CODER)
    assert [(g.name, ops(g)) for g in graphs] == [
        ("Coder.encode", ["linear", "relu", "linear"]),
        ("Coder.decode", ["linear", "relu", "linear"]),
    ]


def test_a_method_that_runs_others_is_read_in_their_place():
    both = CODER + "\n        def both(self, y):\n            return self.decode(self.encode(y))\n"
    (graph,) = graphs_of(both)
    assert (graph.name, ops(graph)) == ("Coder.both", ["linear", "relu", "linear"] * 2)


def test_parts_that_run_alone_are_read_alone():
    graphs = graphs_of("""
        class Pair(nn.Module):
            def __init__(self):
                super().__init__()
                self.actor = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
                self.critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

            def act(self, state):
                return torch.distributions.Categorical(logits=self.actor(state)).sample()
        """)
    assert [g.name for g in graphs] == ["Pair.actor", "Pair.critic"]


def test_a_call_written_in_place_of_forward_is_what_runs():
    (graph,) = graphs_of("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)])

            def __call__(self, x):
                for layer in self.layers:
                    x = layer(x)
                return x

        net = Net()
        """)
    assert ops(graph) == ["linear", "tanh", "linear"]


NET = """
    import os

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    class Solver:
        def restore(self):
            if os.path.exists("net.pt"):
                self.net.load_state_dict(torch.load("net.pt"))
"""

FIT = """
        def fit(self):
            self.net = Net()
            for x, y in self.batches:
                F.mse_loss(self.net(x), y).backward()
"""

TEST = """
        def test(self):
            self.net = Net()
            self.restore()
            return [self.net(x) for x in self.batches]
"""


def test_a_model_that_is_only_tested_holds_what_may_be_in_its_file():
    assert [g.pretrained for g in graphs_of(NET + FIT + TEST)] == [False, True]


def test_a_model_that_is_resumed_and_trained_may_start_anew():
    resumed = TEST.replace("return [self.net(x) for x in self.batches]", "self.net(self.x).sum().backward()")
    assert [g.pretrained for g in graphs_of(NET + FIT + resumed)] == [False, False]


def test_the_only_model_of_its_class_may_be_trained_elsewhere():
    assert [g.pretrained for g in graphs_of(NET + TEST)] == [False]


TRIED = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    net = Net()

    def restore():
        try:
            net.load_state_dict(torch.load("net.pt")["model"])
        except {caught}:
            {otherwise}

    def main():
        {start}
        for x, y in batches:
            {work}

    {run}
"""


@pytest.mark.parametrize(
    ("change", "pretrained"),
    [
        ({}, False),
        ({"caught": "(IOError, KeyError)", "otherwise": "pass"}, False),
        ({"otherwise": "raise"}, True),
        ({"otherwise": "raise SystemExit(2)"}, True),
        ({"otherwise": "sys.exit('no file')"}, True),
        ({"otherwise": 'net.load_state_dict(torch.load("net.pt"))'}, True),
        ({"caught": "KeyboardInterrupt"}, True),
        ({"work": "print(net(x))"}, True),
        ({"work": "print(net(x))", "otherwise": "raise"}, True),
        ({"start": 'net.load_state_dict(torch.load("base.pt"))'}, True),
        (
            {
                "start": 'net.load_state_dict(torch.load("base.pt"))',
                "run": "try:\n        main()\n    except Exception as e:\n        print(e)",
            },
            True,
        ),
        ({"run": "try:\n        main()\n    except Exception as e:\n        print(e)"}, False),
        ({"run": "try:\n        main()\n    except Exception as e:\n        print(e)", "otherwise": "raise"}, True),
    ],
)
def test_a_load_that_is_tried_before_the_training_may_find_nothing(change: dict[str, str], pretrained: bool) -> None:
    parts = {
        "caught": "Exception as e",
        "otherwise": "print('no file')",
        "start": "restore()",
        "work": "F.mse_loss(net(x), y).backward()",
        "run": "main()",
    }
    (graph,) = graphs_of(TRIED.format(**(parts | change)))
    assert graph.pretrained is pretrained
