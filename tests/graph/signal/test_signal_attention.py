"""Attention as published vision nets write it: weight gradients, predicted and real, of small nets; seeds are fixed."""

from __future__ import annotations

import pytest
from test_signal_nets import compared
from test_signal_traced import BATCH, Net, output, traced

from gradlint.graph.signal import profile

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.torch


class ManyKeys(nn.Module):
    """More keys than features: keys and values of a token are functions of the same few features."""

    def __init__(self, written_out, width=16):
        super().__init__()
        self.written_out = written_out
        self.embed, self.norm, self.head = nn.Linear(32, width), nn.LayerNorm(width), nn.Linear(width, 10)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        x = self.norm(self.embed(x))
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.written_out:
            y = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.head(y.transpose(1, 2).flatten(2)[:, 0])


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


class Conditional(nn.Module):
    """Factorised attention of heads, with convolved values that a class token takes no part in (CoaT)."""

    def __init__(self, width=24, side=3, heads=2):
        super().__init__()
        self.embed, self.norm = nn.Linear(32, width), nn.LayerNorm(width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.token, std=0.02)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        self.side, self.heads = side, heads

    def forward(self, x):
        n, width = x.shape[0], self.embed.out_features
        x = torch.cat([self.token.expand(n, -1, -1), self.embed(x)], dim=1)
        q, k, v = self.qkv(self.norm(x)).reshape(n, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        image = v[:, :, 1:].transpose(-1, -2).reshape(n, width, self.side, self.side)
        near = self.conv(image).reshape(n, self.heads, width // self.heads, -1).transpose(-1, -2)
        near = F.pad(q[:, :, 1:] * near, (0, 0, 1, 0, 0, 0))
        y = 0.3 * q @ (k.softmax(2).transpose(-1, -2) @ v) + near
        x = x + self.proj(y.transpose(1, 2).reshape(n, -1, width))
        y = self.last(x)
        return self.head(y[:, 0] + 0.01 * y[:, 1:].mean(1))


class LateToken(nn.Module):
    """A class token that joins behind the blocks of the others, and alone is read (CaiT, ConViT, XCiT)."""

    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Linear(32, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.token, std=0.02)
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.embed(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(F.gelu(norm(x)))
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v))
        return self.head(self.last(x)[:, 0])


class SharedQueries(nn.Module):
    """One image's queries, alike and repeated for each of its windows (GC-ViT), meet values that hardly are."""

    def __init__(self, width=24):
        super().__init__()
        self.ask, self.value, self.head = nn.Linear(32, width), nn.Linear(32, width), nn.Linear(width, 10)

    def forward(self, x):
        common = x.mean(1, keepdim=True) * x.shape[1] ** 0.5
        windows = self.value(x + 0.25 * common).reshape(-1, 16, 24)
        queries = self.ask(x[:, :16] + 6.0 * common).repeat_interleave(windows.shape[0] // x.shape[0], dim=0)
        return self.head((queries * windows).reshape(x.shape[0], -1, 24).mean(1))


CASES = {
    "many keys": (lambda: ManyKeys(False), (16, 96, 32), 0.2),
    "many keys, written out": (lambda: ManyKeys(True), (16, 96, 32), 0.2),
    "convolved values": (Conditional, (16, 9, 32), 0.2),
    "late class token": (LateToken, (16, 14, 32), 0.15),
    "repeated queries": (SharedQueries, (16, 128, 32), 0.15),
    "unequal pieces": (UnequalPieces, (16, 12, 32), 0.2),
}


@pytest.mark.parametrize("name", CASES)
def test_weight_gradients_within_a_fraction_of_a_decade(name):
    torch.set_num_threads(1)
    build, shape, tolerance = CASES[name]
    for layer, predicted, measured in compared(build, torch.randn(shape)):
        assert predicted == pytest.approx(measured, abs=tolerance), layer


def test_neighbours_that_become_one_token_stay_as_alike_as_tokens_are():
    """Patch merging (Liu et al. 2021, §3.1) is no merging of heads: tokens that share 0.2 do so as fours, too."""

    def rest(h):
        h = h + 0.5 * h[:, :1, :1]
        return h.reshape(-1, 4, 2, 4, 2, 8).permute(0, 1, 3, 4, 2, 5).flatten(3)

    graph = traced(lambda: Net(rest, nn.Linear(8, 8, bias=False)), torch.randn(BATCH, 8, 8, 8))
    merged = output(graph, "flatten")
    assert (merged.positions, merged.features) == (16.0, 32.0)
    assert merged.s == pytest.approx(0.25 / 1.25, abs=0.02)


def test_a_known_mask_leaves_nothing_to_doubt():
    def rest(h):
        return h.masked_fill(torch.ones(4, 4, dtype=torch.bool, device=h.device).triu(1), -1e9).softmax(-1)

    graph = traced(lambda: Net(rest, nn.Linear(4, 4)), torch.randn(BATCH, 4, 4))
    assert profile(graph, batch_size=BATCH).confidence == "high"


def test_the_positions_of_an_image_are_no_heads():
    """Patches cut into images of their own (TNT): what a convolution makes of them are tokens, not feature groups."""
    conv = nn.Conv2d(3, 6, 3, padding=1)

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.conv = nn.Linear(8, 48), conv

        def forward(self, x):
            return self.conv(self.layer(x).reshape(-1, 3, 4, 4))

    assert output(traced(Cut, torch.randn(BATCH, 5, 8)), "conv2d").groups == 1.0
