"""How near the prediction comes to one forward and backward pass: prints a table by family.

Truth: float64, N(0, 1) input (uniform ids), cross-entropy on random labels, mean log10 over seeds.
Run: python benchmarks/prediction.py [--set SET] [--seeds 5] [--only SUBSTRING] [--verbose] [--each]
with SET one of development, heldout, unseen, torchvision, timm, transformers, zoo (the last three together); --each
prints a line for every net.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module

import torch
import torch.nn.functional as F
from prediction_nets import Case, Published
from torch import nn

from gradlint.graph.build import build as build_slice
from gradlint.graph.laws import LawRecorder
from gradlint.graph.lower import Origins
from gradlint.graph.model import WEIGHTED, Loss, ModelGraph
from gradlint.graph.profile import Profile
from gradlint.graph.signal import profile
from gradlint.graph.trace import trace_model, trace_module
from gradlint.graph.walk import tensors_in
from gradlint.location import Location
from gradlint.report.chart import Point
from gradlint.worker.protocol import InputHint, Slice

LEAST = 1e-320
ZERO = math.log10(LEAST) + 1e-6
IDS = (3, 99)
"""Range of token ids: below stand padding and the like in published vocabularies."""
VANISHING, EXPLODING = -6.0, 3.0
SETS = ("development", "heldout", "unseen", "torchvision", "timm", "transformers", "zoo")
_FURTHER = 4
"""Runs beyond the seeds that are spent on layers without any gradient so far."""
NAIVE_DEPTH, NAIVE_SATURATING = 20, 3


@dataclass
class Row:
    """Errors of one net in decades, by layer, and its three classes."""

    name: str
    ratio: list[float] = field(default_factory=list)
    absolute: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    inside: int = 0
    measured: str = ""
    predicted: str = ""
    naive: str = ""
    seconds: float = 0.0
    trained: float = 0.0
    unknown: tuple[str, ...] = ()
    confidence: str = ""
    points: list[Point] = field(default_factory=list)
    """The weight gradient of each layer: predicted, its band, measured."""


def graph_of(build: Callable[[], nn.Module], x: torch.Tensor) -> ModelGraph:
    """The graph of a net; a published one is built and traced as a script's model would be."""
    if isinstance(build, Published):
        sliced = Slice(__file__, "", build.imports, build.expression, keep=((1, 9),), location=Location("zoo.py", 1))
        kind = f"int64:{'x'.join(map(str, x.shape))}<{IDS[1]}" if x.dtype == torch.long else "x".join(map(str, x.shape))
        return trace_model(build_slice(sliced), InputHint(kind, loss=Loss("cross_entropy"))).graph
    recorder = LawRecorder()
    torch.manual_seed(0)
    with recorder:
        module = build()
    laws = {name: recorder.law(p) for name, p in module.named_parameters()}
    traced = trace_module(module, (x,), origins=Origins(laws))
    return replace(traced.graph, loss=Loss("cross_entropy"))


def measure(
    build: Callable[[], nn.Module], shape: tuple[int, ...], seed: int
) -> tuple[dict[str, float], dict[str, list[float]], float]:
    """(log10 gradient norm by parameter, log10 std of each call by module, seconds)."""
    torch.manual_seed(seed)
    net = build().double().train()
    x = torch.randint(*IDS, shape[1:]) if shape[0] == 0 else torch.randn(shape, dtype=torch.float64)
    stds: dict[str, list[float]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, out: object) -> None:
            first = out[0] if isinstance(out, tuple) else out
            stds.setdefault(name, []).append(math.log10(max(float(first.detach().std()), LEAST)))

        return hook

    for name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(keep(name))
    start = time.process_time()
    out = net(x)
    out = out if isinstance(out, torch.Tensor) else next(tensors_in(out))
    labels = torch.randint(0, out.shape[-1], out.shape[:-1])
    F.cross_entropy(out.reshape(-1, out.shape[-1]), labels.reshape(-1)).backward()
    seconds = time.process_time() - start
    norms = {n: math.log10(max(float(p.grad.norm()), LEAST)) for n, p in net.named_parameters() if p.grad is not None}
    return norms, stds, seconds


def classify(values: list[float]) -> str:
    """From the weight gradients, first to last layer: relative to the last one and absolute."""
    ratios = [v - values[-1] for v in values]
    if min(*ratios, *values) <= VANISHING:
        return "vanishing"
    return "exploding" if max(*ratios, *values) >= EXPLODING else "healthy"


def naive(graph: ModelGraph) -> str:
    """What counting says: three saturating activations or twenty layers vanish, unless there are skips."""
    layers = sum(1 for n in graph.nodes if n.kind in WEIGHTED)
    saturating = sum(1 for n in graph.nodes if n.op in ("sigmoid", "tanh"))
    skips = any(n.kind == "add" and len(n.inputs) > 1 for n in graph.nodes)
    if skips:
        return "healthy"
    return "vanishing" if saturating >= NAIVE_SATURATING or layers > NAIVE_DEPTH else "healthy"


