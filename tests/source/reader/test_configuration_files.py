"""Numbers of a model that stand in a configuration file."""

from pathlib import Path

import pytest

from gradlint.source.project import Project, SourceFile
from gradlint.source.reader import read_models
from tests.source.reader.test_entrances import HEADER, ops

NET = """
class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(8, 8) for _ in range(depth)])
    def forward(self, x):
        return self.layers(x)
"""


@pytest.mark.parametrize(
    "loading",
    [
        "import yaml\nwith open('conf/net.yaml') as f:\n    cfg = yaml.safe_load(f)\nnet = Net(cfg['net']['depth'])",
        "import yaml\ncfg = yaml.load(open('conf/net.yaml'), Loader=yaml.FullLoader)\nnet = Net(cfg['net']['depth'])",
        "import json\ncfg = json.load(open('conf/net.json', 'r'))\nnet = Net(**cfg['net'])",
        "import toml\ncfg = toml.load('conf/net.toml')\nnet = Net(cfg['net']['depth'])",
        "from omegaconf import OmegaConf\ncfg = OmegaConf.load('conf/net.yaml')\nnet = Net(cfg.net.depth)",
        "import yaml\nfrom easydict import EasyDict\n"
        "cfg = EasyDict(yaml.safe_load(open('conf/net.yaml')))\nnet = Net(cfg.net.depth)",
        "import argparse, yaml\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--config', default='conf/net.yaml')\nargs = parser.parse_args()\n"
        "def main():\n    with open(args.config) as f:\n        cfg = yaml.safe_load(f)\n"
        "    net = Net(cfg['net']['depth'])\n    return net\nmain()",
    ],
)
def test_a_model_is_as_deep_as_its_configuration_says(tmp_path: Path, loading: str) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "net.yaml").write_text("net:\n  depth: 3\n")
    (tmp_path / "conf" / "net.json").write_text('{"net": {"depth": 3}}')
    (tmp_path / "conf" / "net.toml").write_text("[net]\ndepth = 3\n")
    file = SourceFile(str(tmp_path / "train.py"), HEADER + NET + loading + "\n", module="train")
    (graph,) = read_models(file, Project(tmp_path), strict=True)
    assert ops(graph) == ["linear"] * 3


def test_a_configuration_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    loading = "import yaml\ncfg = yaml.safe_load(open('missing.yaml'))\nnet = Net(cfg['net']['depth'])\n"
    file = SourceFile(str(tmp_path / "train.py"), HEADER + NET + loading, module="train")
    (graph,) = read_models(file, Project(tmp_path), strict=True)
    assert ops(graph) != ["linear"] * 3
