"""More nets that no rule was developed on, of forms the first held-out set lacks: `prediction.py --set unseen`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from prediction_nets import BATCH, Case
from torch import Tensor, nn

WIDTH, CLASSES = 112, 7


def plain(depth: int, act: Callable[[], nn.Module], init: Callable[[Tensor], object] | None = None) -> nn.Module:
    """Linear layers of one width with an activation after each."""
    net = nn.Sequential()
    for _ in range(depth):
        net.append(nn.Linear(WIDTH, WIDTH)).append(act())
    net.append(nn.Linear(WIDTH, CLASSES))
    for layer in net:
        if init is not None and isinstance(layer, nn.Linear):
            init(layer.weight)
    return net


class Siren(nn.Module):
    """sin(30 · linear) with its own init (Sitzmann et al. 2020)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.head = nn.Linear(WIDTH, CLASSES)
        bound = math.sqrt(6 / WIDTH) / 30.0
        for layer in self.layers:
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.uniform_(self.layers[0].weight, -1 / WIDTH, 1 / WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(30.0 * layer(x))
        return self.head(x)


class Maxout(nn.Module):
    """The largest of two linear maps, per layer (Goodfellow et al. 2013)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(depth))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            a, b = layer(x).chunk(2, dim=-1)
            x = torch.maximum(a, b)
        return self.head(x)


class Dense(nn.Module):
    """Every layer reads the concatenation of all before it."""

    def __init__(self, depth: int, growth: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH + i * growth, growth) for i in range(depth))
        self.head = nn.Linear(WIDTH + depth * growth, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(F.relu(layer(torch.cat(seen, dim=1))))
        return self.head(torch.cat(seen, dim=1))


class ActorCritic(nn.Module):
    """A shared tanh trunk with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.policy, self.value = nn.Linear(64, CLASSES), nn.Linear(64, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.trunk(x)
        return torch.cat([self.policy(hidden), self.value(hidden)], dim=-1)


class DeepSet(nn.Module):
    """Elements alone, a mean (or the largest) over the set, then the whole."""

    def __init__(self, largest: bool) -> None:
        super().__init__()
        self.largest = largest
        self.element = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.whole = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.element(x)
        return self.whole(seen.amax(dim=1) if self.largest else seen.mean(dim=1))


class Residual(nn.Module):
    """x + body(norm(x)), and a projection where the widths differ."""

    def __init__(self, body: nn.Module, norm: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.norm, self.after = body, norm or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.body(self.norm(x)))


def block(act: type[nn.Module], expand: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, expand * WIDTH), act(), nn.Linear(expand * WIDTH, WIDTH))


def residual(depth: int, act: type[nn.Module], norm: type[nn.Module] | None, after: bool = False) -> nn.Module:
    made = [
        Residual(
            block(act),
            norm(WIDTH) if norm is not None and not after else None,
            norm(WIDTH) if norm is not None and after else None,
        )
        for _ in range(depth)
    ]
    return nn.Sequential(*made, nn.Linear(WIDTH, CLASSES))


def convolutions(depth: int, norm: Callable[[int], nn.Module] | None, act: type[nn.Module], stride: int) -> nn.Module:
    """Convolutions that double their channels wherever they stride."""
    net, channels = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), act()), 24
    for i in range(depth):
        step = stride if i % 3 == 2 else 1
        net.append(nn.Conv2d(channels, channels * step, 3, step, 1, bias=norm is None))
        channels *= step
        if norm is not None:
            net.append(norm(channels))
        net.append(act())
    return net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(channels, CLASSES))


def separable(depth: int) -> nn.Module:
    """Depthwise and pointwise convolutions with batch norm and ReLU6 (Howard et al. 2017)."""
    net = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
    for _ in range(depth):
        net.append(nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)).append(nn.BatchNorm2d(32)).append(nn.ReLU6())
        net.append(nn.Conv2d(32, 32, 1, bias=False)).append(nn.BatchNorm2d(32)).append(nn.ReLU6())
    return net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(32, CLASSES))


