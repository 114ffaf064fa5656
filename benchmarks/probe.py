"""Time and peak memory of the probe's baseline pass, as a ratio to a bare forward and backward in the same process.

Run by hand: `python benchmarks/probe.py [--repeats 5] [--budget 16384] [--only lstm]`. The three nets are written
out here: a ResNet-50 (batch 8), a BERT-base encoder (4 × 128 tokens) and a two-layer LSTM language model. The probe
takes all that it takes for a user, the update ratios of the optimizer's first step and the histograms among it. Each
probe is timed beside a floor of its own, in CPU time of the process; the error is that of sampled gradient norms,
activation stds and update ratios against those over all elements.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlint.graph.model import Loss, ModelGraph, Node
from gradlint.graph.walk import OperationCall, OperationWalk
from gradlint.probe.loss import SyntheticLoss, first_tensor
from gradlint.probe.measure import Pass, measure
from gradlint.probe.replay import Recipe
from gradlint.probe.statistics import BUDGET


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * 4
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        projected = stride != 1 or inside != out
        self.downsample = (
            nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if projected else None
        )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += identity
        return self.relu(x)


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inside = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            layers.append(Bottleneck(inside, width, stride if i == 0 else 1))
            inside = width * 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (f(x).view(n, t, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, t, d))


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x)))
        return self.norm2(x + self.dropout(self.down(F.gelu(self.up(x)))))


class Bert(nn.Module):
    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12, vocabulary: int = 30522) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(depth))
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device)))
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


class LanguageModel(nn.Module):
    def __init__(self, vocabulary: int = 10000, width: int = 650) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, 2)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(ids))[0])


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "resnet": (resnet50, lambda size: torch.randn(8, 3, size, size)),
    "bert": (Bert, lambda size: torch.randint(0, 30522, (4, 128))),
    "lstm": (LanguageModel, lambda size: torch.randint(0, 10000, (35, 20))),
}


def graph_of(module: nn.Module, x: Tensor) -> ModelGraph:
    """The names and kinds of the net's operations, which is all that the baseline pass reads."""
    nodes: list[Node] = []

    class Names(OperationWalk):
        def operation(self, call: OperationCall, run: Callable[..., Any]) -> Any:
            output = run()
            tensor = first_tensor(output)
            axis = 1 if tensor is not None and tensor.dim() == 4 else -1
            node = Node(len(nodes), call.kind, call.op, call.name, feature_axis=axis, parameters=call.parameters)
            nodes.append(node)
            return output

    with Names(module), torch.no_grad():
        module(x)
    return ModelGraph("benchmark", tuple(nodes))


def floor(module: nn.Module, x: Tensor, loss: Callable[[Any], Tensor]) -> None:
    """A bare forward and backward whose gradients are let go."""
    value = loss(module(x))
    torch.autograd.grad(value, [p for p in module.parameters() if p.requires_grad], allow_unused=True)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """CPU seconds of this process, or wall-clock seconds up to the end of the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    work()
    return time.process_time() - began


def peak(work: Callable[[], Any], device: torch.device) -> float:
    """Peak bytes while the work runs: of the device, or resident in this process (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return float(torch.cuda.max_memory_allocated())
    with open("/proc/self/clear_refs", "w") as reset:  # noqa: PTH123
        reset.write("5")
    work()
    with open("/proc/self/status") as status:  # noqa: PTH123
        line = next(row for row in status if row.startswith("VmHWM"))
    return float(line.split()[1]) * 1024


def error(sampled: Pass, full: Pass) -> tuple[float, float]:
    """Median and largest relative error of sampled gradient norms, activation stds and update ratios."""
    errors = []
    for name, layer in full.layers.items():
        for mine, true in (
            (sampled.layers[name].gradient, layer.gradient),
            (sampled.layers[name].activation_std, layer.activation_std),
            (sampled.layers[name].update_ratio, layer.update_ratio),
        ):
            if mine is not None and true:
                errors.append(abs(mine / true - 1))
    return statistics.median(errors), max(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=int, nargs="*", default=[BUDGET], help="0: all elements")
    parser.add_argument("--only", choices=sorted(NETS))
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{'net':8} {'budget':>8} {'bare s':>8} {'time ×':>7} {'memory ×':>9} {'error med':>10} {'max':>7}")
    for name in NETS if arguments.only is None else (arguments.only,):
        build, batch = NETS[name]
        torch.manual_seed(0)
        for budget in arguments.budget:
            row(name, build().to(device), batch(arguments.image).to(device), budget or None, arguments.repeats)


def row(name: str, module: nn.Module, x: Tensor, budget: int | None, repeats: int) -> None:
    """Measure one net under one budget and print it."""
    loss = SyntheticLoss(Loss("cross_entropy"))
    graph = graph_of(module, x)
    recipe = Recipe("AdamW", 1e-3, weight_decay=0.01)

    def probe(budget: int | None = budget) -> Pass:
        torch.manual_seed(1)
        return measure(module, (x,), {}, loss, graph, recipe=recipe, budget=budget)

    def bare() -> None:
        floor(module, x, loss)

    bare()
    median_error, worst_error = error(probe(), probe(None)) if budget else (0.0, 0.0)
    pairs = [(seconds(bare, x.device), seconds(probe, x.device)) for _ in range(repeats)]
    memory = peak(probe, x.device) / peak(bare, x.device)
    ratio = statistics.median(mine / other for other, mine in pairs)
    base = statistics.median(other for other, _ in pairs)
    print(
        f"{name:8} {budget or 'all':>8} {base:8.2f} {ratio:7.2f} {memory:9.2f} {median_error:10.4f} {worst_error:7.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
