"""The value resolver: which values can reach an expression."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from gradlint.source.callers import Importers
from gradlint.source.evaluate import Evaluator
from gradlint.source.project import Project
from gradlint.source.resolve import resolve
from gradlint.source.value import Resolution


def resolved(folder: Path, text: str, **others: str) -> Resolution:
    """What `x = …` at the end of a module resolves to."""
    (folder / "pyproject.toml").touch()
    (folder / "main.py").write_text(dedent(text))
    for name, content in others.items():
        (folder / name.replace("__", ".")).write_text(dedent(content))
    project = Project(folder)
    evaluator = Evaluator(project, Importers(project))
    file = project.file(folder / "main.py")
    assert file is not None
    module = evaluator.index(file).module
    value = module.bindings["x"][-1].value
    return resolve(evaluator, value, module)


def values(resolution: Resolution) -> list[object]:
    return [v.value for v in resolution.values]


PARSER = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--lr", "-l", type=float, default=3e-5)
parser.add_argument("--weight-decay", type=float, default="0.01")
parser.add_argument("--fp16", action="store_true")
parser.add_argument("--name", required=True)
args = parser.parse_args()
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1e-3", [1e-3]),
        ("base = 1e-3\nx = base * 64 / 256", [2.5e-4]),
        ("x = -(2 ** 3)", [-8]),
        ("a, (b, c) = 1, (2, 3)\nx = c", [3]),
        ("n = 5\nx = f'bert-{n}'", ["bert-5"]),
        ("t = {'lr': {'head': 0.1}}\nx = t['lr']['head']", [0.1]),
        ("t = dict(lr=0.2)\nx = t['lr']", [0.2]),
        ("t = [1, 2, 3]\nx = t[-1]", [3]),
        ("x = float('1e-4')", [1e-4]),
        ("x = 1\nif x > 0:\n    y = 'a'\nelse:\n    y = 'b'\nx = y", ["a"]),
        ("def f(lr=0.5):\n    return lr\nx = f()", [0.5]),
        ("def f(lr=0.5):\n    return lr\nx = f(lr=0.25)", [0.25]),
        ("class C:\n    lr = 0.1\nx = C.lr", [0.1]),
        ("class C:\n    def __init__(self, lr=1):\n        self.lr = lr * 2\nx = C(4).lr", [8]),
        ("from types import SimpleNamespace\nc = SimpleNamespace(lr=7)\nx = c.lr", [7]),
        (PARSER + "x = args.lr", [3e-5]),
        (PARSER + "x = args.weight_decay", [0.01]),
        (PARSER + "x = args.fp16", [False]),
        (PARSER + "args.lr = 1.0\nx = args.lr", [1.0]),
        (PARSER + "def main(config):\n    return config.lr\nx = main(args)", [3e-5]),
        (PARSER + "x = vars(args)['lr']", [3e-5]),
    ],
)
def test_written_values_are_found(tmp_path: Path, text: str, expected: list[object]) -> None:
    found = resolved(tmp_path, text)
    assert values(found) == expected
    assert found.unknown is None


@pytest.mark.parametrize(
    "text",
    [
        "x = input()",
        PARSER + "x = args.name",
        "def f():\n    return f()\nx = f()",
        "a = b\nb = a\nx = a",
        "import os\nx = os.environ['LR']",
        "x = undefined_name",
        "x = 9 ** 9 ** 9",
    ],
)
def test_what_is_not_written_is_unknown_with_a_reason(tmp_path: Path, text: str) -> None:
    found = resolved(tmp_path, text)
    assert found.values == ()
    assert found.unknown


def test_a_branch_that_cannot_be_decided_keeps_both_values(tmp_path: Path) -> None:
    found = resolved(tmp_path, "import os\nif os.getenv('A'):\n    y = 1\nelse:\n    y = 2\nx = y")
    assert sorted(v.value for v in found.values) == [1, 2]
    assert all(v.conditional for v in found.values)


def test_a_later_unconditional_value_hides_an_earlier_one(tmp_path: Path) -> None:
    assert values(resolved(tmp_path, "y = 1\ny = 2\nx = y\ny = 3")) == [2]


def test_an_argparse_default_names_its_way_and_its_line(tmp_path: Path) -> None:
    value = resolved(tmp_path, PARSER + "x = args.lr").only
    assert value is not None
    assert value.overridable
    assert value.way == ("argparse default of --lr",)
    assert value.origin.line == 4


ABSL = "from absl import flags\nLR = flags.DEFINE_float('lr', 0.02, 'rate')\n"


@pytest.mark.parametrize("text", ["FLAGS = flags.FLAGS\nx = FLAGS.lr", "x = flags.FLAGS.lr", "x = LR.value"])
def test_an_absl_default_may_be_overridden(tmp_path: Path, text: str) -> None:
    value = resolved(tmp_path, ABSL + text).only
    assert value is not None
    assert (value.value, value.overridable, value.origin.line) == (0.02, True, 2)


def test_an_absl_flag_of_another_file_is_unknown(tmp_path: Path) -> None:
    assert resolved(tmp_path, ABSL + "x = flags.FLAGS.seed").unknown == "--seed is not defined in this file"


def test_a_yaml_file_next_to_the_script_is_read_with_its_line(tmp_path: Path) -> None:
    text = "import yaml\nwith open('conf.yaml') as f:\n    c = yaml.safe_load(f)\nx = c['optim']['lr']"
    value = resolved(tmp_path, text, conf__yaml="seed: 1\noptim:\n  lr: 0.02\n").only
    assert value is not None
    assert (value.value, Path(value.origin.path).name, value.origin.line) == (0.02, "conf.yaml", 3)


def test_a_constant_of_another_module_is_followed(tmp_path: Path) -> None:
    assert values(resolved(tmp_path, "from config import LR\nx = LR", config__py="LR = 0.3\n")) == [0.3]
    assert values(resolved(tmp_path, "import config as c\nx = c.LR", config__py="LR = 0.3\n")) == [0.3]
    assert values(resolved(tmp_path, "from config import *\nx = LR", config__py="LR = 0.3\n")) == [0.3]


def test_a_parameter_is_what_its_callers_pass_also_from_other_files(tmp_path: Path) -> None:
    helper = "from main import f\nf(0.7)\n"
    assert values(resolved(tmp_path, "def f(lr):\n    x = lr\n    return x\nx = 0\n", helper__py=helper)) == [0]
    project = Project(tmp_path)
    evaluator = Evaluator(project, Importers(project))
    file = project.file(tmp_path / "main.py")
    assert file is not None
    function = evaluator.index(file).module.children[0]
    assert values(resolve(evaluator, function.bindings["x"][0].value, function)) == [0.7]


def test_dataclass_defaults_and_overrides(tmp_path: Path) -> None:
    text = """
        from dataclasses import dataclass, field
        @dataclass
        class Config:
            lr: float = 2e-3
            betas: tuple = field(default=(0.9, 0.99))
        c, d = Config(), Config(lr=1e-4)
        x = (c.lr, d.lr, c.betas)
    """
    assert values(resolved(tmp_path, text)) == [(2e-3, 1e-4, (0.9, 0.99))]


@pytest.mark.parametrize("before", ["", "args = None\n"])
def test_a_name_that_a_function_declares_global_is_what_it_gives_it(tmp_path: Path, before: str) -> None:
    text = f"""
{PARSER}
{before}
def main():
    global args
    args = parser.parse_args()
    train()
