"""Nets that no rule was developed on: written after the rules were frozen, run with `prediction.py --set heldout`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from prediction_nets import BATCH, Case
from torch import nn


def chain(widths: list[int], act: type[nn.Module], init: Callable[[torch.Tensor], object] | None = None) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(96, widths[0])]
    for i, o in zip(widths, [*widths[1:], 10], strict=True):
        layers += [act(), nn.Linear(i, o)]
    for layer in layers:
        if init is not None and isinstance(layer, nn.Linear):
            init(layer.weight)
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """x + scale · body(x)."""

    def __init__(self, body: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.body(x)


class Scaled(nn.Module):
    """LayerScale (Touvron et al. 2021)."""

    def __init__(self, body: nn.Module, width: int, start: float) -> None:
        super().__init__()
        self.body, self.gamma = body, nn.Parameter(start * torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.gamma * self.body(x)


class Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width // 4), nn.Linear(width // 4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


def inverted(width: int, squeeze: bool) -> nn.Module:
    """The inverted residual of MobileNetV2, with or without squeeze and excitation."""
    wide = 4 * width
    return Residual(
        nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            *([Squeeze(wide)] if squeeze else []),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
    )


def image_net(stem: nn.Module, body: list[nn.Module], width: int) -> nn.Module:
    return nn.Sequential(stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Dense(nn.Module):
    """A DenseNet block: every layer reads all before it."""

    def __init__(self, depth: int, growth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, growth, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(growth * (i + 1)), nn.ReLU(), nn.Conv2d(growth * (i + 1), growth, 3, padding=1)
            )
            for i in range(depth)
        )
        self.head = nn.Linear(growth * (depth + 1), 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))


class Inception(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width, width // 2, 3, padding=1)
        self.five = nn.Conv2d(width, width // 4, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(torch.cat([self.one(x), self.three(x), self.five(x)], 1))


class WaveNet(nn.Module):
    """Gated dilated convolutions with residual and skip outputs (van den Oord et al. 2016)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(8, 32, 1)
        self.gates = nn.ModuleList(
            nn.Conv1d(32, 64, 2, dilation=2 ** (i % 4), padding=2 ** (i % 4)) for i in range(depth)
        )
        self.out, self.head = nn.ModuleList(nn.Conv1d(32, 32, 1) for _ in range(depth)), nn.Conv1d(32, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        total = 0
        for gate, out in zip(self.gates, self.out, strict=True):
            a, b = gate(x)[..., : x.shape[-1]].chunk(2, 1)
            y = out(torch.tanh(a) * torch.sigmoid(b))
            x, total = x + y, total + y
        return self.head(F.relu(total)).mean(-1)


class Llama(nn.Module):
    """RMSNorm, SwiGLU and causal attention, without biases."""

    def __init__(self, depth: int, std: float | None) -> None:
        super().__init__()
        self.embed, self.depth = nn.Embedding(100, 64), depth
        self.norms = nn.ModuleList(nn.RMSNorm(64) for _ in range(2 * depth + 1))
        self.qkv = nn.ModuleList(nn.Linear(64, 192, bias=False) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(64, 172, bias=False) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(64, 172, bias=False) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(172, 64, bias=False) for _ in range(depth))
        self.head = nn.Linear(64, 100, bias=False)
        if std:
            for p in self.parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, 0.0, std)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        n, t, d = x.shape
        for i in range(self.depth):
            parts = self.qkv[i](self.norms[2 * i](x)).view(n, t, 3, 4, 16).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
            x = x + self.out[i](y.transpose(1, 2).reshape(n, t, d))
            y = self.norms[2 * i + 1](x)
            x = x + self.down[i](F.silu(self.gate[i](y)) * self.up[i](y))
        return self.head(self.norms[-1](x))


class Encoder(nn.Module):
    """`nn.TransformerEncoderLayer`s, each drawn anew or copied as `nn.TransformerEncoder` does."""

    def __init__(self, depth: int, pre: bool, copied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)

        def layer() -> nn.Module:
            return nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=pre)

        stack = nn.TransformerEncoder(layer(), depth, enable_nested_tensor=False)
        self.body = stack if copied else nn.Sequential(*[layer() for _ in range(depth)])
        self.head = nn.Linear(64, 100)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(ids)))


