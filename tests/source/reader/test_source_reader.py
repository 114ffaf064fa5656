"""What the source reader makes of the ways in which people write models."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlint.graph.model import KINDS, ModelGraph
from gradlint.source.project import Project, SourceFile
from gradlint.source.reader import read_model, read_models

HEADER = (
    "import math\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\nfrom torch.nn import init\n"
)


def graphs_of(text: str, root: Path = Path("/nowhere"), header: str = HEADER) -> list[ModelGraph]:
    file = SourceFile(str(root / "train.py"), header + textwrap.dedent(text), module="train")
    return read_models(file, Project(root), strict=True)


def ops(graph: ModelGraph) -> list[str]:
    return [n.op for n in graph.nodes if n.kind not in ("input", "output")]


def only(text: str, root: Path = Path("/nowhere")) -> ModelGraph:
    (graph,) = graphs_of(text, root)
    assert {n.kind for n in graph.nodes} <= KINDS
    assert all(i < n.id for n in graph.nodes for i in n.inputs)
    return graph


MLP = ["linear", "relu", "linear"]

SAME_MLP = {
    "sequential arguments": "net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))",
    "unpacked list": "parts = [nn.Linear(4, 8), nn.ReLU()]\nparts += [nn.Linear(8, 2)]\nnet = nn.Sequential(*parts)",
    "ordered dict": """
        from collections import OrderedDict
        net = nn.Sequential(OrderedDict([("a", nn.Linear(4, 8)), ("b", nn.ReLU()), ("c", nn.Linear(8, 2))]))""",
    "add_module": """
        net = nn.Sequential()
        for i, m in enumerate([nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)]):
            net.add_module(f"m{i}", m)""",
    "append": "net = nn.Sequential(nn.Linear(4, 8))\nnet.append(nn.ReLU())\nnet.append(nn.Linear(8, 2))",
    "slice": "net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Sigmoid())[:-1]",
    "subclass of Sequential": """
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        net = Net()""",
    "function in a factory": """
        def mlp(sizes, act=nn.ReLU):
            layers = []
            for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:])):
                layers.append(nn.Linear(a, b))
                if i < len(sizes) - 2:
                    layers.append(act())
            return nn.Sequential(*layers)
        net = mlp([4, 8, 2])""",
}


@pytest.mark.parametrize("text", SAME_MLP.values(), ids=SAME_MLP.keys())
def test_every_way_to_write_a_sequential_gives_the_same_chain(text):
    graph = next(g for g in graphs_of(text) if g.stopped_at is None)
    assert ops(graph) == MLP
    assert [n.shape for n in graph.of_kind("linear")] == [(None, 8), (None, 2)]
    assert graph.traced_by == "source"


FORWARDS = {
    "functional": ("", "F.relu(self.a(x))"),
    "torch function": ("", "torch.relu(self.a(x))"),
    "method": ("", "self.a(x).relu()"),
    "in-place method": ("", "self.a(x).relu_()"),
    "inline module": ("", "nn.ReLU()(self.a(x))"),
    "attribute": ("self.act = nn.ReLU()", "self.act(self.a(x))"),
    "function attribute": ("self.act = F.relu", "self.act(self.a(x))"),
    "lambda": ("self.act = lambda t: F.relu(t)", "self.act(self.a(x))"),
    "dict of modules": ('self.act = {"relu": nn.ReLU(), "tanh": nn.Tanh()}[act]', "self.act(self.a(x))"),
    "getattr by name": ("self.act = getattr(F, act)", "self.act(self.a(x))"),
    "string compare": ("self.name = act", 'F.relu(self.a(x)) if self.name == "relu" else self.a(x)'),
    "setattr": ('setattr(self, "act1", nn.ReLU())', 'getattr(self, f"act{1}")(self.a(x))'),
    "dunder setattr": ('self.__setattr__("act1", nn.ReLU())', 'self.__getattr__("act1")(self.a(x))'),
    "module dict": ('self.acts = nn.ModuleDict({"relu": nn.ReLU()})', "self.acts[self.kind](self.a(x))"),
    "through the class": ("self.act = nn.ReLU()", "self.step(x)"),
}


@pytest.mark.parametrize(("init", "call"), FORWARDS.values(), ids=FORWARDS.keys())
def test_an_activation_is_found_however_it_is_called(init, call):
    graph = only(f"""
        class Net(nn.Module):
            kind = "relu"
            def __init__(self, act="relu"):
                super().__init__()
                self.a = nn.Linear(4, 8)
                self.b = nn.Linear(8, 2)
                {init}
            def step(self, x):
                return self.act(self.a(x))
            def forward(self, x):
                return self.b({call})
        net = Net()
    """)
    assert ops(graph) == MLP


def test_a_module_list_loop_is_unrolled_and_named_as_torch_names_it():
    graph = only("""
        class Net(nn.Module):
            def __init__(self, depth=3):
                super().__init__()
                self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))
                self.act = nn.Tanh()
            def forward(self, x):
                for layer in self.layers:
                    x = self.act(layer(x))
                return x
        net = Net(depth=4)
    """)
    assert [n.name for n in graph.of_kind("linear")] == [f"layers.{i}" for i in range(4)]
    assert [n.name for n in graph.of_kind("activation")] == ["act", "act#2", "act#3", "act#4"]
    assert {n.module for n in graph.of_kind("activation")} == {"act"}


NORMED = """
    class Net(nn.Module):
        def __init__(self, bn):
            super().__init__()
            self.bn = bn
            self.fcs, self.bns = [], []
            for i in range(3):
                fc = nn.Linear(8, 8)
                setattr(self, f"fc{i}", fc)
                self.fcs.append(fc)
                if self.bn:
                    norm = nn.BatchNorm1d(8)
                    setattr(self, f"bn{i}", norm)
                    self.bns.append(norm)
        def forward(self, x):
            for i in range(3):
                x = self.fcs[i](x)
                if self.bn:
                    x = self.bns[i](x)
                x = torch.tanh(x)
            return x
