"""The nets that the prediction is measured on, by family: name → (constructor, input)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

Case = tuple[str, str, Callable[[], nn.Module], tuple[int, ...]]
"""(family, name, constructor, input shape; a shape that starts with 0 stands for token ids)."""


@dataclass(frozen=True)
class Published:
    """A net of a library, by what a script would import and write."""

    imports: str
    expression: str

    def __call__(self) -> nn.Module:
        names: dict[str, object] = {}
        exec(self.imports, names)
        net = eval(self.expression, names)
        assert isinstance(net, nn.Module)
        return net


BATCH = 16
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "elu": nn.ELU}
INITS: dict[str, Callable[[torch.Tensor], object] | None] = {
    "default": None,
    "xavier": nn.init.xavier_normal_,
    "he": nn.init.kaiming_normal_,
    "n(0,.01)": lambda w: nn.init.normal_(w, 0.0, 0.01),
    "n(0,1)": lambda w: nn.init.normal_(w, 0.0, 1.0),
    "orthogonal": nn.init.orthogonal_,
}


def mlp(
    act: type[nn.Module], depth: int, init: Callable[[torch.Tensor], object] | None, norm: type[nn.Module] | None = None
) -> nn.Module:
    width = 128
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), *([norm(width)] if norm else []), act()]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    if init is not None:
        for module in net.modules():
            if isinstance(module, nn.Linear):
                init(module.weight)
    return net


def cnn(depth: int, norm: Callable[[int], nn.Module] | None, act: type[nn.Module], he: bool, pool: bool) -> nn.Module:
    layers: list[nn.Module] = []
    channels, width = 3, 32
    for i in range(depth):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, stride=1 if pool or i % 3 else 2))
        if he:
            nn.init.kaiming_normal_(layers[-1].weight)
        layers += [*([norm(width)] if norm else []), act()]
        if pool and i % 3 == 2:
            layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class ResNet(nn.Module):
    """The residual nets of He et al. 2016, basic or bottleneck blocks, each part switchable."""

    def __init__(
        self, blocks: list[int], bottleneck: bool, norm: bool = True, skip: bool = True, width: int = 16
    ) -> None:
        super().__init__()
        self.skip = skip
        bn: Callable[[int], nn.Module] = nn.BatchNorm2d if norm else (lambda n: nn.Identity())
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=not norm), bn(width), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        branches, shorts, channels = [], [], width
        grow = 4 if bottleneck else 1
        for stage, count in enumerate(blocks):
            inner = width * 2**stage
            for i in range(count):
                stride = 2 if i == 0 and stage else 1
                out = inner * grow
                if bottleneck:
                    parts = [nn.Conv2d(channels, inner, 1, bias=False), bn(inner), nn.ReLU()]
                    parts += [nn.Conv2d(inner, inner, 3, stride, 1, bias=False), bn(inner), nn.ReLU()]
                    parts += [nn.Conv2d(inner, out, 1, bias=False), bn(out)]
                else:
                    parts = [nn.Conv2d(channels, inner, 3, stride, 1, bias=False), bn(inner), nn.ReLU()]
                    parts += [nn.Conv2d(inner, out, 3, 1, 1, bias=False), bn(out)]
                branches.append(nn.Sequential(*parts))
                project = skip and (stride > 1 or channels != out)
                shorts.append(
                    nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), bn(out))
                    if project
                    else nn.Identity()
                )
                channels = out
        self.branches, self.shorts = nn.ModuleList(branches), nn.ModuleList(shorts)
        self.head = nn.Linear(channels, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(x))
        for branch, short in zip(self.branches, self.shorts, strict=True):
            x = F.relu(branch(x) + short(x)) if self.skip else F.relu(branch(x))
        return self.head(x.mean((2, 3)))


class ResidualMLP(nn.Module):
    def __init__(self, depth: int, act: type[nn.Module], norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(128, 128) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(128) if norm else nn.Identity() for _ in range(depth))
        self.act, self.head = act(), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + self.act(layer(norm(x)))
        return self.head(x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, pre: bool, fused: bool, small: bool) -> None:
        super().__init__()
        self.heads, self.pre, self.fused = heads, pre, fused
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down, self.act = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.GELU()
        if small:
            for module in (self.query, self.key, self.value, self.out, self.up, self.down):
                nn.init.normal_(module.weight, 0.0, 0.02)
                nn.init.zeros_(module.bias)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        n, t, d = x.shape
        q, k, v = (
            f(x).view(n, t, self.heads, d // self.heads).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5, dim=-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pre:
            x = x + self.attend(self.norm1(x))
            return x + self.down(self.act(self.up(self.norm2(x))))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.down(self.act(self.up(x))))


class Transformer(nn.Module):
    def __init__(self, depth: int, pre: bool, fused: bool = True, small: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.place = nn.Parameter(torch.zeros(1, 16, 64))
        nn.init.normal_(self.place, 0.0, 0.02)
        self.blocks = nn.Sequential(*[Block(64, 4, pre, fused, small) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 100)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embed(ids) + self.place)))


class Sequence(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], layers: int = 1) -> None:
        super().__init__()
        self.cell, self.head = cell(32, 64, num_layers=layers, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0][:, -1])


class UNet(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()

        def block(i: int, o: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o) if norm else nn.Identity(), nn.ReLU())

        self.a, self.b, self.c = block(3, 16), block(16, 32), block(32, 64)
        self.up1, self.d = nn.ConvTranspose2d(64, 32, 2, 2), block(64, 32)
        self.up2, self.e = nn.Upsample(scale_factor=2), block(48, 16)
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        d = self.d(torch.cat([self.up1(c), b], 1))
        return self.head(self.e(torch.cat([self.up2(d), a], 1))).mean((2, 3))


class Mixer(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 64, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2 * depth + 1))
        self.tokens = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(depth)
        )
        self.channels = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)) for _ in range(depth)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for i, (tokens, channels) in enumerate(zip(self.tokens, self.channels, strict=True)):
            x = x + tokens(self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + channels(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x).mean(1))


class Highway(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.plain = nn.ModuleList(nn.Linear(128, 128) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(128, 128) for _ in range(depth))
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for plain, gate in zip(self.plain, self.gates, strict=True):
            t = torch.sigmoid(gate(x))
            x = t * torch.tanh(plain(x)) + (1 - t) * x
        return self.head(x)


def generator(norm: bool) -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (64, 1, 1))]
    for i, o, stride, pad in ((64, 64, 1, 0), (64, 32, 2, 1), (32, 16, 2, 1)):
        layers += [
            nn.ConvTranspose2d(i, o, 4, stride, pad, bias=False),
            nn.BatchNorm2d(o) if norm else nn.Identity(),
            nn.ReLU(),
        ]
        nn.init.normal_(layers[-3].weight, 0.0, 0.02)
    return nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(), nn.Flatten())


def cases() -> Iterator[Case]:
    """All nets."""
    for act, module in ACTIVATIONS.items():
        for depth in (5, 10, 20, 50):
            for init, law in INITS.items():
                if depth in (5, 50) and init not in ("default", "he"):
                    continue
                yield (
                    "mlp", f"{act} {depth} {init}",
                    lambda a=module, d=depth, i=law: mlp(a, d, i), (BATCH, 128),
                )  # fmt: skip
    yield "mlp", "relu 100 he", lambda: mlp(nn.ReLU, 100, nn.init.kaiming_normal_), (BATCH, 128)
    for norm in (nn.LayerNorm, nn.BatchNorm1d):
        for act in (nn.ReLU, nn.Tanh):
            for depth in (10, 30):
                yield (
                    "mlp norm",
                    f"{act.__name__} {norm.__name__} {depth}",
                    lambda a=act, d=depth, n=norm: mlp(a, d, None, n),
                    (BATCH, 128),
                )
    for act in (nn.ReLU, nn.Tanh):
        for norm in (True, False):
            yield "residual mlp", f"{act.__name__} {norm}", lambda a=act, n=norm: ResidualMLP(20, a, n), (BATCH, 128)
    image = (BATCH, 3, 16, 16)
    norms = {"none": None, "bn": nn.BatchNorm2d, "gn": lambda n: nn.GroupNorm(4, n)}
    for kind, norm in norms.items():
        for he in (False, True):
            for pool in (False, True):
                yield (
                    "cnn" if norm is None else "cnn norm",
                    f"{kind} he={he} pool={pool}",
                    lambda n=norm, h=he, p=pool: cnn(8, n, nn.ReLU, h, p),
                    image,
                )
        yield (
            "cnn" if norm is None else "cnn norm",
            f"{kind} tanh",
            lambda n=norm: cnn(8, n, nn.Tanh, False, False),
            image,
        )
    for blocks, bottleneck, name in (([2, 2, 2, 2], False, "18"), ([3, 4, 6, 3], True, "50")):
        yield "resnet", f"resnet{name}", lambda b=blocks, k=bottleneck: ResNet(b, k), image
        yield "resnet cut", f"resnet{name} no skip", lambda b=blocks, k=bottleneck: ResNet(b, k, skip=False), image
        yield "resnet cut", f"resnet{name} no norm", lambda b=blocks, k=bottleneck: ResNet(b, k, norm=False), image
        yield (
            "resnet cut",
            f"resnet{name} neither",
            lambda b=blocks, k=bottleneck: ResNet(b, k, norm=False, skip=False),
            image,
        )
    for depth in (2, 6, 12):
        for pre in (True, False):
            yield (
                "transformer",
                f"{'pre' if pre else 'post'} {depth}",
                lambda d=depth, p=pre: Transformer(d, p),
                (0, BATCH, 16),
            )
    yield "transformer", "pre 4 written out", lambda: Transformer(4, True, fused=False), (0, BATCH, 16)
    yield "transformer", "pre 6 n(0,.02)", lambda: Transformer(6, True, small=True), (0, BATCH, 16)
    for cell in (nn.RNN, nn.LSTM, nn.GRU):
        for steps in (10, 50):
            yield "recurrent", f"{cell.__name__} {steps}", lambda c=cell: Sequence(c), (BATCH, steps, 32)
        yield "recurrent", f"{cell.__name__} two layers", lambda c=cell: Sequence(c, 2), (BATCH, 20, 32)
    yield "other", "dcgan generator", lambda: generator(True), (BATCH, 64)
    yield "other", "generator, no norm", lambda: generator(False), (BATCH, 64)
    yield "other", "unet bn", lambda: UNet(True), (BATCH, 3, 16, 16)
    yield "other", "unet", lambda: UNet(False), (BATCH, 3, 16, 16)
    yield "other", "mixer 4", lambda: Mixer(4), (BATCH, 3, 16, 16)
    yield "other", "highway 10", lambda: Highway(10), (BATCH, 128)