def compare(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...], seeds: int, verbose: bool) -> Row:
    row = Row(name)
    x = torch.zeros(shape[1:], dtype=torch.long) if shape[0] == 0 else torch.zeros(shape)
    graph = graph_of(build, x)
    batch = shape[1] if shape[0] == 0 else shape[0]
    profile(graph, batch_size=batch)
    start = time.process_time()
    predicted = profile(graph, batch_size=batch)
    row.seconds, row.unknown = time.process_time() - start, predicted.unknown_ops
    row.confidence = predicted.confidence
    runs = [measure(build, shape, seed) for seed in range(seeds)]
    # Stochastic depth may drop a branch for a whole batch: other seeds then show its gradient.
    while len(runs) < seeds + _FURTHER and any(
        all(run[0][n] <= ZERO for run in runs) for n in _expected(graph, predicted, runs)
    ):
        runs.append(measure(build, shape, len(runs)))
    row.trained = min(run[2] for run in runs)
    table = []
    for layer in predicted.layers:
        node = graph.nodes[layer.node]
        names = [p for role, p in node.parameters.items() if "bias" not in role]
        names = [n for n in names if n in runs[0][0]]
        if not names or layer.weight_gradient is None:
            continue
        # A branch that stochastic depth dropped for the whole batch has no gradient in that run.
        kept = [run for run in runs if any(run[0][n] > ZERO for n in names)] or runs
        truths = [0.5 * math.log10(max(sum(10.0 ** (2.0 * run[0][n]) for n in names), LEAST)) for run in kept]
        if len(names) == 1:
            truths = [run[0][names[0]] for run in kept]
        truth = sum(truths) / len(kept)
        std = sum(_of_call(run[1].get(node.module, []), layer.name) for run in runs) / len(runs)
        table.append((layer, truth, std))
    if not table:
        return row
    last = table[-1]
    for layer, truth, std in table:
        if layer.weight_gradient == -math.inf and truth <= ZERO / 2:
            # Behind a head of zeros nothing flows, as predicted.
            row.absolute.append(0.0)
            row.ratio.append(0.0)
            row.inside += 1
            continue
        row.absolute.append(abs(layer.weight_gradient - truth))
        row.ratio.append(abs(layer.weight_gradient - last[0].weight_gradient - truth + last[1]))
        row.points.append(Point(layer.name, layer.weight_gradient, layer.weight_band, truth))
        row.inside += layer.weight_band[0] <= truth <= layer.weight_band[1]
        if layer.activation_std is not None and math.isfinite(std) and math.isfinite(layer.activation_std):
            row.std.append(abs(layer.activation_std - std))
        if verbose:
            seen = f"w {layer.weight_gradient:8.2f} {truth:8.2f}   std {layer.activation_std or 0.0:6.2f} {std:6.2f}"
            print(f"    {layer.name:24} {seen}")
    row.measured = classify([t for _, t, _ in table])
    row.predicted = classify([layer.weight_gradient for layer, _, _ in table])
    row.naive = naive(graph)
    return row


def _of_call(stds: list[float], name: str) -> float:
    """The std of the call that a node's name stands for: `fc#2` is the second call of `fc`."""
    call = int(name.rpartition("#")[2]) if "#" in name else 1
    return stds[call - 1] if call <= len(stds) else math.nan


def _expected(
    graph: ModelGraph, predicted: Profile, runs: Sequence[tuple[dict[str, float], dict[str, list[float]], float]]
) -> list[str]:
    """Measured parameters that are predicted to receive a gradient."""
    live = [x.node for x in predicted.layers if x.weight_gradient not in (None, -math.inf)]
    names = [p for i in live for role, p in graph.nodes[i].parameters.items() if "bias" not in role]
    return [n for n in names if n in runs[0][0]]


def spread(values: list[float]) -> str:
    """median / p90 / max."""
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.3f} / {ordered[int(0.9 * (len(ordered) - 1))]:.2f} / {ordered[-1]:.2f}"


def nets(which: str) -> Iterable[Case]:
    module = {
        "development": "prediction_nets",
        "heldout": "prediction_heldout",
        "unseen": "prediction_unseen",
    }.get(which, "prediction_zoo")
    maker = f"{which}_cases" if module == "prediction_zoo" and which != "zoo" else "cases"
    found: Iterable[Case] = getattr(import_module(module), maker)()
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", default="")
    options.add_argument("--set", default="development", choices=SETS)
    options.add_argument("--each", action="store_true")
    options.add_argument("--verbose", action="store_true")
    given = options.parse_args()
    torch.set_num_threads(1)
    families: dict[str, list[Row]] = defaultdict(list)
    for family, name, build, shape in nets(given.set):
        if given.only not in f"{family}: {name}":
            continue
        try:
            row = compare(name, build, shape, given.seeds, given.verbose)
        except Exception as error:
            print(f"{family}: {name}: {type(error).__name__}: {error}")
            continue
        families[family].append(row)
        worst = max(row.ratio, default=math.nan)
        wrong = "" if row.measured == row.predicted else f"  MEASURED {row.measured}, PREDICTED {row.predicted}"
        if given.each or given.verbose or worst > 0.5 or wrong or row.unknown or not row.ratio:
            columns = f"ratio {spread(row.ratio)}, absolute {spread(row.absolute)}, {row.confidence}"
            print(f"{family}: {name}: {columns} {list(row.unknown) or ''}{wrong}", flush=True)
    families["all"] = [row for rows in list(families.values()) for row in rows]
    print(
        "| family | nets | layers | ratio median / p90 / max | absolute | std | in band | classes | counting | time |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for family, rows in families.items():
        layers = sum(len(r.ratio) for r in rows)
        columns = [spread([e for r in rows for e in getattr(r, which)]) for which in ("ratio", "absolute", "std")]
        right, counted = (sum(r.measured == getattr(r, w) for r in rows) for w in ("predicted", "naive"))
        cost = sum(r.seconds for r in rows) / max(sum(r.trained for r in rows), 1e-9)
        inside = sum(r.inside for r in rows) / max(layers, 1)
        classes = f"{right}/{len(rows)} | {counted}/{len(rows)}"
        print(f"| {family} | {len(rows)} | {layers} | {' | '.join(columns)} | {inside:.0%} | {classes} | {cost:.2f}× |")


if __name__ == "__main__":
    main()
