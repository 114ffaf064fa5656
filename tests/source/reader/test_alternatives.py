"""What the source reader makes of conditions, choices and lengths that the source does not tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.source.project import Project
from gradlint.source.reader import read_models
from tests.source.reader.test_source_reader import NORMED, graphs_of, ops


def kinds(graph):
    return [n.kind for n in graph.nodes if n.kind not in ("input", "output")]


def test_a_condition_that_is_not_known_gives_a_graph_for_each_answer():
    with_norm, without = graphs_of(NORMED)
    assert ops(without) == ["linear", "tanh"] * 3
    assert ops(with_norm) == ["linear", "batch_norm", "tanh"] * 3
    assert [g.assumed for g in (with_norm, without)] == [("`self.bn` is true",), ("`self.bn` is false",)]
    assert {g.confidence for g in (with_norm, without)} == {"low"}


def test_what_one_expression_equals_is_assumed_once():
    graphs = graphs_of("""
        class Net(nn.Module):
            def __init__(self, kind):
                super().__init__()
                self.kind = kind
                self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            def forward(self, x):
                if self.kind == "a":
                    x = torch.relu(self.a(x))
                elif self.kind in ("b", "bb"):
                    x = torch.tanh(self.b(x))
                if self.kind == "a":
                    x = torch.relu(x)
                return self.c(x)
    """)
    assert [ops(g) for g in graphs] == [
        ["linear", "relu", "relu", "linear"],
        ["linear", "tanh", "linear"],
        ["linear"],
    ]


def test_a_layer_under_a_condition_is_there_in_one_reading_only():
    there, away = graphs_of("""
        class Net(nn.Sequential):
            def __init__(self, norm):
                layers = [nn.Linear(8, 8)]
                if norm:
                    layers.append(nn.LayerNorm(8))
                super().__init__(*layers, nn.ReLU(), nn.Linear(8, 2))
    """)
    assert ops(there) == ["linear", "layer_norm", "relu", "linear"]
    assert ops(away) == ["linear", "relu", "linear"]


def test_a_dropout_under_a_condition_asks_nothing():
    (graph,) = graphs_of("""
        class Net(nn.Sequential):
            def __init__(self, rate):
                layers = [nn.Linear(8, 8), nn.ReLU()]
                if rate > 0:
                    layers.append(nn.Dropout(rate))
                super().__init__(*layers, nn.Linear(8, 2))
    """)
    assert ops(graph) == ["linear", "relu", "dropout", "linear"]
    assert not graph.assumed


def test_an_activation_that_is_not_known_is_the_same_one_in_all_layers():
    graphs = graphs_of("""
        def activation(name):
            if name == "relu":
                return nn.ReLU()
            if name == "tanh":
                return nn.Tanh()
            raise ValueError(name)

        class Net(nn.Module):
            def __init__(self, name):
                super().__init__()
                self.net = nn.Sequential(
                    nn.Linear(8, 8), activation(name), nn.Linear(8, 8), activation(name), nn.Linear(8, 2)
                )
            def forward(self, x):
                return self.net(x)
    """)
    assert [ops(g) for g in graphs] == [["linear", op, "linear", op, "linear"] for op in ("relu", "tanh")]


def test_a_part_that_may_be_none_is_there_where_it_is_called():
    (graph,) = graphs_of("""
        class Net(nn.Module):
            def __init__(self, wide):
                super().__init__()
                self.fc = nn.Linear(8, 8) if wide else None
            def forward(self, x):
                return self.fc(x)
    """)
    assert ops(graph) == ["linear"]


def test_one_reading_leaves_nothing_behind_for_the_next():
    graphs = graphs_of("""
        class Net(nn.Module):
            def __init__(self, twice):
                super().__init__()
                self.twice = twice
                self.seen = []
                self.fc = nn.Linear(8, 8)
            def forward(self, x):
                self.seen.append(self.fc(x))
                if self.twice:
                    self.seen.append(torch.relu(self.seen[-1]))
                return torch.stack(self.seen).sum()
    """)
    assert [ops(g) for g in graphs] == [["linear", "relu", "stack", "sum"], ["linear", "stack", "sum"]]
    assert all(i < n.id for g in graphs for n in g.nodes for i in n.inputs)


LENGTHS = {
    "comprehension": "self.layers = nn.ModuleList([nn.Linear(w, w) for w in widths])",
    "append": "self.layers = nn.ModuleList()\n        for w in widths:\n"
    "            self.layers.append(nn.Linear(w, w))",
    "plus": "layers = []\n        for w in widths:\n            layers += [nn.Linear(w, w)]\n"
    "        self.layers = nn.ModuleList(layers)",
}


@pytest.mark.parametrize("line", LENGTHS.values(), ids=LENGTHS.keys())
def test_layers_of_unknown_number_are_one_layer_and_a_loop(line):
    (graph,) = graphs_of(f"""
