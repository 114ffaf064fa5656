"""The Lightning callback, in a real Trainer."""

import warnings

import pytest

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.loggers import Logger  # noqa: E402
from torch import nn  # noqa: E402

from gradlint.finding import Severity  # noqa: E402
from gradlint.integrations.lightning import GradientProbe  # noqa: E402
from gradlint.probe.first_batch import UnhealthyGradientsError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


class Deep(lightning.LightningModule):
    """A stack whose first layers starve if its activation saturates."""

    def __init__(self, activation=nn.Sigmoid, depth=6):
        super().__init__()
        torch.manual_seed(0)
        layers = [m for _ in range(depth) for m in (nn.Linear(16, 16), activation())]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(16, 3)
        self.losses = []

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("loss", loss)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Kept(Logger):
    """Remembers what it is told."""

    name, version = "kept", 0

    def __init__(self):
        super().__init__()
        self.said = {}

    def log_metrics(self, metrics, step=None):
        self.said |= metrics

    def log_hyperparams(self, params):
        pass


def fit(model, *callbacks, **more):
    torch.manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.randn(64, 16), torch.randint(0, 3, (64,)))
    logger = Kept()
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=4, logger=logger, callbacks=list(callbacks), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, **more,
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=16))
    return logger.said


def test_the_first_batch_is_measured_and_logged():
    model, callback = Deep(), GradientProbe(layers=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = fit(model, callback)
    (report,) = callback.reports
    assert (report.severity, report.optimizer) == (Severity.WARNING, "SGD")
    assert said["gradlint/severity"] == 2 and said["gradlint/loss"] == pytest.approx(model.losses[0], rel=1e-5)
    assert said["gradlint/gradient/body.0"] < 1e-3 * said["gradlint/gradient/body.10"]
    assert any("gradient ratio" in str(w.message) for w in caught)


def test_training_goes_on_as_it_would_have():
    plain, probed = Deep(nn.ReLU), Deep(nn.ReLU)
    fit(plain)
    fit(probed, GradientProbe())
    assert plain.losses == probed.losses
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), probed.parameters(), strict=True))
    assert nn.Module.__call__.__qualname__.startswith("Module.")


def test_a_run_may_be_stopped_before_it_costs_anything():
    model = Deep(depth=10)
    with pytest.raises(UnhealthyGradientsError, match="unhealthy gradients"):
        fit(model, GradientProbe(fail_on="error"))
    assert len(model.losses) == 1


def test_accumulated_batches_and_mixed_precision():
    callback = GradientProbe(tell=None)
    said = fit(Deep(nn.ReLU, depth=2), callback, accumulate_grad_batches=2, precision="bf16-mixed")
    assert callback.reports[0].healthy and said["gradlint/severity"] == 0