def convnext(depth: int, scale: float) -> nn.Module:
    """Depthwise 7×7, group norm over all channels, expansion by four with GELU, on a residual stream."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.full((24, 1, 1), scale))

        def forward(self, x: Tensor) -> Tensor:
            return self.gamma * x

    net = nn.Sequential(nn.Conv2d(3, 24, 2, 2), nn.GroupNorm(1, 24))
    for _ in range(depth):
        body = nn.Sequential(
            nn.Conv2d(24, 24, 7, padding=3, groups=24), nn.GroupNorm(1, 24), nn.Conv2d(24, 96, 1), nn.GELU(),
            nn.Conv2d(96, 24, 1), Scaled(),
        )  # fmt: skip
        net.append(Residual(body))
    return net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(24, CLASSES))


def vgg(norm: bool) -> nn.Module:
    """Four stages of two convolutions, max pools, and three linear layers with dropout."""
    net, inside = nn.Sequential(), 3
    for channels in (16, 32, 64, 64):
        for _ in range(2):
            net.append(nn.Conv2d(inside, channels, 3, padding=1))
            if norm:
                net.append(nn.BatchNorm2d(channels))
            net.append(nn.ReLU(inplace=True))
            inside = channels
        net.append(nn.MaxPool2d(2))
    net.append(nn.Flatten())
    for i, o in ((256, 128), (128, 128)):
        net.append(nn.Linear(i, o)).append(nn.ReLU(inplace=True)).append(nn.Dropout())
    return net.append(nn.Linear(128, CLASSES))


class Upsampled(nn.Module):
    """Encoder and decoder with interpolation and concatenated skips."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), norm(16), nn.LeakyReLU(0.2))
        self.down2 = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), norm(32), nn.LeakyReLU(0.2))
        self.down3 = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), norm(64), nn.LeakyReLU(0.2))
        self.up2 = nn.Sequential(nn.Conv2d(96, 32, 3, padding=1), norm(32), nn.ReLU())
        self.up1 = nn.Sequential(nn.Conv2d(48, 16, 3, padding=1), norm(16), nn.ReLU())
        self.head = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(one)
        three = F.interpolate(self.down3(two), scale_factor=2.0)
        up = self.up2(torch.cat([three, two], dim=1))
        up = self.up1(torch.cat([F.interpolate(up, scale_factor=2.0, mode="bilinear"), one], dim=1))
        return self.head(up).permute(0, 2, 3, 1)


class TextCnn(nn.Module):
    """Convolutions of three widths over embedded tokens, the largest over time (Kim 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 48)
        self.convs = nn.ModuleList(nn.Conv1d(48, 32, k) for k in (3, 4, 5))
        self.head = nn.Linear(96, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).transpose(1, 2)
        return self.head(torch.cat([F.relu(c(x)).amax(dim=2) for c in self.convs], dim=1))


class Rms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Decoder(nn.Module):
    """Causal attention and SwiGLU under RMS norms; positions are learned; the head is tied to the embedding."""

    def __init__(self, depth: int, tied: bool, std: float | None) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(200, 64), nn.Parameter(torch.randn(16, 64) * 0.02)
        self.norms = nn.ModuleList(Rms(64) for _ in range(2 * depth + 1))
        self.qkv = nn.ModuleList(nn.Linear(64, 192, bias=False) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(64, 128, bias=False) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(64, 128, bias=False) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(128, 64, bias=False) for _ in range(depth))
        self.head = nn.Linear(64, 200, bias=False)
        if std is not None:
            for module in self.modules():
                if isinstance(module, (nn.Linear, nn.Embedding)):
                    nn.init.normal_(module.weight, 0.0, std)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.position
        for i, (qkv, out) in enumerate(zip(self.qkv, self.out, strict=True)):
            b, t, _ = x.shape
            q, k, v = qkv(self.norms[2 * i](x)).view(b, t, 3, 4, 16).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(seen.transpose(1, 2).reshape(b, t, 64))
            hidden = self.norms[2 * i + 1](x)
            x = x + self.down[i](F.silu(self.gate[i](hidden)) * self.up[i](hidden))
        return self.head(self.norms[-1](x))


class Translator(nn.Module):
    """nn.Transformer over two embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        self.body = nn.Transformer(32, 4, 2, 2, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.embed(ids), self.embed(ids)))


class Recurrent(nn.Module):
    """A recurrent net whose outputs are pooled, attended to, or read at the end."""

    def __init__(self, cell: type[nn.RNNBase], read: str, **options: object) -> None:
        super().__init__()
        self.rnn, self.read = cell(24, 48, batch_first=True, **options), read
        width = 48 * (2 if options.get("bidirectional") else 1)
        self.score, self.head = nn.Linear(width, 1), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        if self.read == "largest":
            return self.head(out.amax(dim=1))
        if self.read == "attention":
            return self.head((torch.softmax(self.score(out), dim=1) * out).sum(dim=1))
        return self.head(out[:, -1])


class Cell(nn.Module):
    """A recurrence written out."""

    def __init__(self, steps: int, norm: bool) -> None:
        super().__init__()
        self.steps, self.read, self.back = steps, nn.Linear(24, 48), nn.Linear(48, 48)
        self.norm, self.head = nn.LayerNorm(48) if norm else nn.Identity(), nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.zeros(x.shape[0], 48, dtype=x.dtype, device=x.device)
        for t in range(self.steps):
            hidden = torch.tanh(self.norm(self.read(x[:, t]) + self.back(hidden)))
        return self.head(hidden)


