"""Models that are named by `--model` and `[tool.gradlint.models]`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradlint.cli import cli
from gradlint.config import ModelTarget
from gradlint.source.project import Project
from gradlint.targets import Target, TargetError, configured_targets, parse_target, slice_target

NETS = """\
import torch
from torch import nn


class Deep(nn.Module):
    def __init__(self, depth=12):
        super().__init__()
        layers = [layer for _ in range(depth) for layer in (nn.Linear(32, 32), nn.Sigmoid())]
        self.net = nn.Sequential(*layers, nn.Linear(32, 10))

    def forward(self, x):
        return self.net(x)


def shallow():
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


raise SystemExit("importing this file trains for a week")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "pyproject.toml").write_text("[tool.gradlint]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*arguments):
    found = CliRunner().invoke(cli, ["check", "--no-probe", "--output-format", "json", *arguments])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def report(found):
    return json.loads(found.stdout)


def test_a_file_with_an_expression(project):
    assert parse_target("nets.py:Deep(depth=3)", project) == Target("Deep(depth=3)", project / "nets.py")


def test_the_expression_may_hold_colons(project):
    assert parse_target('nets.py:build({"a": 1})', project).expression == 'build({"a": 1})'


def test_a_module_with_an_attribute(tmp_path):
    assert parse_target("torchvision.models:resnet18", tmp_path) == Target("torchvision.models:resnet18")


@pytest.mark.parametrize(
    "text", ["", "nets", "nets:", ":Net", "a-b:c", "nets.py:", "missing.py:Net()", "a:b:c", "a:b()"]
)
def test_what_cannot_be_read_is_one_line_that_quotes_it(project, text):
    with pytest.raises(TargetError) as caught:
        parse_target(text, project)
    assert f"`{text}`" in str(caught.value) and "\n" not in str(caught.value)


def test_configured_models_carry_their_name_and_input(project):
    models = {"one": "nets:Deep", "two": ModelTarget("nets.py:Deep(2)", "4x32")}
    one, two = configured_targets(models, project)
    assert (one.name, one.path, one.input) == ("one", None, None)
    assert (two.name, two.expression, two.input) == ("two", "Deep(2)", "4x32")


def test_a_module_of_the_project_is_sliced_as_its_file(project):
    part = slice_target(parse_target("nets:Deep", project), Project(project))
    assert part.path == str(project / "nets.py")
    assert part.target == "Deep"


def test_a_module_from_elsewhere_is_imported(project):
    part = slice_target(parse_target("torchvision.models:resnet18", project), Project(project))
    assert part.text == "import torchvision.models\n"


def test_a_name_that_the_file_does_not_define_is_said(project):
    part = slice_target(parse_target("nets.py:Wide()", project), Project(project))
    assert "`Wide` is not defined" in part.reason


@pytest.mark.torch
class TestRun:
    @pytest.fixture(autouse=True)
    def _torch(self):
        pytest.importorskip("torch")

    def test_the_named_expression_is_checked_and_nothing_else(self, project):
        (project / "other.py").write_text(NETS)
        found = check("--model", "nets.py:Deep(14)")
        seen = report(found)
        assert found.exit_code == 1
        assert [m["traced_by"] for m in seen["models"]] == ["recording"]
        assert len(seen["models"][0]["layers"]) == 15
        assert any("limit" in name or "session" in name for name in seen["models"][0]["guarantees"])
        assert {f["path"] for f in seen["findings"]} == {"nets.py"}
        assert "GL101" in {f["code"] for f in seen["findings"]}

    def test_a_factory_or_a_class_stands_for_what_it_makes(self, project):
        seen = report(check("--model", "nets:shallow", "--model", "nets:Deep"))
        assert sorted(len(m["layers"]) for m in seen["models"]) == [2, 13]

    def test_a_bare_check_takes_the_models_of_the_configuration(self, project):
        (project / "pyproject.toml").write_text(
            '[tool.gradlint.models]\nours = {target = "nets.py:Deep(9)", input = "6x32"}\n'
        )
        models = {m["name"]: m for m in report(check())["models"]}
        assert (models["Deep"]["input"], len(models["Deep"]["layers"])) == ("6x32", 10)

    def test_configured_models_stay_out_of_a_check_of_named_paths(self, project):
        (project / "pyproject.toml").write_text('[tool.gradlint.models]\nours = "nets.py:Deep(9)"\n')
        other = project / "other.py"
        other.write_text("import torch\n")
        assert report(check(str(other)))["models"] == []

    def test_a_suppression_in_the_file_counts_and_idle_ones_are_left_alone(self, project):
        text = NETS.replace("nn.Sigmoid())]", "nn.Sigmoid())]  # gradlint: ignore[GL101]")
        Path("nets.py").write_text(text.replace("import torch\n", "import torch  # gradlint: ignore[GL401]\n"))
        codes = {f["code"] for f in report(check("--model", "nets.py:Deep(14)"))["findings"]}
        assert codes and codes.isdisjoint({"GL101", "GL002"})

    def test_a_model_that_cannot_be_built_is_an_error(self, project):
        found = check("--model", "nosuch.package:Net")
        assert found.exit_code == 2
        assert "error: model `nosuch.package:Net`" in found.stderr
        assert "Traceback" not in found.output


def test_a_wrong_target_is_wrong_usage(project):
    found = check("--model", "nets")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "FILE.py:EXPRESSION" in found.stderr
