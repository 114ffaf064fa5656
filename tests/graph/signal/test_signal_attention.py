"""Attention as published vision nets write it: weight gradients, predicted and real, of small nets; seeds are fixed."""

from __future__ import annotations

import pytest
from test_signal_nets import compared

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.torch


class UnequalPieces(nn.Module):
    """One score, keys and values cut out of one projection (MobileViTv2): the first piece is the smallest."""

    def __init__(self, width=24):
        super().__init__()
        self.embed, self.norm = nn.Linear(32, width), nn.LayerNorm(width)
        self.all, self.proj, self.head = nn.Linear(width, 1 + 2 * width), nn.Linear(width, width), nn.Linear(width, 10)
        self.width = width

    def forward(self, x):
        x = self.embed(x)
        score, key, value = self.all(self.norm(x)).split([1, self.width, self.width], dim=-1)
        context = (score.softmax(1) * key).sum(1, keepdim=True)
        return self.head((x + self.proj(F.relu(value) * context)).mean(1))


CASES = {
    "unequal pieces": (UnequalPieces, (16, 12, 32), 0.2),
}


@pytest.mark.parametrize("name", CASES)
def test_weight_gradients_within_a_fraction_of_a_decade(name):
    torch.set_num_threads(1)
    build, shape, tolerance = CASES[name]
    for layer, predicted, measured in compared(build, torch.randn(shape)):
        assert predicted == pytest.approx(measured, abs=tolerance), layer
