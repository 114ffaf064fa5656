"""Containers whose parts are taken out or added after they were made: they hold what they hold in torch."""

import pytest

pytest.importorskip("torch")
from torch import nn

from gradlint.source.project import Project, SourceFile
from gradlint.source.reader import read_models

pytestmark = pytest.mark.torch

CHANGES = {
    "an item is deleted": "del net[1]",
    "the last is deleted": "del net[-1]",
    "a slice is deleted": "del net[:2]",
    "an item is taken out": "net.pop(1)",
    "the first goes and one comes": "del net[0]\nnet.append(nn.Tanh())",
    "what is taken out comes back": "net.append(net.pop(0))",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_sequential_is_read_as_torch_has_it(change: str, tmp_path) -> None:
    made = "net = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Softmax(1))\n" + change + "\n"
    names = {"nn": nn}
    exec(made, names)  # The reference is torch itself.
    (graph,) = read_models(SourceFile("/p/net.py", f"from torch import nn\n{made}"), Project(tmp_path))
    expected = [(name, type(part).__name__.lower()) for name, part in names["net"].named_children()]
    assert [(node.name, node.op) for node in graph.nodes if node.kind not in ("input", "output")] == expected