"""


def test_one_class_with_and_without_norm_gives_two_graphs():
    with_norm, without = graphs_of(NORMED + "    nets = [Net(bn=b) for b in (True, False)]\n")
    assert len(list(with_norm.of_kind("normalization"))) == 3
    assert not list(without.of_kind("normalization"))
    assert [n.name for n in without.of_kind("linear")] == ["fc0", "fc1", "fc2"]


def test_a_library_model_is_never_invented():
    (graph,) = graphs_of("import torchvision\nmodel = torchvision.models.resnet50(weights='DEFAULT')\n")
    assert graph.stopped_at is not None
    assert graph.pretrained
    assert [n.kind for n in graph.nodes if n.kind not in ("input", "output")] == ["unknown"]


SKIPS = {
    "plus": "x = x + y",
    "in place": "y += x\nx = y",
    "torch.add": "x = torch.add(x, y)",
    "method": "x = y.add_(x)",
    "cat": "x = self.mix(torch.cat([x, y], dim=1))",
}


@pytest.mark.parametrize("line", SKIPS.values(), ids=SKIPS.keys())
def test_a_skip_joins_both_branches(line):
    body = textwrap.indent(line, " " * 12)
    graph = only(
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.stem = nn.Conv2d(3, 8, 3)\n"
        "        self.conv = nn.Conv2d(8, 8, 3, padding=1)\n"
        "        self.mix = nn.Conv2d(16, 8, 1)\n"
        "    def forward(self, x):\n"
        "        x = self.stem(x)\n"
        "        for _ in range(2):\n"
        "            y = F.relu(self.conv(x))\n"
        f"{body}\n"
        "        return x\n"
        "net = Net()\n"
    )
    joins = [n for n in graph.nodes if n.kind in ("add", "cat")]
    assert len(joins) == 2
    assert all(len(set(n.inputs)) == 2 for n in joins)


HAND_WRITTEN = {
    "std": "(x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 1e-5)",
    "var": "(x - x.mean(0)) / torch.sqrt(x.var(0) + 1e-5)",
    "mean of squares": "(x - x.mean(0)) / torch.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-5)",
    "rsqrt": "x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)",
}


@pytest.mark.parametrize("expression", HAND_WRITTEN.values(), ids=HAND_WRITTEN.keys())
def test_normalisation_by_hand_is_a_normalization(expression):
    graph = only(f"""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(4, 8)
            def forward(self, x):
                x = self.a(x)
                return {expression}
        net = Net()
    """)
    assert [n.kind for n in graph.nodes] == ["input", "linear", "normalization", "output"]


def test_a_gate_multiplies_two_branches_and_keeps_its_sigmoid():
    graph = only("""
        class SE(nn.Module):
            def __init__(self, c):
                super().__init__()
                self.fc1, self.fc2 = nn.Conv2d(c, c // 4, 1), nn.Conv2d(c // 4, c, 1)
            def forward(self, x):
                w = F.adaptive_avg_pool2d(x, 1)
                return x * torch.sigmoid(self.fc2(F.relu(self.fc1(w))))
        net = SE(16)
    """)
    (mul,) = graph.of_kind("mul")
    assert {graph.nodes[i].op for i in mul.inputs} == {"input", "sigmoid"}


def test_an_encoder_layer_shows_its_skips_and_norms():
    graph = only("net = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4), num_layers=2)")
    assert len(list(graph.of_kind("add"))) == 4
    assert len(list(graph.of_kind("normalization"))) == 4
    laws = [graph.weight_law(n) for n in graph.of_kind("linear")]
    assert laws[0].draw is not None and laws[0].draw == laws[2].draw
    assert all(n.best_location.path.endswith("train.py") for n in graph.of_kind("linear"))


def test_a_loop_over_time_is_one_recurrence_in_a_loop():
    graph = only("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.LSTMCell(8, 16)
            def forward(self, x):
                h = torch.zeros(x.size(0), 16)
                c = torch.zeros(x.size(0), 16)
                for t in range(x.size(1)):
                    h, c = self.cell(x[:, t], (h, c))
                return h
        net = Net()
    """)
    (cell,) = graph.of_kind("recurrent")
    assert cell.op == "lstm" and cell.attributes["cell"] is True and cell.attributes["hidden_size"] == 16


