"""Which files are read at all."""

from pathlib import Path

import pytest

from gradlint.source.project import Project
from gradlint.source.reader import read_models
from gradlint.source.relevance import concerns_training

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.body = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(depth)])

    def forward(self, x):
        return self.body(x)
"""


def project(folder: Path, **files: str) -> Project:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Project(folder)


@pytest.mark.parametrize(
    "imports",
    [
        "from net import Net",
        "import numpy as np, net\nNet = net.Net",
        "import os\nfrom net import (  # ours\n    Net,\n)",
        "from models.net import Net",
        "from models import net\nNet = net.Net",
        "from models import Net",
        "def main():\n    from net import Net",
    ],
)
def test_a_script_over_models_of_its_own_need_not_name_torch(tmp_path: Path, imports: str) -> None:
    """A script that only sets the depth of a model from another file is where the model becomes deep."""
    files = project(tmp_path, main=imports, net=NET, models__net=NET)
    (tmp_path / "models" / "__init__.py").write_text("from .net import Net\n")
    file = files.file(tmp_path / "main.py")
    assert file is not None
    assert concerns_training(file, files)


def test_its_models_are_read(tmp_path: Path) -> None:
    files = project(tmp_path, main="from net import Net\nnet = Net(depth=4)\n", net=NET)
    file = files.file(tmp_path / "main.py")
    assert file is not None
    (graph,) = read_models(file, files)
    assert sum(n.op == "tanh" for n in graph.nodes) == 4


def test_a_derived_class_in_a_file_without_torch_is_read(tmp_path: Path) -> None:
    derived = "from net import Net\nclass Deep(Net):\n    def __init__(self):\n        super().__init__(depth=5)\n"
    files = project(tmp_path, deep=derived, net=NET)
    file = files.file(tmp_path / "deep.py")
    assert file is not None
    assert [g.name for g in read_models(file, files)] == ["Deep"]


@pytest.mark.parametrize("text", ["import os\n", "from helper import load\n", "# torchlight\nimport numpy as np\n"])
def test_other_files_are_left_alone(tmp_path: Path, text: str) -> None:
    files = project(tmp_path, main=text, helper="from loader import net\nload = 1\n", loader="import torch\n")
    file = files.file(tmp_path / "main.py")
    assert file is not None
    assert not concerns_training(file, files)


def test_packages_that_import_each_other_come_to_an_end(tmp_path: Path) -> None:
    files = project(tmp_path, main="import a\n")
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"from {other} import *\n")
    file = files.file(tmp_path / "main.py")
    assert file is not None
    assert not concerns_training(file, files)