def train():
    return args.lr
x = train()
"""
    assert values(resolved(tmp_path, text)) == [3e-5]


def test_a_global_that_two_functions_set_keeps_both_values(tmp_path: Path) -> None:
    text = """
        def slow():
            global rate
            rate = 1e-3
        def fast():
            global rate
            rate = 0.1
        def train():
            return rate
        x = train()
    """
    found = resolved(tmp_path, text).values
    assert sorted(v.value for v in found) == [1e-3, 0.1]
    assert all(v.conditional for v in found)


def test_a_module_value_hides_what_functions_that_are_not_known_to_run_set(tmp_path: Path) -> None:
    text = """
        rate = 0.2
        def decay():
            global rate
            rate = 0.1
        def train():
            return rate
        x = train()
    """
    assert values(resolved(tmp_path, text)) == [0.2]


@pytest.mark.parametrize(("key", "expected"), [("lr", [1.0, 2e-3]), ("decay", [0.1])])
def test_what_is_stored_on_some_branch_leaves_the_value_given_before(
    tmp_path: Path, key: str, expected: list[float]
) -> None:
    text = f"""
        def train(kind, rate):
            options = dict(lr=2e-3, decay=None)
            if kind == "adafactor":
                options["lr"] = 1.0
            if kind == "sgd":
                options["decay"] = 0.1
            return options
        def get(key, options):
            return options[key]
        made = train(input(), input())
        x = get("{key}", made)
    """
    assert values(resolved(tmp_path, text)) == expected