def test_a_net_in_another_file_is_read_with_the_arguments_of_the_call(tmp_path):
    (tmp_path / "blocks.py").write_text(
        HEADER
        + textwrap.dedent("""
        class Block(nn.Module):
            def __init__(self, c):
                super().__init__()
                self.conv = nn.Conv2d(c, c, 3, padding=1)
            def forward(self, x):
                return x + F.relu(self.conv(x))
    """)
    )
    (tmp_path / "train.py").write_text(
        HEADER
        + "from blocks import Block\ndef main():\n    net = nn.Sequential(*[Block(16) for _ in range(3)])\nmain()\n"
    )
    project = Project(tmp_path)
    file = project.file(tmp_path / "train.py")
    assert file is not None
    (graph,) = read_models(file, project, strict=True)
    assert ops(graph) == ["conv2d", "relu", "add"] * 3
    assert {Path(n.constructor.path).name for n in graph.of_kind("conv")} == {"blocks.py"}
    assert read_model(file, project, "Sequential") == graph
    assert graph.location is not None and read_model(file, project, graph.location) == graph


def test_a_module_imported_by_a_partly_known_name_is_read_for_each_candidate(tmp_path):
    (tmp_path / "models").mkdir()
    for name, act in (("A", "relu"), ("B", "tanh")):
        (tmp_path / "models" / f"{name}.py").write_text(
            HEADER
            + "class Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            + "        self.fc = nn.Linear(4, 8)\n    def forward(self, x):\n"
            + f"        return torch.{act}(self.fc(x))\n"
        )
    (tmp_path / "run.py").write_text(
        "import argparse\nimport torch.nn as nn\nfrom importlib import import_module\n"
        "parser = argparse.ArgumentParser()\nparser.add_argument('--model', required=True)\n"
        "args = parser.parse_args()\nname = args.model\nx = import_module('models.' + name)\nmodel = x.Model()\n"
        "if name != 'A':\n    nn.init.xavier_normal_(model.fc.weight)\n"
    )
    project = Project(tmp_path)
    file = project.file(tmp_path / "run.py")
    assert file is not None
    first, second = read_models(file, project, strict=True)
    assert [ops(g)[1] for g in (first, second)] == ["relu", "tanh"]
    assert [g.parameter["fc.weight"].law.origin for g in (first, second)] == ["default", "explicit"]


