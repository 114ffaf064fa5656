"""Results that are made without a call have the shape, type and layout of the call's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.graph.record import Recorder  # noqa: E402
from gradlint.graph.trace import to_meta  # noqa: E402

LAYERS = {
    "linear": (nn.Linear(6, 3), (2, 6)),
    "linear over a sequence": (nn.Linear(6, 3), (2, 5, 6)),
    "one sample": (nn.Linear(6, 3), (6,)),
    "batch norm": (nn.BatchNorm2d(3), (2, 3, 4, 5)),
    "layer norm": (nn.LayerNorm((4, 5)), (2, 3, 4, 5)),
    "relu": (nn.ReLU(), (2, 3)),
    "in place": (nn.Sequential(nn.Linear(6, 3), nn.ReLU(inplace=True)), (2, 6)),
    "gelu": (nn.GELU(), (2, 3)),
    "dropout": (nn.Dropout(0.3), (2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_on_meta_gives_what_it_gives_on_the_cpu(name):
    layer, shape = LAYERS[name]
    real = layer(torch.randn(shape).transpose(0, -1).contiguous().transpose(0, -1))
    seen = Recorder(to_meta(layer)).run(
        (torch.empty(shape, device="meta").transpose(0, -1).contiguous().transpose(0, -1),), {}
    )
    assert (seen.shape, seen.dtype, seen.is_contiguous()) == (real.shape, real.dtype, real.is_contiguous())


WRONG = {
    "linear": (nn.Linear(6, 3), (2, 5), "cannot be multiplied|same reduction dim"),
    "layer norm": (nn.LayerNorm(4), (2, 5), "expected input with shape"),
    "batch norm": (nn.BatchNorm2d(3), (2, 4, 5, 5), "running_mean should contain"),
    "one value a channel": (nn.BatchNorm1d(3), (1, 3), "more than 1 value per channel"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_call_that_would_fail_is_made(name):
    layer, shape, message = WRONG[name]
    with pytest.raises((RuntimeError, ValueError), match=message):
        Recorder(to_meta(layer)).run((torch.empty(shape, device="meta"),), {})


def test_a_hook_is_run():
    layer = nn.Linear(6, 3, device="meta")
    layer.register_forward_hook(lambda module, args, output: output[:, :2])
    assert Recorder(layer).run((torch.empty(2, 6, device="meta"),), {}).shape == (2, 2)
