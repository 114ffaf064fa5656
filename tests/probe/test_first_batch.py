"""What the callbacks of frameworks do, in a loop of the test's own."""

import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.finding import Severity  # noqa: E402
from gradlint.probe.first_batch import FirstBatch, UnhealthyGradientsError, metrics  # noqa: E402

pytestmark = pytest.mark.torch


def net(activation=nn.ReLU, depth=6):
    torch.manual_seed(0)
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(16, 16), activation())], nn.Linear(16, 3))


def train(model, first=None, scaler=None, steps=3):
    """(losses, the report of the first step) of a short training with momentum and dropout-like noise."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(1)
    losses, report = [], None
    for _ in range(steps):
        if first is not None:
            first.begin()
        x, y = torch.randn(32, 16) + torch.randn(()), torch.randint(0, 3, (32,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(nn.functional.dropout(model(x), 0.1), y)
        (scaler.scale(loss) if scaler is not None else loss).backward()
        if first is not None:
            report = first.report(optimizer) or report
            first.end()
        scaler.step(optimizer) if scaler is not None else optimizer.step()
        if scaler is not None:
            scaler.update()
        losses.append(float(loss.detach()))
    return losses, report


def test_training_goes_on_as_it_would_have_and_each_optimizer_is_measured_once():
    plain, probed, first = net(), net(), FirstBatch()
    expected, _ = train(plain)
    seen, report = train(probed, first)
    assert seen == expected
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), probed.parameters(), strict=True))
    assert len(first.reports) == 1 and report.measurement.loss == pytest.approx(expected[0], rel=1e-6)
    assert nn.Module.__call__.__qualname__.startswith("Module.")


def test_a_scaled_loss_is_measured_unscaled():
    _, plain = train(net(), FirstBatch())
    _, scaled = train(net(), FirstBatch(), torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert scaled.measurement.loss == pytest.approx(plain.measurement.loss)
    assert scaled.measurement.gradient_norms[0] == pytest.approx(plain.measurement.gradient_norms[0], rel=1e-4)


def test_metrics_say_how_bad_it_is_in_numbers():
    _, report = train(net(nn.Sigmoid), FirstBatch())
    said = metrics(report, layers=True)
    assert said["gradlint/severity"] == 2 and said["gradlint/gradient_ratio"] < 1e-3
    assert said["gradlint/gradient/0"] < said["gradlint/gradient/10"]
    assert set(metrics(report)) < set(said)


def test_what_is_unhealthy_is_warned_of_or_stops_the_program():
    _, report = train(net(nn.Sigmoid), FirstBatch())
    assert report.severity is Severity.WARNING
    with pytest.warns(UserWarning, match="gradient ratio"):
        FirstBatch().judge(report)
    with pytest.raises(UnhealthyGradientsError, match="unhealthy gradients"):
        FirstBatch(fail_on="warning").judge(report)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FirstBatch(tell="error").judge(report)
        FirstBatch(tell=None, fail_on="error").judge(report)
