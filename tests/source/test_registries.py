"""Networks that decorators register, and what takes them out again by name."""

from __future__ import annotations

import pytest

from gradlint.source.project import Project
from gradlint.source.reader import read_models

NETS = """
from torch import nn
from {imported}

class Plain(nn.Module):
    def __init__(self, depth=1, num_classes=3, **kwargs):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(6, 6) for _ in range(depth)], nn.Linear(6, num_classes))
    def forward(self, x):
        return self.layers(x)

{decorated}

class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 1)
    def forward(self, x):
        return self.fc(x)
"""
OWN = """
class Registry:
    def __init__(self, name):
        self.name = name
        self._items = {}
    def register(self, name=None):
        def put(thing):
            self._items[name or thing.__name__] = thing
            return thing
        return put
    def get(self, name):
        return self._items[name]
    def build(self, cfg):
        options = dict(cfg)
        return self._items[options.pop("type")](**options)

NETWORKS = Registry("networks")
"""
OUTSIDE = "from fvcore.common.registry import Registry\nNETWORKS = Registry('NETWORKS')\n"
TRAIN = """
import argparse
import torch
{imports}

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="deep")
parser.add_argument("--lr", type=float, default=0.2)
args = parser.parse_args()
net = {making}
optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
for x in torch.load("batches.pt"):
    optimizer.zero_grad()
    net(x).mean().backward()
    optimizer.step()
"""
DEEP = "def deep(pretrained=False, **kwargs):\n    return Plain(depth=5, **kwargs)\n"
CASES = {
    "timm": (
        "timm.models.registry import register_model",
        "@register_model\n" + DEEP,
        "from timm.models import create_model\nimport nets",
        "create_model(args.model, pretrained=False, num_classes=4, drop_path_rate=None)",
    ),
    "get": (
        "registry import NETWORKS",
        "@NETWORKS.register()\n" + DEEP,
        "from registry import NETWORKS\nimport nets",
        "NETWORKS.get(args.model)(num_classes=4)",
    ),
    "another name": (
        "registry import NETWORKS",
        '@NETWORKS.register("deep")\nclass Five(Plain):\n    def __init__(self, num_classes):\n'
        "        super().__init__(5, num_classes)\n",
        "from registry import NETWORKS\nimport nets",
        "NETWORKS.get(args.model)(num_classes=4)",
    ),
    "build": (
        "registry import NETWORKS",
        '@NETWORKS.register_module(name=["deep", "deeper"])\n' + DEEP,
        "from registry import NETWORKS\nimport nets",
        "NETWORKS.build(dict(type=args.model, num_classes=4))",
    ),
    "through a function": (
        "registry import NETWORKS",
        "@NETWORKS.register()\n" + DEEP,
        "from make import make\nimport nets",
        "make(args)",
    ),
}
MAKE = "from registry import NETWORKS\ndef make(args):\n    return NETWORKS.get(args.model)(num_classes=4)\n"


def project_of(case: str, registry: str) -> dict[str, str]:
    imported, decorated, imports, making = CASES[case]
    return {
        "train.py": TRAIN.format(imports=imports, making=making),
        "nets.py": NETS.format(imported=imported, decorated=decorated),
        "registry.py": registry,
        "make.py": MAKE,
    }


@pytest.mark.parametrize("registry", [OWN, OUTSIDE], ids=["own", "outside"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_registered_is_found_under_its_name(tmp_path, read, case, registry):
    files = project_of(case, registry)
    script = read("train.py", files)
    (step,) = script.steps
    wanted = "nets.Five" if case == "another name" else "nets.Plain"
    assert [m.classes for m in step.models] == [(wanted,)]
    assert step.models == step.optimizer.models
    project = Project(tmp_path)
    (graph,) = read_models(project.file(tmp_path / "train.py"), project, strict=True)
    assert graph.stopped_at is None
    assert [n.kind for n in graph.nodes].count("linear") == 6
    assert graph.parameters[-1].shape == (4,)


@pytest.mark.parametrize("case", ["timm", "get", "build"])
def test_a_name_that_is_registered_twice_or_never_stays_unknown(tmp_path, read, case):
    files = project_of(case, OUTSIDE)
    twice = files | {"others.py": files["nets.py"]}
    never = files | {"train.py": files["train.py"].replace('"deep"', '"wide"')}
    for changed in (twice, never):
        for other in tmp_path.glob("*.py"):
            other.unlink()
        assert all(m.model_class is None for m in read("train.py", changed).models)


def test_the_arguments_of_a_parser_are_also_those_of_its_parents(tmp_path, read):
    files = project_of("timm", OUTSIDE)
    text = files["train.py"].replace(
        "parser = argparse.ArgumentParser()\n", "parser = argparse.ArgumentParser(add_help=False)\n"
    )
    text = text.replace(
        "args = parser.parse_args()", "args = argparse.ArgumentParser('x', parents=[parser]).parse_args()"
    )
    script = read("train.py", files | {"train.py": text})
    assert script.steps[0].optimizer.learning_rate.only.value == 0.2
    project = Project(tmp_path)
    (graph,) = read_models(project.file(tmp_path / "train.py"), project, strict=True)
    assert [n.kind for n in graph.nodes].count("linear") == 6


def test_create_optimizer_of_timm_takes_its_rate_and_algorithm_from_the_arguments(read):
    text = """
        import argparse
        from timm.optim import create_optimizer
        from nets import Plain
        parser = argparse.ArgumentParser()
        parser.add_argument("--opt", default="adamw")
        parser.add_argument("--lr", type=float, default=5e-4)
        parser.add_argument("--momentum", type=float, default=0.9)
        args = parser.parse_args()
        args.lr = args.lr * 2
        net = Plain()
        optimizer = create_optimizer(args, net)
        net(0).mean().backward()
        optimizer.step()
        """
    script = read("train.py", project_of("timm", OUTSIDE) | {"train.py": text})
    (step,) = script.steps
    assert step.optimizer.algorithms == ("AdamW",)
    assert step.optimizer.learning_rate.only.value == 1e-3
    assert [m.classes for m in step.optimizer.models] == [("nets.Plain",)]


def test_helpers_of_timm_are_no_networks(tmp_path, read):
    text = """
        from timm.models import create_model, load_checkpoint, safe_model_name, convert_splitbn_model
        net = convert_splitbn_model(create_model("resnet18"), 2)
        load_checkpoint(net, "best.pt")
        name = safe_model_name("resnet18")
        """
    script = read("train.py", {"train.py": text})
    assert [m.classes for m in script.models] == [("timm.models.create_model",)]
    project = Project(tmp_path)
    graphs = read_models(project.file(tmp_path / "train.py"), project, strict=True)
    assert [g.location.line for g in graphs] == [3]
