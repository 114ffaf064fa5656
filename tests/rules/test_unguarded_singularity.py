"""GL602 finds logarithms and roots of what can be 0 on the way to a loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.config import Config
from gradlint.engine import Engine
from gradlint.finding import Finding, Severity

SCRIPT = """
import torch
from torch import nn
import torch.nn.functional as F

class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())

    def forward(self, x):
        return self.main(x)

def penalty_loss(p, targets):
    return {penalty}

net, judge = nn.Linear(8, 8), Discriminator()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for x, y in loader:
    z = net(x)
    {before}
    loss = {loss}
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def found(folder: Path, loss: str = "z.mean()", before: str = "pass", penalty: str = "p.mean()") -> list[Finding]:
    (folder / "train.py").write_text(SCRIPT.format(loss=loss, before=before, penalty=penalty), encoding="utf-8")
    return list(Engine(Config(exec=False, select=("GL602",)), folder).run([folder / "train.py"]).findings)


@pytest.mark.parametrize(
    "loss",
    [
        "F.relu(z).log().mean()",
        "z.clamp(min=0).log().mean()",
        "torch.log(torch.clamp(z, 0)).mean()",
        "((z.unsqueeze(0) - z.unsqueeze(1)) ** 2).sum(-1).sqrt().mean()",
        "(z[None] - z[:, None]).pow(2).sum(-1).pow(0.5).mean()",
    ],
)
def test_what_any_batch_brings_to_zero_is_a_warning(loss, tmp_path):
    assert [f.severity for f in found(tmp_path, loss)] == [Severity.WARNING]


@pytest.mark.parametrize(
    "loss",
    [
        "torch.log(F.softmax(z, dim=1)).gather(1, y).mean()",
        "torch.log(1 - torch.sigmoid(z)).mean()",
        "torch.log(1 - judge(z)).mean()",
        "torch.log(1 - nn.Sequential(net, nn.Sigmoid())(z)).mean()",
        "torch.log(1 - z.softmax(1)[:, 0]).mean()",
        "-judge(z).log().mean()",
        "torch.sqrt(F.mse_loss(z, y))",
        "nn.MSELoss()(z, y) ** 0.5",
        "((z - y) ** 2).mean().sqrt()",
        "z.clamp(min=0).sqrt().mean()",
        "(z * z).sum(1).sqrt().mean()",
        "torch.sqrt(torch.sum(z ** 2, dim=1)).mean()",
        "(z[:, 0] ** 2 + z[:, 1] ** 2).sqrt().mean()",
        "torch.matmul(bands, z.norm(dim=1) ** 2).pow(0.5).mean()",
        "torch.log((torch.exp(z) * mask).sum(1)).mean()",
    ],
)
def test_what_only_extreme_values_reach_is_an_info(loss, tmp_path):
    assert [f.severity for f in found(tmp_path, loss)] == [Severity.INFO]


@pytest.mark.parametrize(
    "loss",
    [
        "torch.log(1 - torch.sigmoid(z) + 1e-8).mean()",
        "torch.log((1 - torch.sigmoid(z)).clamp(min=1e-6)).mean()",
        "torch.log(F.relu(z) + 1e-6).mean()",
        "torch.log(z.clamp(min=1e-6)).mean()",
        "torch.sqrt(F.relu(z)).mean()",
        "torch.sqrt(F.mse_loss(z, y) + 1e-8)",
        "(z - y).norm()",
        "F.log_softmax(z, dim=1).mean()",
        "torch.log(F.softplus(z)).mean()",
        "torch.sqrt((z * z).sum(1) + 1e-8).mean()",
        "torch.sqrt(z * y).mean()",
        "torch.log(torch.exp(z).sum(1)).mean()",
        "torch.log((torch.exp(z) * mask).sum(1) + 1e-9).mean()",
        "z.mean() + torch.log(1 - torch.sigmoid(z.detach())).mean()",
        "z.mean() + torch.sqrt(F.mse_loss(x, y))",
        "torch.where(z > 0, torch.log(F.relu(z)), z).mean()",
    ],
)
def test_guards_finite_slopes_and_constants_are_left_alone(loss, tmp_path):
    assert found(tmp_path, loss) == []


def test_the_probability_may_stand_in_a_variable_that_nothing_changes(tmp_path):
    loss = "torch.log(p).mean()"
    assert len(found(tmp_path, loss, "p = F.softmax(z, dim=1)")) == 1
    assert found(tmp_path, loss, "p = F.softmax(z, dim=1); p = p + 1e-8") == []
    assert found(tmp_path, loss, "p = F.softmax(z, dim=1); p.clamp_(1e-8)") == []


def test_what_is_only_logged_is_left_alone(tmp_path):
    assert found(tmp_path, before="print(torch.sqrt(F.mse_loss(z, y)))") == []


def test_functions_that_return_a_loss_are_read_too(tmp_path):
    (finding,) = found(tmp_path, penalty="-(targets * torch.log(F.relu(p))).mean()")
    assert finding.severity is Severity.WARNING
    assert finding.location.line == 15
    assert found(tmp_path, penalty="torch.log(F.relu(targets)).mean()") == []


def test_what_the_logarithms_of_p_and_of_1_minus_p_are_taken_of_is_a_probability(tmp_path):
    both = "-(targets * torch.log(p) + (1 - targets) * torch.log(1 - p)).mean()"
    assert [f.severity for f in found(tmp_path, penalty=both)] == [Severity.INFO] * 2
    assert found(tmp_path, penalty="-(targets * torch.log(p)).mean()") == []
    assert found(tmp_path, penalty="-(torch.log(p + 1e-8) + torch.log(1 - p + 1e-8)).mean()") == []
    assert len(found(tmp_path, "-(torch.log(net(z)) + torch.log(1 - net(z))).mean()")) == 2
    assert found(tmp_path, "-(torch.log(net(z)) + torch.log(1 - net(x))).mean()") == []


def test_a_likelihood_is_a_loss(tmp_path):
    text = SCRIPT.format(loss="z.mean()", before="pass", penalty="torch.log(F.relu(p)).mean()")
    for name, count in (("nll_bernoulli", 1), ("kld", 1), ("embed", 0)):
        (tmp_path / "train.py").write_text(text.replace("penalty_loss", name), encoding="utf-8")
        findings = Engine(Config(exec=False, select=("GL602",)), tmp_path).run([tmp_path / "train.py"]).findings
        assert len(findings) == count
