"""`gradlint probe` as people use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gradlint.cli import cli
from gradlint.probe.experiment import OVERFLOW
from gradlint.report.profile import norm_class
from gradlint.report.profile_text import sparkline

TRAIN = """\
import sys
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
rate = float(sys.argv[1])
deep = nn.Sequential(*[m for _ in range(7) for m in (nn.Linear(16, 16), nn.Sigmoid())], nn.Linear(16, 3))
optimizer = torch.optim.SGD(deep.parameters(), lr=rate)
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 3, (32,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(deep(x), y).backward()
    optimizer.step()
raise RuntimeError("went on after it was to stop")
"""
HEALTHY = """\
import torch
from torch import nn

net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "healthy.py").write_text(HEALTHY)
    return tmp_path


def probe(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["probe", *arguments])


def test_a_series_is_drawn_from_its_lowest_to_its_highest() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([1e-3, 1e0, 1e3], logarithmic=True) == "▁▅█"
    assert sparkline([1.0, None, 1.0]) == "▁×▁"
    assert len(sparkline([float(i) for i in range(1000)], width=50)) == 50


def test_gradient_norms_are_named_by_what_is_wrong_with_them() -> None:
    assert norm_class((0.4,)) is None
    assert norm_class((0.4, 0.5, 0.3)) == "steady"
    assert norm_class((0.4, 0.5, 0.3, 30.0)) == "jumping"
    assert norm_class((0.4, OVERFLOW)) == "nan"
    assert norm_class((1e-6, 2e-7)) == "vanishing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope.py"], "nope.py: no such file"),
        (["."], "a folder"),
        (["notes.txt"], "not a Python script"),
        (["book.ipynb"], "use --synthetic"),
        pytest.param(["book.ipynb", "--synthetic"], "book.ipynb: not a notebook", marks=pytest.mark.torch),
        (["healthy.py", "--seeds", "2"], "need --synthetic"),
        (["healthy.py", "--synthetic", "--steps", "3"], "leave --synthetic out"),
        (["healthy.py", "--synthetic", "--input", "8 by 8"], "cannot read input `8 by 8`"),
        (["healthy.py", "--compare", "none.json"], "none.json"),
        (["healthy.py", "--compare", "healthy.py"], "not JSON"),
        (["healthy.py", "--compare", "list.json"], "not a report"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(here: Path, arguments: list[str], message: str) -> None:
    for name, text in (("notes.txt", ""), ("book.ipynb", "{}"), ("list.json", '{"models": [{"layers": 3}]}')):
        (here / name).write_text(text)
    result = probe(*arguments)
    assert result.exit_code == 2
    assert message in result.output and result.output.startswith("error: ")
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.torch
def test_the_scripts_own_batch_is_shown_beside_the_prediction(here: Path) -> None:
    pytest.importorskip("torch")
    result = probe("train.py", "--steps", "4", "--output-format", "json", "-o", "seen.json", "--", "0.5")
    assert result.exit_code == 1, result.output
    document: dict[str, Any] = json.loads((here / "seen.json").read_text())
    (model,) = document["models"]
    assert (model["batch"], model["optimizer"], model["learning_rates"]) == ("real", "SGD", [0.5])
    assert model["severity"] == "error" and len(model["losses"]) == len(model["gradient_norms"]) == 4
    assert [x["line"] for x in model["layers"]] == [7] * 8
    assert model["layers"][0]["measured"]["gradient"] < 1e-4
    for layer in model["layers"]:
        assert layer["measured"]["gradient"] == pytest.approx(layer["predicted"]["gradient"], rel=1.0)
        assert layer["measured"]["update_ratio"] > 0
    assert [f["code"] for f in document["findings"] if f["verdict"] == "confirmed"] == ["GL101"]
    assert not (here / "checkpoint.pt").exists()


@pytest.mark.torch
@pytest.mark.parametrize("left_out", ["by a comment", "by the configuration"])
def test_what_is_accepted_is_left_out_as_in_check(here: Path, left_out: str) -> None:
    pytest.importorskip("torch")
    accepted = "nn.Sequential(  # gradlint: ignore[GL101] -- on purpose\n    *["
    if left_out == "by a comment":
        (here / "train.py").write_text(TRAIN.replace("nn.Sequential(*[", accepted))
    else:
        (here / "pyproject.toml").write_text("[tool.gradlint.per-file-ignores]\n'train.py' = ['GL101']\n")
    result = probe("train.py", "--synthetic", "--seeds", "1", "--output-format", "json")
    assert json.loads(result.stdout)["models"]
    assert "GL101" not in result.stdout


@pytest.mark.torch
def test_two_runs_stand_side_by_side(here: Path) -> None:
    pytest.importorskip("torch")
    healthy = HEALTHY + "x = torch.randn(32, 8)\nnet(x).square().mean().backward()\noptimizer.step()\n"
    (here / "one.py").write_text(healthy)
    layer = {"name": "0", "predicted": {"log10_gradient": -0.2}, "measured": {"gradient": 0.0625}}
    before = {"models": [{"name": "Sequential", "loss": 0.5, "severity": "warning", "layers": [layer]}]}
    (here / "before.json").write_text(json.dumps(before))
    result = probe("one.py", "--compare", "before.json", "--histograms")
    assert result.exit_code == 0, result.output
    assert "absolute values by decade" in result.output
    assert "before: warning, loss 0.5; now loss" in result.output and "0.062" in result.output
    assert "Sequential (one.py): loss" in result.output and "real batch" in result.output


@pytest.mark.torch
def test_a_synthetic_batch_needs_the_model_alone(here: Path) -> None:
    pytest.importorskip("torch")
    result = probe("healthy.py", "--synthetic", "--seeds", "2", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "synthetic, 32 samples batch" in result.output and "healthy" in result.output


@pytest.mark.torch
def test_a_script_that_never_trains_says_so(here: Path) -> None:
    pytest.importorskip("torch")
    result = probe("healthy.py")
    assert result.exit_code == 2
    assert result.output == "error: healthy.py: the script ended without an optimizer step\n"
