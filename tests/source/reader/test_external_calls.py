"""Calls of torch, math and other libraries, and calls whose arguments are bound in every way."""

from pathlib import Path

import pytest

from gradlint.graph.model import ModelGraph
from gradlint.source.project import Project, SourceFile
from gradlint.source.reader import read_models

HEAD = (
    "import copy\nimport functools\nimport math\nimport torch\nfrom torch import nn\nimport torch.nn.functional as F\n"
)


def sizes(text: str) -> list[int | None]:
    """The number of outputs of each `nn.Linear` that a script's one model holds."""
    graphs = read_models(SourceFile("net.py", HEAD + text), Project(Path()), strict=True)
    return [p.shape[0] for p in graphs[0].parameters if p.name.endswith("weight") and p.shape]


CLASS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 4)

    def forward(self, x):
        {body}
Net()
"""


def graph_of(body: str) -> ModelGraph:
    text = CLASS.format(body=body)
    (graph,) = read_models(SourceFile("net.py", HEAD + text), Project(Path()), strict=True)
    return graph


def kinds(body: str) -> list[str]:
    return [n.op for n in graph_of(body).nodes if n.kind not in ("input", "output")]


@pytest.mark.parametrize(
    "size",
    [
        "int(math.sqrt(64))",
        "max(3, 8)",
        "len(range(8))",
        "2 ** 3",
        "16 // 2",
        "functools.reduce(lambda a, b: a * b, [2, 4])",
        "copy.deepcopy([8])[0]",
        "isinstance(nn.ReLU(), nn.ReLU) * 8",
        "(8 if torch.is_tensor(torch.zeros(2)) else 1)",
        "(lambda a, /, b=8, *c, d=1, **e: b)(1)",
        "(lambda a, *c, **e: c[1])(1, 2, 8)",
        "(lambda a, *c, d=1, **e: e['f'] + d)(1, f=6, d=2)",
        "(lambda *c, **e: len(c) + len(e))(*[1, 2, 3], **{'a': 1, 'b': 2}, c=3, d=4, e=5)",
    ],
)
def test_a_size_is_computed_as_python_computes_it(size: str) -> None:
    assert sizes(f"net = nn.Sequential(nn.Linear(4, {size}))\n") == [8]


@pytest.mark.parametrize("size", ["10 ** 10 ** 10", "1 << 10 ** 10", "1 / 0", "'a' * 3 - 1", "1 @ 2", "1.5 << 2"])
def test_a_size_that_python_cannot_compute_is_not_known(size: str) -> None:
    assert sizes(f"net = nn.Sequential(nn.Linear(4, {size}), nn.Linear(4, 3))\n") == [None, 3]


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("return F.relu(self.f(x))", ["linear", "relu"]),
        ("return torch.tanh(torch.utils.checkpoint.checkpoint(self.f, x))", ["linear", "tanh"]),
        ("return torch.nn.parallel.data_parallel(self.f, x)", ["linear"]),
        ("return torch.autograd.Variable(self.f(x))", ["linear"]),
        ("return self.f(x) if x is not None else x", ["linear"]),
        ("return nn.Tanh()(self.f(x))", ["linear", "tanh"]),
    ],
)
def test_a_call_of_torch_is_what_it_does(body: str, ops: list[str]) -> None:
    assert kinds(body) == ops


def test_a_call_of_something_that_is_not_known_is_noted() -> None:
    graph = graph_of("from elsewhere import thing\n        return thing(self.f(x))")
    assert [n.kind for n in graph.nodes] == ["input", "linear", "unknown", "output"]


def test_eval_and_super_see_the_names_around_them() -> None:
    assert sizes("def make(n):\n    return nn.Sequential(nn.Linear(4, eval('n * 2')))\nnet = make(4)\n") == [8]