def temporal(depth: int, weight_norm: bool) -> nn.Module:
    """Dilated one-dimensional convolutions."""
    net = nn.Sequential(nn.Conv1d(8, 32, 1))
    for i in range(depth):
        conv: nn.Module = nn.Conv1d(32, 32, 3, padding=2**i, dilation=2**i)
        net.append(nn.utils.parametrizations.weight_norm(conv) if weight_norm else conv).append(nn.ReLU())
    return net.append(nn.AdaptiveAvgPool1d(1)).append(nn.Flatten()).append(nn.Linear(32, CLASSES))


def cases() -> Iterator[Case]:
    """All nets."""
    flat, image, ids, series = (BATCH, WIDTH), (BATCH, 3, 16, 16), (0, BATCH, 16), (BATCH, 24, 24)
    for act in (nn.Mish, nn.Softplus, nn.Hardtanh, nn.LogSigmoid, nn.CELU, nn.Tanhshrink):
        yield "plain", f"{act.__name__} 9", lambda a=act: plain(9, a), flat
    yield "plain", "leaky 0.3, he with a", lambda: plain(25, lambda: nn.LeakyReLU(0.3), leaky), flat
    yield "plain", "prelu 15", lambda: plain(15, nn.PReLU, nn.init.kaiming_uniform_), flat
    yield "plain", "tanh 40, gain 5/3", lambda: plain(40, nn.Tanh, tanh_gain), flat
    yield "plain", "relu 12, sparse", lambda: plain(12, nn.ReLU, lambda w: nn.init.sparse_(w, 0.8, 0.1)), flat
    yield "plain", "alpha dropout", lambda: plain(10, lambda: nn.Sequential(nn.SELU(), nn.AlphaDropout(0.1))), flat
    yield "plain", "siren 5", lambda: Siren(5), flat
    yield "plain", "maxout 6", lambda: Maxout(6), flat
    yield "plain", "dense 10", lambda: Dense(10), flat
    yield "plain", "actor and critic", ActorCritic, flat
    for largest in (False, True):
        yield "sets", f"largest={largest}", lambda m=largest: DeepSet(m), (BATCH, 12, 32)
    for norm in (None, nn.LayerNorm, nn.BatchNorm1d, Rms):
        name = norm.__name__ if norm else "none"
        yield "residual", f"gelu 16, norm {name}", lambda n=norm: residual(16, nn.GELU, n), flat
    yield "residual", "relu 8, norm after", lambda: residual(8, nn.ReLU, nn.LayerNorm, after=True), flat
    yield "residual", "tanh 12", lambda: residual(12, nn.Tanh, None), flat
    groups = {"none": None, "group": lambda c: nn.GroupNorm(8, c), "instance": nn.InstanceNorm2d, "bn": nn.BatchNorm2d}
    for name, kind in groups.items():
        yield "image", f"strided 9, norm {name}", lambda k=kind: convolutions(9, k, nn.ReLU, 2), image
    yield "image", "silu 6", lambda: convolutions(6, nn.BatchNorm2d, nn.SiLU, 2), image
    yield "image", "elu 8, one width", lambda: convolutions(8, None, nn.ELU, 1), image
    yield "image", "separable 5", lambda: separable(5), image
    for scale in (1.0, 1e-6):
        yield "image", f"convnext 4, scale {scale:g}", lambda s=scale: convnext(4, s), image
    for normed in (False, True):
        yield "image", f"vgg, norm={normed}", lambda n=normed: vgg(n), (BATCH, 3, 32, 32)
    yield "image", "upsampled bn", lambda: Upsampled(nn.BatchNorm2d), image
    yield "image", "upsampled in", lambda: Upsampled(nn.InstanceNorm2d), image
    yield "tokens", "text cnn", TextCnn, ids
    for depth, tied, std in ((3, False, None), (8, False, 0.02), (6, True, 0.02)):
        yield "tokens", f"decoder {depth} {tied} {std}", lambda d=depth, t=tied, s=std: Decoder(d, t, s), ids
    yield "tokens", "translator", Translator, ids
    yield "series", "lstm, largest", lambda: Recurrent(nn.LSTM, "largest"), series
    yield "series", "gru, attention, both ways", lambda: Recurrent(nn.GRU, "attention", bidirectional=True), series
    yield "series", "gru of three layers", lambda: Recurrent(nn.GRU, "last", num_layers=3), series
    for normed in (False, True):
        yield "series", f"cell, norm={normed}", lambda n=normed: Cell(24, n), series
    for normed in (False, True):
        yield "series", f"dilated 5, weight norm={normed}", lambda n=normed: temporal(5, n), (BATCH, 8, 48)


def leaky(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, a=0.3)


def tanh_gain(weight: Tensor) -> None:
    nn.init.xavier_normal_(weight, gain=nn.init.calculate_gain("tanh"))