class Patches(nn.Module):
    """A vision transformer with a class token."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 64, 4, 4), nn.Parameter(torch.zeros(1, 1, 64))
        self.place = nn.Parameter(0.02 * torch.randn(1, 17, 64))
        layers = [
            nn.TransformerEncoderLayer(64, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(depth)
        ]
        self.body, self.norm, self.head = nn.Sequential(*layers), nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.body(x))[:, 0])


class Sequences(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], embed: bool = False, mean: bool = False, **options: object) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32) if embed else nn.Identity()
        self.mean, self.cell = mean, cell(32, 48, batch_first=True, **options)
        self.head = nn.Linear(96 if options.get("bidirectional") else 48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cell(self.embed(x))[0]
        return self.head(y.mean(1) if self.mean else y[:, -1])


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.LSTM(32, 48, batch_first=True),
            nn.GRU(32, 48, batch_first=True),
            nn.Linear(48, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (h, _) = self.first(x)
        return self.head(self.second(x, h)[0])


class Convolved(nn.Module):
    """Convolutions over time, then a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(32, 32, 5, padding=2), nn.Conv1d(32, 32, 5, padding=2)
        self.cell, self.head = nn.GRU(32, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool1d(F.relu(self.b(F.relu(self.a(x.transpose(1, 2))))), 2)
        return self.head(self.cell(y.transpose(1, 2))[0][:, -1])


class Normalised(nn.Module):
    """A layer norm written out by hand."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)


class Mixture(nn.Module):
    """Experts mixed by a softmax gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.stem, self.head = nn.Linear(96, 4), nn.Linear(96, 64), nn.Linear(64, 10)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, y = torch.softmax(self.gate(x), -1), F.relu(self.stem(x))
        return self.head(sum(weights[:, i : i + 1] * e(y) for i, e in enumerate(self.experts)))


class Gated(nn.Module):
    """Linear layers under GLU (Dauphin et al. 2017)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(96, 192) for _ in range(depth)), nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.glu(layer(x))
        return self.head(x)


def _mlps() -> Iterator[Case]:
    flat = (BATCH, 96)
    for act in (nn.SiLU, nn.Mish, nn.SELU, nn.Softplus, nn.LeakyReLU, nn.Hardtanh, nn.Softsign, nn.ReLU6, nn.CELU):
        yield "mlp", f"{act.__name__} 12", lambda a=act: chain([96] * 12, a), flat
    yield (
        "mlp",
        "SELU lecun 30",
        lambda: chain([96] * 30, nn.SELU, lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear")),
        flat,
    )
    yield "mlp", "bottleneck", lambda: chain([256, 64, 16, 64, 256], nn.ReLU), flat
    yield "mlp", "pyramid tanh xavier", lambda: chain([384, 192, 96, 48, 24], nn.Tanh, nn.init.xavier_uniform_), flat
    yield "mlp", "trunc normal", lambda: chain([96] * 8, nn.GELU, lambda w: nn.init.trunc_normal_(w, std=0.02)), flat
    yield "mlp", "uniform(-.5, .5)", lambda: chain([96] * 8, nn.Tanh, lambda w: nn.init.uniform_(w, -0.5, 0.5)), flat
    yield "mlp", "glu 8", lambda: Gated(8), flat
    yield (
        "mlp",
        "hand-written norm",
        lambda: nn.Sequential(
            *[m for _ in range(8) for m in (nn.Linear(96, 96), Normalised(), nn.ReLU())], nn.Linear(96, 10)
        ),
        flat,
    )
    yield "mlp", "mixture", Mixture, flat
    yield (
        "mlp",
        "dropout",
        lambda: nn.Sequential(
            *[m for _ in range(6) for m in (nn.Linear(96, 96), nn.ReLU(), nn.Dropout(0.3))], nn.Linear(96, 10)
        ),
        flat,
    )
    body = lambda: nn.Sequential(nn.LayerNorm(96), nn.Linear(96, 192), nn.GELU(), nn.Linear(192, 96))  # noqa: E731
    plain = lambda: nn.Sequential(nn.Linear(96, 96), nn.Tanh(), nn.Linear(96, 96))  # noqa: E731
    yield (
        "residual",
        "scaled 0.1",
        lambda: nn.Sequential(*[Residual(plain(), 0.1) for _ in range(20)], nn.Linear(96, 10)),
        flat,
    )
    yield (
        "residual",
        "plain 20",
        lambda: nn.Sequential(*[Residual(plain()) for _ in range(20)], nn.Linear(96, 10)),
        flat,
    )
    yield (
        "residual",
        "layer scale",
        lambda: nn.Sequential(*[Scaled(body(), 96, 0.1) for _ in range(12)], nn.Linear(96, 10)),
        flat,
    )


def _images() -> Iterator[Case]:
    image = (BATCH, 3, 16, 16)
    stem = lambda: nn.Sequential(nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())  # noqa: E731
    for squeeze in (False, True):
        yield (
            "image",
            f"mobile, squeeze {squeeze}",
            lambda s=squeeze: image_net(stem(), [inverted(24, s) for _ in range(6)], 24),
            image,
        )
    yield "image", "dense 8", lambda: Dense(8, 12), image
    yield (
        "image",
        "inception 5",
        lambda: image_net(nn.Conv2d(3, 32, 3, padding=1), [Inception(32) for _ in range(5)], 32),
        image,
    )
    yield (
        "image",
        "avg pool tanh",
        lambda: image_net(nn.Conv2d(3, 16, 5), [nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(16, 32, 3), nn.Tanh()], 32),
        image,
    )
    yield (
        "image",
        "lenet",
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 5, padding=2),
            nn.Sigmoid(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Sigmoid(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 120),
            nn.Sigmoid(),
            nn.Linear(120, 10),
        ),
        image,
    )
    yield (
        "image",
        "discriminator",
        lambda: image_net(
            nn.Conv2d(3, 32, 4, 2, 1),
            [nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 4, 2, 1), nn.InstanceNorm2d(64), nn.LeakyReLU(0.2)],
            64,
        ),
        image,
    )
    yield (
        "image",
        "pre-activation",
        lambda: image_net(
            nn.Conv2d(3, 24, 3, padding=1),
            [
                Residual(nn.Sequential(nn.GroupNorm(4, 24), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1)))
                for _ in range(10)
            ],
            24,
        ),
        image,
    )
    yield (
        "image",
        "residual, no norm",
        lambda: image_net(
            nn.Conv2d(3, 24, 3, padding=1),
            [
                Residual(nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1)))
                for _ in range(10)
            ],
            24,
        ),
        image,
    )
    yield (
        "image",
        "dilated reflect",
        lambda: image_net(
            nn.Conv2d(3, 24, 3, padding=1),
            [
                m
                for d in (1, 2, 4)
                for m in (nn.ReLU(), nn.Conv2d(24, 24, 3, padding=d, dilation=d, padding_mode="reflect"))
            ],
            24,
        ),
        image,
    )
    yield (
        "image",
        "autoencoder",
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
            nn.Flatten(),
        ),
        image,
    )
    yield "image", "vit 6", lambda: Patches(6), image
    yield (
        "image",
        "3-d",
        lambda: nn.Sequential(
            nn.Conv3d(2, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        ),
        (BATCH, 2, 8, 8, 8),
    )


def _sequences() -> Iterator[Case]:
    ids, series = (0, BATCH, 16), (BATCH, 24, 32)
    yield "sequence", "wavenet 8", lambda: WaveNet(8), (BATCH, 8, 32)
    for depth, std in ((4, None), (12, 0.02)):
        yield "sequence", f"llama {depth} {std}", lambda d=depth, s=std: Llama(d, s), ids
    for depth, pre in ((4, True), (4, False), (24, True), (24, False)):
        yield "sequence", f"encoder {depth} pre={pre}", lambda d=depth, p=pre: Encoder(d, p, False), ids
    for pre in (True, False):
        yield "copied", f"TransformerEncoder 6 pre={pre}", lambda p=pre: Encoder(6, p, True), ids
    yield "sequence", "bidirectional gru", lambda: Sequences(nn.GRU, mean=True, bidirectional=True), series
    yield "sequence", "relu rnn", lambda: Sequences(nn.RNN, nonlinearity="relu"), series
    yield "sequence", "embedded lstm", lambda: Sequences(nn.LSTM, embed=True, mean=True), ids
    yield "sequence", "lstm of 200 steps", lambda: Sequences(nn.LSTM), (BATCH, 200, 32)
    yield "sequence", "last state", LastState, series
    yield "sequence", "convolved gru", Convolved, series


def cases() -> Iterator[Case]:
    """All held-out nets."""
    yield from _mlps()
    yield from _images()
    yield from _sequences()
