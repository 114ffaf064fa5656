"""Models whose forward computes the loss: the graph ends where a script's loss would begin."""

from __future__ import annotations

from typing import Optional

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from gradlint.graph.lower import Origins, lower  # noqa: E402
from gradlint.graph.model import Loss  # noqa: E402
from gradlint.graph.record import Recorder  # noqa: E402
from gradlint.graph.trace import trace_module  # noqa: E402
from gradlint.probe.loss import SyntheticLoss  # noqa: E402


class Net(nn.Module):
    """A classifier with a `loss(logits, y)` of its own."""

    def __init__(self, loss):
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.loss = loss

    def forward(self, x, y):
        return self.loss(self.layer(x), y)


def ends(loss, y=None):
    net = Net(loss)
    recorder = Recorder(net)
    recorder.run((torch.randn(4, 8), torch.randint(0, 3, (4,)) if y is None else y), {})
    graph = lower(recorder.graph, net, Origins())
    return graph, [graph.nodes[i].name for n in graph.nodes if n.kind == "output" for i in n.inputs]


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (F.cross_entropy, "cross_entropy"),
        (lambda z, y: nn.CrossEntropyLoss()(z, y) * 0.5 + 1.0, "cross_entropy"),
        (lambda z, y: F.mse_loss(z, torch.zeros(4, 3)), "mse"),
        (lambda z, y: F.cross_entropy(z, y, reduction="none").mean(), "cross_entropy"),
        (lambda z, y: {"loss": F.cross_entropy(z, y), "accuracy": (z.argmax(1) == y).float().mean()}, "cross_entropy"),
    ],
)
def test_the_output_is_what_the_loss_reads(loss, kind):
    graph, outputs = ends(loss)
    assert outputs == ["layer"]
    assert (graph.loss.kind, graph.loss.inside) == (kind, True)


def test_a_focal_loss_ends_in_its_logits():
    def focal(z, y):
        target = F.one_hot(y, 3).float()
        likelihood = F.binary_cross_entropy_with_logits(z, target, reduction="none")
        return ((1 - z.sigmoid()) ** 2 * likelihood).mean()

    graph, outputs = ends(focal)
    assert (graph.loss.kind, outputs) == ("bce_with_logits", ["layer"])


def test_a_scalar_that_is_no_loss_stays():
    graph, outputs = ends(lambda z, y: z.mean())
    assert (graph.loss.kind, outputs) == ("unknown", ["mean1"])


def test_logits_beside_the_loss_stay_first():
    graph, outputs = ends(lambda z, y: (z.relu(), F.cross_entropy(z, y, reduction="sum")))
    assert outputs == ["relu1", "layer"]
    assert graph.loss.reduction == "sum"


def test_the_probe_takes_the_models_own_loss():
    net = Net(lambda z, y: {"a": F.cross_entropy(z, y), "b": z.square().mean()})
    output = net(torch.randn(4, 8), torch.randint(0, 3, (4,)))
    loss = SyntheticLoss(Loss("cross_entropy", inside=True))(output)
    assert torch.allclose(loss, output["a"] + output["b"])


class Detector(nn.Module):
    """The calling convention of torchvision's detection models."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.boxes = nn.Linear(8, 4)

    def forward(self, images: list[Tensor], targets: Optional[list[dict[str, Tensor]]] = None):  # noqa: UP045
        batch = images[0].new_zeros(len(images), 3, 32, 32)
        for image, place in zip(images, batch):  # noqa: B905
            place[:, : image.shape[1], : image.shape[2]].copy_(image[:, :32, :32])
        found = self.boxes(self.body(batch).mean((2, 3)))
        if not self.training:
            return found
        if targets is None:
            raise ValueError("targets should not be none when in training mode")
        wanted = torch.stack([t["boxes"][0] for t in targets])
        assert all((t["boxes"][:, 2:] > t["boxes"][:, :2]).all() for t in targets)
        return {"loss_box": F.smooth_l1_loss(found, wanted)}


def test_a_detector_is_given_targets_and_traced_to_its_boxes():
    graph = trace_module(Detector()).graph
    assert graph.traced_by == "recording (cpu)"
    assert graph.input.startswith("[2*3x64x64], [2*{boxes=boxes:2x4<64, labels=")
    output = graph.nodes[-1]
    assert [graph.nodes[i].name for i in output.inputs] == ["boxes"]
    assert not [n.op for n in graph.nodes if n.kind == "unknown"]
