"""GL506 finds transformers that start at their peak rate, and leaves GL303 the deep post-norm ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.config import Config
from gradlint.engine import Engine
from gradlint.finding import Finding, Severity

SCRIPT = """
import torch
from torch import nn

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first={norm_first})
        self.encoder = nn.TransformerEncoder(layer, num_layers={layers})
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.encoder(x).mean(dim=1))

model = Classifier()
optimizer = torch.optim.{optimizer}
{schedule}
for x, y in loader:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""


def found(folder: Path, **changes: object) -> list[Finding]:
    known: dict[str, object] = {
        "norm_first": False,
        "layers": 4,
        "optimizer": "Adam(model.parameters(), lr=2e-3)",
        "schedule": "",
    }
    (folder / "train.py").write_text(SCRIPT.format(**(known | changes)), encoding="utf-8")
    return list(Engine(Config(exec=False, select=("GL303", "GL506")), folder).run([folder / "train.py"]).findings)


@pytest.mark.parametrize(
    ("changes", "severity"),
    [({}, Severity.WARNING), ({"norm_first": True}, Severity.INFO), ({"layers": 2}, Severity.INFO)],
)
def test_only_several_post_norm_layers_at_a_high_rate_are_a_warning(changes, severity, tmp_path):
    assert [(f.code, f.severity) for f in found(tmp_path, **changes)] == [("GL506", severity)]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "Adam(model.parameters(), lr=1e-4)"},
        {"optimizer": "SGD(model.parameters(), lr=1e-2)"},
        {"layers": 1},
        {"schedule": "schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=1000)"},
        {"schedule": "schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)"},
        {"schedule": "def warm_up(step):\n    for group in optimizer.param_groups:\n        group['lr'] = 1e-6 * step"},
    ],
)
def test_low_rates_other_optimizers_and_warm_ups_of_any_kind_are_left_alone(changes, tmp_path):
    assert found(tmp_path, **changes) == []


def test_a_decay_is_no_warm_up(tmp_path):
    decay = "schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)"
    assert [f.code for f in found(tmp_path, schedule=decay)] == ["GL506"]


def test_a_deep_post_norm_transformer_is_one_finding_with_the_other_beside_it(tmp_path):
    findings = found(tmp_path, layers=8)
    assert [(f.code, f.primary) for f in findings] == [("GL303", True), ("GL506", False)]


def test_a_warm_up_by_hand_silences_the_deep_ones_too(tmp_path):
    by_hand = "for group in optimizer.param_groups:\n    group['lr'] = 1e-6"
    assert found(tmp_path, layers=8, schedule=by_hand) == []


@pytest.mark.parametrize(("layers", "code"), [(4, "GL506"), (8, "GL303")])
def test_a_comment_warms_nothing_up(layers, code, tmp_path):
    assert found(tmp_path, layers=layers, schedule="# there is no warm-up here")[0].code == code