class Net(nn.Module):
    def __init__(self, widths):
        super().__init__()
        {line}
        self.head = nn.Linear(8, 2)
    def forward(self, x):
        for i in range(len(self.layers)):
            x = torch.relu(self.layers[i](x))
        return self.head(x)
""")
    assert ops(graph) == ["linear", "relu", "loop", "linear"]


def test_layers_of_unknown_number_in_a_sequential_end_in_a_loop():
    (graph,) = graphs_of("""
        class Net(nn.Module):
            def __init__(self, depth):
                super().__init__()
                self.net = nn.Sequential()
                for i in range(depth):
                    self.net.add_module(f"fc{i}", nn.Linear(8, 8))
                    self.net.add_module(f"act{i}", nn.Tanh())
                self.net.add_module("head", nn.Linear(8, 2))
            def forward(self, x):
                return self.net(x)
    """)
    assert ops(graph) == ["linear", "tanh", "loop", "linear"]


def test_a_sequential_without_layers_hands_its_input_on():
    (graph,) = graphs_of("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc, self.shortcut = nn.Linear(8, 8), nn.Sequential()
            def forward(self, x):
                return self.fc(x) + self.shortcut(x)
    """)
    assert ops(graph) == ["linear", "add"]


def test_a_list_made_within_a_loop_is_not_in_doubt_itself():
    (graph,) = graphs_of("""
        class Net(nn.Module):
            def __init__(self, depth):
                super().__init__()
                self.blocks = nn.ModuleList()
                for _ in range(depth):
                    block = []
                    block.append(nn.Linear(8, 8))
                    block.append(nn.ReLU())
                    self.blocks.append(nn.Sequential(*block))
            def forward(self, x):
                for block in self.blocks:
                    x = block(x)
                return x
    """)
    assert ops(graph) == ["linear", "relu", "loop"]


def test_what_a_loss_in_the_forward_judges_is_the_output():
    (graph,) = graphs_of("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(8, 8)
                self.criterion = nn.MSELoss()
            def forward(self, x):
                error = self.criterion(torch.sigmoid(self.fc(x)), x)
                return error, {"reconstruction": error}
    """)
    assert graph.stopped_at is None
    assert ops(graph) == ["linear", "sigmoid"]


def test_settings_declared_in_another_file_build_the_model(tmp_path: Path):
    (tmp_path / "settings.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Config:\n    width: int = 8\n    depth: int = 3\n"
    )
    (tmp_path / "model.py").write_text(
        "from torch import nn\nfrom settings import Config\n"
        "class Net(nn.Sequential):\n    def __init__(self, cfg: Config):\n"
        "        super().__init__(*[nn.Linear(cfg.width, cfg.width) for _ in range(cfg.depth)])\n"
    )
    project = Project(tmp_path)
    file = project.file(tmp_path / "model.py")
    assert file is not None
    (graph,) = read_models(file, project, strict=True)
    assert [n.shape for n in graph.of_kind("linear")] == [(None, 8)] * 3


def test_weights_loaded_back_after_training_are_not_a_pretrained_start():
    (graph,) = graphs_of("""
        net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        scale = nn.Parameter(torch.ones(1))
        x = torch.randn(4, 2)
        loss = torch.mean(scale * x) + net(x).mean()
        loss.backward()
        net.load_state_dict(torch.load("best.pt"))
    """)
    assert not graph.pretrained
    assert all(p.law.origin == "default" for p in graph.parameters)


def test_a_part_replaced_by_its_checkpoint_keeps_its_architecture():
    text = """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(2, 8), nn.Tanh())
            def forward(self, x):
                return self.body(x)
        net = Net()
        {}
        net.body = torch.load("body.pt")
    """
    (started,) = graphs_of(text.format(""))
    (trained,) = graphs_of(text.format("net(torch.randn(4, 2)).sum().backward()"))
    assert ops(started) == ops(trained) == ["linear", "tanh"]
    assert (started.pretrained, trained.pretrained) == (True, False)


@pytest.mark.parametrize(
    "test", ["torch.isnan(x.std())", "not torch.isfinite(x).all()", "torch.isnan(x).sum() > 0 or x.isinf().any()"]
)
def test_a_question_for_nan_leaves_nothing_open(test):
    (graph,) = graphs_of(f"""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
            def forward(self, x):
                for layer in self.layers:
                    x = layer(x)
                    if {test}:
                        break
                return x
    """)
    assert (ops(graph), graph.confidence) == (["linear"] * 3, "high")