NET = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(100, 50)
            self.fc2 = nn.Linear(50, 10)
            {inside}
        def _init_weights(self, m):
            if isinstance(m, nn.Linear):
                m.weight.data.normal_(0.0, 0.02)
        def forward(self, x):
            return self.fc2(F.relu(self.fc1(x)))
    def weights_init(m):
        classname = m.__class__.__name__
        if classname.find("Linear") != -1:
            nn.init.normal_(m.weight, 0.0, 0.02)
    def by_name(model):
        for name, p in model.named_parameters():
            if "weight" in name:
                nn.init.normal_(p, std=0.02)
    net = Net()
    {after}
"""

SAME_INIT = {
    "apply a function": ("", "net.apply(weights_init)"),
    "apply a lambda": ("", "net.apply(lambda m: m.weight.data.normal_(0, 0.02) if type(m) == nn.Linear else None)"),
    "self.apply": ("self.apply(self._init_weights)", ""),
    "modules of self": ("for m in self.modules(): self._init_weights(m)", ""),
    "children": ("", "for m in net.children(): weights_init(m)"),
    "by name": ("", "by_name(net)"),
    "old spelling": ("", "for m in [net.fc1, net.fc2]: init.normal(m.weight, mean=0, std=0.02)"),
    "new data": ("self.fc1.weight.data = torch.randn(50, 100) * 0.02", ""),
    "copy_": ("self.fc1.weight.data.copy_(torch.randn(50, 100) * 0.02)", ""),
    "new parameter": ("self.fc1.weight = nn.Parameter(0.02 * torch.randn(50, 100))", ""),
    "arithmetic": ("self.fc1.weight.data.normal_(0, 2 / math.sqrt(10000))", ""),
    "the last call wins": ("self.apply(self._init_weights)", "pass"),
}


@pytest.mark.parametrize(("inside", "after"), SAME_INIT.values(), ids=SAME_INIT.keys())
def test_an_init_idiom_gives_its_law(inside, after):
    graph = only(NET.format(inside=inside, after=after))
    law = graph.parameter["fc1.weight"].law
    assert law is not None and law.origin == "explicit" and law.location is not None
    assert (law.mean, law.std) == (0.0, pytest.approx(0.02))
    assert law.fan_in == 100
    assert law.gain_squared == pytest.approx(100 * 0.02**2)


def test_a_helper_that_is_defined_and_never_called_changes_nothing():
    law = only(NET.format(inside="", after="")).parameter["fc1.weight"].law
    assert law is not None and law.origin == "default"
    assert law.gain_squared == pytest.approx(1 / 3)


def test_an_init_under_a_condition_that_is_not_known_leaves_the_law_unknown():
    law = (
        only(NET.format(inside="", after="import sys\n    if len(sys.argv) > 1: net.apply(weights_init)"))
        .parameter["fc1.weight"]
        .law
    )
    assert law is not None and law.distribution == "unknown" and law.std is None


LAWS = {
    "kaiming_normal_(w)": 2 / 100,
    "kaiming_uniform_(w, nonlinearity='relu')": 2 / 100,
    "kaiming_normal_(w, mode='fan_out')": 2 / 50,
    "kaiming_uniform_(w, a=math.sqrt(5))": 1 / 300,
    "xavier_uniform_(w)": 2 / 150,
    "xavier_normal_(w, gain=nn.init.calculate_gain('tanh'))": 2 / 150 * 25 / 9,
    "orthogonal_(w)": 1 / 100,
    "uniform_(w, -0.1, 0.1)": 0.01 / 3,
    "constant_(w, 0.3)": 0.0,
    "zeros_(w)": 0.0,
}


@pytest.mark.parametrize(("call", "variance"), LAWS.items(), ids=LAWS.keys())
def test_the_variance_of_an_init_function_is_pytorchs(call, variance):
    law = only(NET.format(inside="w = self.fc1.weight", after="") + "").parameter["fc1.weight"].law
    assert law is not None and law.origin == "default"
    graph = only(NET.format(inside=f"w = self.fc1.weight; nn.init.{call}", after=""))
    law = graph.parameter["fc1.weight"].law
    assert law is not None and law.std is not None
    assert law.std**2 == pytest.approx(variance)


@pytest.mark.torch
@pytest.mark.parametrize("call", [c for c in LAWS if not c.startswith(("constant", "zeros"))])
def test_the_laws_agree_with_what_torch_draws(call):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    w = torch.empty(50, 100)
    exec(f"nn.init.{call}", {"nn": torch.nn, "w": w, "math": math})
    graph = only(NET.format(inside=f"w = self.fc1.weight; nn.init.{call}", after=""))
    law = graph.parameter["fc1.weight"].law
    assert law is not None and law.std == pytest.approx(float(w.std()), rel=0.06)


def test_unknown_widths_keep_the_default_gain():
    (graph,) = graphs_of("""
        class Net(nn.Module):
            def __init__(self, n_in, n_out):
                super().__init__()
                self.fc = nn.Linear(n_in, n_out)
            def forward(self, x):
                return torch.sigmoid(self.fc(x))
    """)
    law = graph.parameter["fc.weight"].law
    assert law is not None and law.std is None and law.fan_in is None
    assert law.gain_squared == pytest.approx(1 / 3)


def test_a_checkpoint_marks_the_model_pretrained():
    graph = only(NET.format(inside="", after='net.load_state_dict(torch.load("a.pt"))'))
    assert graph.pretrained
    assert graph.parameter["fc1.weight"].law.origin == "pretrained"


def test_argparse_defaults_decide_and_data_loops_end():
    graph = only("""
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--hidden-size", type=int, default=12)
        args = parser.parse_args()
        net = nn.Linear(4, args.hidden_size)
        total = 0
        for i in range(10**9):
            total += i
    """)
    assert graph.nodes[1].shape == (None, 12)


@pytest.mark.parametrize(
    "text",
    [
        "x = 10 ** 10 ** 10",
        "def f(n): return f(n + 1)\nf(0)",
        "class A(nn.Module):\n    def forward(self, x):\n        return self.forward(x)\nA()",
        "class A(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.a = self\n"
        "        self.b = nn.Linear(1, 1)\n    def forward(self, x):\n        return self.a(x)\nA()",
        "net = nn.Sequential(None, 3, 'x', *range(3), nn.Linear())",
        "net = nn.Conv2d('a', [], kernel_size={})\nnet(1)(2)[3].x = 4",
        "while True: pass",
        "x: int\ndel x\nraise x",
        "from . import *\nfrom .. import y\nimport a.b.c as d",
        "net = nn.Sequential(nn.Flatten(9), nn.Linear(0, 0), nn.MaxPool2d(0), nn.Conv2d(1, 1, 0, stride=0))",
    ],
)
def test_nonsense_is_survived(text):
    graphs_of(text)


NAMES = st.from_regex(r"[a-z][a-z_]{3,8}q", fullmatch=True)


@settings(max_examples=30, deadline=None)
@given(cls=NAMES, attribute=NAMES, argument=NAMES, alias=NAMES, depth=st.integers(1, 6))
def test_renaming_and_aliasing_change_nothing_but_names(cls, attribute, argument, alias, depth):
    if len({cls, attribute, argument, alias}) < 4:
        return

    def source(cls: str, attribute: str, argument: str, alias: str) -> str:
        return (
            f"import torch.nn as {alias}\nfrom torch.nn import functional as F\n"
            f"class {cls}({alias}.Module):\n"
            f"    def __init__(self, {argument}=3):\n"
            f"        super({cls}, self).__init__()\n"
            f"        self.{attribute} = {alias}.ModuleList([{alias}.Linear(8, 8) for _ in range({argument})])\n"
            "    def forward(self, t):\n"
            f"        for layer in self.{attribute}:\n"
            "            t = t + F.gelu(layer(t))\n"
            "        return t\n"
            f"model = {cls}({argument}={depth})\n"
        )

    (plain,) = graphs_of(source("Net", "layers", "n", "nn"), header="")
    (renamed,) = graphs_of(source(cls, attribute, argument, alias), header="")
    assert [(n.kind, n.op, n.inputs, n.shape, n.attributes) for n in plain.nodes] == [
        (n.kind, n.op, n.inputs, n.shape, n.attributes) for n in renamed.nodes
    ]
    assert [p.law for p in plain.parameters] == [p.law for p in renamed.parameters]
    assert len(list(plain.of_kind("add"))) == depth


def test_layer_sizes_in_a_numpy_array_are_known():
    (graph,) = graphs_of(
        """
        import numpy as np

        class Net(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.layers = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1]) for i in range(len(sizes) - 1))

            def forward(self, x):
                for layer in self.layers[:-1]:
                    x = torch.tanh(layer(x))
                return self.layers[-1](x)

        sizes = np.array([2, 20, 20, 1])
        net = Net(np.asarray(sizes * 2))
        """
    )
    assert [n.attributes["in_features"] for n in graph.of_kind("linear")] == [4, 40, 40]
    assert ops(graph).count("tanh") == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("3, 8, 5", ["conv2d", "batch_norm", "relu"]),
        ("3, 8, 5, norm_layer=None", ["conv2d", "relu"]),
        ("3, 8, 5, 1, None, 1, nn.InstanceNorm2d, nn.SiLU", ["conv2d", "instance_norm", "silu"]),
        ("3, 8, 5, activation_layer=None", ["conv2d", "batch_norm"]),
    ],
)
def test_convolution_blocks_of_torchvision_are_read_as_their_layers(arguments, expected):
    (graph,) = graphs_of(
        f"""
        from torchvision.ops.misc import Conv2dNormActivation

        net = nn.Sequential(Conv2dNormActivation({arguments}), nn.Flatten(), nn.Linear(8, 2))
        """
    )
    assert ops(graph)[: len(expected)] == expected
    (conv,) = graph.of_kind("conv")
    assert conv.attributes["padding"] == 2
    assert ("bias" in conv.parameters) is ("norm" not in expected[1])


def test_containers_of_layers_are_added_to_each_other():
    (graph,) = graphs_of(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList()
                for _ in range(2):
                    self.layers += [nn.Linear(8, 8)]
                    self.layers += [nn.Tanh()]
                self.tail = nn.Sequential(nn.Linear(8, 8)) + nn.Sequential(nn.ReLU())
                self.tail += nn.Sequential(nn.Linear(8, 8))
                self.more = nn.ModuleList([nn.Sigmoid()]) + [nn.Linear(8, 2)]

            def forward(self, x):
                for layer in [*self.layers, self.tail, *self.more]:
                    x = layer(x)
                return x

        net = Net()
        """
    )
    assert ops(graph) == ["linear", "tanh", "linear", "tanh", "linear", "relu", "linear", "sigmoid", "linear"]


def test_noise_of_one_law_is_one_noise_on_either_device():
    (graph,) = graphs_of(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.mean, self.out = nn.Linear(8, 4), nn.Linear(4, 8)

            def forward(self, x):
                mean = self.mean(x)
                if torch.cuda.is_available():
                    noise = torch.cuda.FloatTensor(mean.size()).normal_()
                else:
                    noise = torch.FloatTensor(mean.size()).normal_()
                return self.out(mean + noise.mul(mean.exp()))

        net = Net()
        """
    )
    assert graph.stopped_at is None
    assert "add" in ops(graph)
    assert not any(n.kind == "unknown" for n in graph.nodes)


def test_an_init_by_class_pattern_reaches_the_layers_of_that_class():
    (graph,) = graphs_of(
        """
        def init(module):
            match module:
                case nn.Conv2d() | nn.ConvTranspose2d():
                    nn.init.zeros_(module.weight)
                case nn.Linear():
                    nn.init.normal_(module.weight, std=0.01)

        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        net.apply(init)
        """
    )
    assert [graph.weight_law(n).std for n in graph.of_kind("linear")] == [0.01, 0.01]
