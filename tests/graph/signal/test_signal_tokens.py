"""Tokens of several kinds, features that trade places with positions, and weights made of other weights."""

from __future__ import annotations

import math

import pytest
from test_signal_nets import compared

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.torch


class Block(nn.Module):
    """Attention of one head and an MLP, each behind a layer norm on a stream."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ClassToken(nn.Module):
    """A vision transformer as published: the class token starts near zero, and alone is read (Dosovitskiy 2021)."""

    def __init__(self, width=48):
        super().__init__()
        self.embed = nn.Linear(32, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 13, width))
        nn.init.normal_(self.token, std=1e-6)
        nn.init.normal_(self.places, std=0.02)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(4)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], dim=1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


class ChannelAttention(nn.Module):
    """Channels attend to channels (XCA), and an MLP runs over tokens (a mixer)."""

    def __init__(self, width=24, tokens=40):
        super().__init__()
        self.embed, self.norm, self.norm2 = nn.Linear(32, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mix, self.back, self.head = nn.Linear(tokens, 64), nn.Linear(64, tokens), nn.Linear(width, 10)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = (t.transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, dim=-1))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2))
        x = x + self.back(F.gelu(self.mix(self.norm2(x).transpose(1, 2)))).transpose(1, 2)
        return self.head(x.mean(1))


class PooledKeys(nn.Module):
    """Many queries read few keys, pooled by a strided layer (PVT), and one query reads all at the end (CaiT)."""

    def __init__(self, written_out, width=24):
        super().__init__()
        self.written_out = written_out
        self.embed, self.norm = nn.Linear(32, width), nn.LayerNorm(width)
        self.q, self.pool, self.kv, self.proj = (nn.Linear(width, n * width) for n in (1, 1, 2, 1))
        self.query, self.keys, self.head = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, 10)

    def attend(self, q, k, v):
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (q, k, v))
        if self.written_out:
            y = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).flatten(2)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.proj(self.attend(self.q(y), *self.kv(self.pool(y[:, ::16])).chunk(2, dim=-1)))
        return self.head(self.attend(self.query(x[:, :1]), *self.keys(x).chunk(2, dim=-1)))


class Windows(nn.Module):
    """Every window of tokens that are alike is read by the same queries (GC-ViT), which are not cut off by it."""

    def __init__(self, width=24):
        super().__init__()
        self.embed, self.norm = nn.Linear(32, width), nn.LayerNorm(width)
        self.ask, self.kv, self.head = nn.Linear(32, width), nn.Linear(width, 2 * width), nn.Linear(width, 10)

    def forward(self, x):
        y = self.norm(self.embed(x + x.mean(1, keepdim=True) * 8.0)).reshape(-1, 4, 24)
        q = self.ask(x[:, :4]).repeat_interleave(16, dim=0)
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (q, *self.kv(y).chunk(2, dim=-1)))
        y = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return self.head(y.transpose(1, 2).reshape(x.shape[0], 64, 24).mean(1))


class LinearAttention(nn.Module):
    """Keys share themselves out over the tokens, each feature by itself (CoaT, MobileViTv2)."""

    def __init__(self, width=24):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(32, width), nn.LayerNorm(width), nn.Linear(width, 10)
        self.score, self.key, self.value = nn.Linear(width, 1), nn.Linear(width, width), nn.Linear(width, width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm(x)
        context = (self.key(y) * self.score(y).softmax(1)).sum(1, keepdim=True)
        x = x + F.relu(self.value(y)) * context
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return self.head(x + self.proj(q @ (k.softmax(1).transpose(1, 2) @ v)))


class Shared(nn.Module):
    """One layer at three places of a stream (ALBERT)."""

    def __init__(self, width=32):
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        for _ in range(3):
            x = x + 0.3 * self.layer(self.norm(x))
        return self.head(x)


class Patches(nn.Module):
    """Channels pass through the batch axis while patches are cut, and come back as features (MobileViT)."""

    def __init__(self, width=16):
        super().__init__()
        self.conv, self.layer = nn.Conv2d(3, width, 3, padding=1), Block(width)
        self.back, self.head = nn.Conv2d(width, width, 1), nn.Linear(width, 10)

    def forward(self, x):
        x = self.conv(x)
        b, c, h, w = x.shape
        y = x.reshape(b * c * h // 2, 2, w // 2, 2).transpose(1, 2).reshape(b, c, h * w // 4, 4)
        y = self.layer(y.transpose(1, 3).reshape(b * 4, h * w // 4, c))
        y = y.contiguous().view(b, 4, h * w // 4, c).transpose(1, 3)
        y = y.reshape(b * c * h // 2, w // 2, 2, 2).transpose(1, 2).reshape(b, c, h, w)
        return self.head(F.relu(self.back(y)).mean((2, 3)))


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised for each output (Qiao et al. 2019)."""

    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / math.sqrt(w[0].numel()), self.bias, padding=1)


def standardised():
    layers = [Standardised(3, 32, 3), nn.ReLU()]
    for _ in range(3):
        layers += [Standardised(32, 32, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


CASES = {
    "class token": (ClassToken, (16, 12, 32), 0.2),
    "channel attention": (ChannelAttention, (16, 40, 32), 0.3),
    "few keys": (lambda: PooledKeys(False), (16, 64, 32), 0.45),
    "few keys, written out": (lambda: PooledKeys(True), (16, 64, 32), 0.45),
    "windows": (Windows, (16, 64, 32), 0.35),
    "linear attention": (LinearAttention, (16, 40, 32), 0.4),
    "shared weights": (Shared, (16, 6, 32), 0.3),
    "patches": (Patches, (8, 3, 8, 8), 0.25),
    "standardised weights": (standardised, (16, 3, 12, 12), 0.2),
}


@pytest.mark.parametrize("name", CASES)
def test_weight_gradients_within_a_fraction_of_a_decade(name):
    torch.set_num_threads(1)
    build, shape, tolerance = CASES[name]
    for layer, predicted, measured in compared(build, torch.randn(shape)):
        assert predicted == pytest.approx(measured, abs=tolerance), layer


class HandWrittenNorm(nn.Module):
    """RMS norm as language models write it, twelve in a row on a residual stream."""

    def __init__(self, width=32):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(12)])
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        return self.head(x)


def test_norms_written_out_do_not_add_to_what_is_uncertain():
    for layer, predicted, measured in compared(HandWrittenNorm, torch.randn(16, 6, 32)):
        assert predicted == pytest.approx(measured, abs=0.2), layer
