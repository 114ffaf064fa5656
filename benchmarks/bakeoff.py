"""Can one 32-sample probe tell which nets will not train? Small nets on the digits of scikit-learn, trained for real.

Run by hand: `python benchmarks/bakeoff.py run --cache bakeoff.jsonl` (about ten minutes on one core; it goes on where
it was stopped), then `python benchmarks/bakeoff.py report --cache bakeoff.jsonl` prints the tables of
docs/benchmarks.md. The label of a net under an optimizer: it fails at every rate tried. All verdicts are taken from
the same probe, before training, with thresholds that were written down before the nets were trained (RULES.md's table
and the published ones of others); two more are fitted and judged on architectures that they have not seen.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlint.api import probe
from gradlint.finding import Severity
from gradlint.probe.judging import OVERFLOW, PROGRESS, finite
from gradlint.probe.replay import Recipe, replay

WIDTH = 64
BATCH = 64
PROBE_SAMPLES = 32
STEPS = 400
CHECK_EVERY = 50
TRAINED = 0.5
"""Share of the training set classified right, at any check, from which a run counts as trained; guessing gives 0.1."""

RATES = {"SGD": (0.1, 0.01, 0.001), "Adam": (1e-3, 1e-2, 1e-4)}
MOMENTUM = 0.9

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "gelu": F.gelu,
}
DEPTHS = (3, 6, 10, 16, 24)
INITS = ("default", "xavier", "he", "normal 0.01", "orthogonal")


@dataclass(frozen=True)
class Spec:
    """One net of the bake-off. `depth` counts hidden layers, or time steps of a recurrent net."""

    family: str
    activation: str
    depth: int
    init: str = "default"

    @property
    def name(self) -> str:
        return f"{self.family} {self.activation} {self.depth} {self.init}"


def specs() -> Iterator[Spec]:
    """All nets, in a fixed order."""
    for activation in ACTIVATIONS:
        for depth in DEPTHS:
            yield from (Spec("plain", activation, depth, init) for init in INITS)
            yield Spec("batch norm", activation, depth)
            yield Spec("layer norm", activation, depth)
    for activation in ("relu", "tanh"):
        for depth in (6, 12, 24):
            yield from (Spec(f"residual {kind}", activation, depth, "he") for kind in ("bare", "pre-norm"))
    for activation in ("relu", "tanh", "sigmoid"):
        for depth in (3, 6, 12):
            yield from (Spec("cnn", activation, depth, init) for init in ("default", "he", "normal 0.01"))
    for kind in ("rnn", "lstm", "gru"):
        for length in (8, 64):
            yield from (Spec(kind, "tanh", length, init) for init in ("default", "orthogonal"))


def initialised(module: nn.Module, init: str) -> nn.Module:
    """The module with the weights of its linear and convolutional layers drawn by that law."""
    for layer in module.modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)) or init == "default":
            continue
        match init:
            case "xavier":
                nn.init.xavier_uniform_(layer.weight)
            case "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            case "orthogonal":
                nn.init.orthogonal_(layer.weight)
            case _:
                nn.init.normal_(layer.weight, 0.0, float(init.split()[1]))
        nn.init.zeros_(layer.bias)
    return module


class Stack(nn.Module):
    """Linear layers with an activation, and with a normalisation before it where asked for."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        sizes = [64] + [WIDTH] * spec.depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        norms = {"batch norm": nn.BatchNorm1d, "layer norm": nn.LayerNorm}
        norm = norms.get(spec.family)
        self.norms = nn.ModuleList(norm(WIDTH) if norm else nn.Identity() for _ in self.layers)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.activation(norm(layer(x)))
        return self.head(x)


class Residual(nn.Module):
    """Blocks of two linear layers with a path around them; `depth` counts the layers."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        self.stem = nn.Linear(64, WIDTH)
        blocks = range(spec.depth // 2)
        self.first = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in blocks)
        self.second = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in blocks)
        normed = spec.family.endswith("pre-norm")
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) if normed else nn.Identity() for _ in blocks)
        self.last = nn.LayerNorm(WIDTH) if normed else nn.Identity()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, second, norm in zip(self.first, self.second, self.norms, strict=True):
            x = x + second(self.activation(first(norm(x))))
        return self.head(self.last(x))


class Convolutional(nn.Module):
    """3×3 convolutions over the 8×8 image, pooled into a head."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        channels = [1] + [12] * spec.depth
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(channels))
        self.head = nn.Linear(12 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 1, 8, 8)
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.head(F.avg_pool2d(x, 2).flatten(1))


class Recurrent(nn.Module):
    """A recurrent layer over the rows (8 steps) or the pixels (64 steps), classified by its last state."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        kinds = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
        self.steps = spec.depth
        self.recurrent = kinds[spec.family](64 // spec.depth, WIDTH, batch_first=True)
        if spec.init == "orthogonal":
            for block in self.recurrent.weight_hh_l0.data.split(WIDTH):
                nn.init.orthogonal_(block)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x.view(x.shape[0], self.steps, -1))
        return self.head(states[:, -1])


def build(spec: Spec, seed: int) -> nn.Module:
    """The net with its weights drawn under the seed."""
    torch.manual_seed(seed)
    if spec.family in ("rnn", "lstm", "gru"):
        return Recurrent(spec)
    if spec.family == "cnn":
        return initialised(Convolutional(spec), spec.init)
    net = Residual(spec) if spec.family.startswith("residual") else Stack(spec)
    return initialised(net, spec.init)


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 64 standardised pixels, and their classes, shuffled under a fixed seed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("the bake-off trains on the digits of scikit-learn: pip install scikit-learn")
    found = load_digits()
    x, y = torch.tensor(found.data, dtype=torch.float32), torch.tensor(found.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return ((x - x.mean()) / x.std())[order], y[order]


def optimizer_of(name: str, parameters: Any, rate: float) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or Adam."""
    if name == "SGD":
        return torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM)
    return torch.optim.Adam(parameters, lr=rate)


def best_accuracy(net: nn.Module, name: str, rate: float, x: Tensor, y: Tensor, seed: int, steps: int = STEPS) -> float:
    """Train on fresh batches; the highest accuracy on the training set at any check. Stops where it has trained."""
    optimizer = optimizer_of(name, net.parameters(), rate)
    draw = torch.Generator().manual_seed(seed)
    best = 0.0
    for step in range(1, steps + 1):
        chosen = torch.randint(0, len(x), (BATCH,), generator=draw)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[chosen]), y[chosen])
        if not math.isfinite(float(loss.detach())):
            break
        loss.backward()
        optimizer.step()
        if step % CHECK_EVERY == 0:
            with torch.no_grad():
                net.train(False)
                best = max(best, float((net(x).argmax(1) == y).float().mean()))
                net.train()
            if best >= TRAINED:
                break
    return best


def probed(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """What one probe of 32 samples shows: health by optimizer, raw gradients, ten-step replays at every rate."""
    batch, target = x[:PROBE_SAMPLES], y[:PROBE_SAMPLES]
    found: dict[str, Any] = {"replay": {}}
    for name, rates in RATES.items():
        report = probe(net, (batch, target), F.cross_entropy, name)
        health = report.health
        found[f"severity {name}"] = report.severity.value if report.severity else None
        found[f"reasons {name}"] = list(health.reasons)
        found["ratio"] = number(health.ratio.median) if health.ratio else None
        found["smallest"] = number(health.smallest[1]) if health.smallest else None
        found["largest"] = number(health.largest[1]) if health.largest else None
        found["nonfinite"] = report.measurement.first_nonfinite
        found["distinct"] = number(min((x.distinct for x in report.layers if x.distinct is not None), default=math.nan))
        found["loss"] = number(report.measurement.loss)
        curves = {}
        for rate in rates:
            twin = copy.deepcopy(net)
            recipe = Recipe(name, rate, MOMENTUM if name == "SGD" else 0.0)
            losses = replay(twin, lambda twin=twin: F.cross_entropy(twin(batch), target), recipe, 10).losses
            curves[str(rate)] = [number(v) for v in losses]
        found["replay"][name] = curves
    twin = copy.deepcopy(net)
    F.cross_entropy(twin(batch), target).backward()
    weights = [p.grad for p in twin.parameters() if p.grad is not None and p.dim() > 1]
    every = [p.grad for p in twin.parameters() if p.grad is not None]
    found["mean |g|"] = [number(g.abs().mean().item()) for g in weights]
    found["norms"] = [number(g.double().norm().item()) for g in weights]
    found["global"] = number(math.hypot(*(g.double().norm().item() for g in every)))
    counts = torch.bincount(target, minlength=10).double() / len(target)
    found["entropy"] = float(-(counts[counts > 0] * counts[counts > 0].log()).sum())
    return found


def number(value: float | None) -> float | None:
    """A float that JSON can carry; what is not finite is the largest number."""
    if value is None:
        return None
    return value if math.isfinite(value) else OVERFLOW


def run(cache: Path, seed: int) -> None:
    """Probe and train every net that the cache does not hold yet."""
    torch.set_num_threads(1)
    x, y = digits()
    done = {line["name"] for line in read(cache)}
    todo = [s for s in specs() if s.name not in done]
    with cache.open("a") as out:
        for index, spec in enumerate(todo):
            line: dict[str, Any] = {"name": spec.name, "family": spec.family, "activation": spec.activation}
            line |= {"depth": spec.depth, "init": spec.init, "probe": probed(build(spec, seed), x, y), "accuracy": {}}
            for name, rates in RATES.items():
                reached: dict[str, float] = {}
                for rate in rates:
                    reached[str(rate)] = best_accuracy(build(spec, seed), name, rate, x, y, seed)
                    if reached[str(rate)] >= TRAINED:
                        break  # One rate at which it trains settles the label.
                line["accuracy"][name] = reached
            out.write(json.dumps(line) + "\n")
            out.flush()
            print(f"{index + 1}/{len(todo)} {spec.name}: {line['accuracy']}", flush=True)


def read(cache: Path) -> list[dict[str, Any]]:
    """The nets in the cache; a line that was cut off is left out."""
    lines = []
    for raw in cache.read_text().splitlines() if cache.exists() else []:
        try:
            lines.append(json.loads(raw))
        except ValueError:
            continue
    return lines


# ---- verdicts, each from the probe alone ------------------------------------------------------------------------


def no_progress(seen: dict[str, Any], optimizer: str) -> bool:
    """Whether ten steps on the probe's batch get nowhere at any rate.

    Somewhere is 5 % below the first loss and below what the best constant answer (the batch's class frequencies)
    reaches: a net of which the last bias alone learns gets no lower than that.
    """
    bar = (1 - PROGRESS) * seen["loss"], seen["entropy"]
    ends = [c[-1] for c in seen["replay"][optimizer].values() if len(c) == 11]
    return not any(finite(end) and end < min(bar) for end in ends)


def table(seen: dict[str, Any], optimizer: str) -> bool:
    """RULES.md's error row: "will not train"."""
    return seen[f"severity {optimizer}"] == Severity.ERROR.value


def warned(seen: dict[str, Any], optimizer: str) -> bool:
    """RULES.md's warning row or worse."""
    return seen[f"severity {optimizer}"] in (Severity.ERROR.value, Severity.WARNING.value)


def gradlint(seen: dict[str, Any], optimizer: str) -> bool:
    """The verdict fixed beforehand: the error row, or the replay gets nowhere at any rate."""
    return table(seen, optimizer) or no_progress(seen, optimizer)


def sagemaker(seen: dict[str, Any], optimizer: str) -> bool:
    """VanishingGradient and ExplodingTensor of SageMaker Debugger: mean |g| below 1e-7, or not finite."""
    return any(g < 1e-7 or not finite(g) for g in seen["mean |g|"])


def autotrainer(seen: dict[str, Any], optimizer: str) -> bool:
    """AutoTrainer (Zhang et al. 2021): first/last gradient below 1e-3 and the first below 1e-4, or above 70."""
    first, last = seen["norms"][0], seen["norms"][-1]
    ratio = first / last if last else math.inf
    return (ratio < 1e-3 and first < 1e-4) or ratio > 70 or not finite(first)


def deepchecker(seen: dict[str, Any], optimizer: str) -> bool:
    """TheDeepChecker (Ben Braiek and Khomh 2023): mean |g| of a layer outside [1e-6, 1e6]."""
    return any(g < 1e-6 or g > 1e6 for g in seen["mean |g|"])


def folklore(seen: dict[str, Any], optimizer: str) -> bool:
    """The global gradient norm outside [1e-6, 1e3]."""
    return seen["global"] < 1e-6 or seen["global"] > 1e3


def informed(seen: dict[str, Any], optimizer: str) -> bool:
    """RULES.md's info row or worse, and the replay gets nowhere at any rate."""
    return seen[f"severity {optimizer}"] is not None and no_progress(seen, optimizer)


VERDICTS: dict[str, Callable[[dict[str, Any], str], bool]] = {
    "gradlint: error row or stuck replay": gradlint,
    "gradlint: error row": table,
    "gradlint: warning row": warned,
    "gradlint: stuck replay": no_progress,
    "gradlint: info row and stuck replay": informed,
    "SageMaker Debugger": sagemaker,
    "AutoTrainer": autotrainer,
    "TheDeepChecker": deepchecker,
    "global norm": folklore,
}


def features(seen: dict[str, Any], optimizer: str) -> list[float]:
    """What the fitted verdicts look at: four numbers of the probe, on a log scale."""

    def log(value: float | None) -> float:
        return max(-20.0, min(20.0, math.log10(value))) if value else (0.0 if value is None else -20.0)

    ends = [c[-1] / seen["loss"] for c in seen["replay"][optimizer].values() if len(c) == 11 and finite(c[-1])]
    return [abs(log(seen["ratio"])), log(seen["smallest"]), log(seen["largest"]), min([*ends, 10.0])]


def cross_validated(model: Any, lines: list[dict[str, Any]], optimizer: str) -> list[bool]:
    """What a classifier over the probe's numbers says; every net is judged by one fitted without its architecture.

    An architecture is a family with an activation.
    """
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

    rows = [features(line["probe"], optimizer) for line in lines]
    groups = [f"{line['family']} {line['activation']}" for line in lines]
    labels = [failed(line, optimizer) for line in lines]
    return [bool(v) for v in cross_val_predict(model, rows, labels, groups=groups, cv=LeaveOneGroupOut())]


def fitted() -> dict[str, Any]:
    """The classifiers that are fitted, by title: a tree of three levels and a logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    return {
        "fitted tree": DecisionTreeClassifier(max_depth=3, min_samples_leaf=4, random_state=0),
        "fitted logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
    }


def failed(line: dict[str, Any], optimizer: str) -> bool:
    """The label: trained at none of the rates."""
    return max(line["accuracy"][optimizer].values()) < TRAINED


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) of nothing."""
    if not count:
        return 0.0, 1.0
    z, p = 1.96, hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(hits: int, count: int) -> str:
    """ "0.95 [0.88, 0.98]", or "none" of nothing."""
    if not count:
        return "none"
    low, high = wilson(hits, count)
    return f"{hits / count:.2f} [{low:.2f}, {high:.2f}]"


def report(cache: Path) -> None:
    """Print one Markdown table for each optimizer, and what two of the verdicts got wrong."""
    lines = read(cache)
    for optimizer, rates in RATES.items():
        labels = [failed(line, optimizer) for line in lines]
        print(f"\n### {optimizer}{' with momentum 0.9' if optimizer == 'SGD' else ''}\n")
        print(f"{len(lines)} nets, {sum(labels)} of them fail at every rate of {rates}.\n")
        print("| verdict | precision | recall | flagged |\n|---|---|---|---|")
        for title, verdict in VERDICTS.items():
            row(title, [verdict(line["probe"], optimizer) for line in lines], labels)
        for title, model in fitted().items():
            row(f"{title}, unseen architectures", cross_validated(model, lines, optimizer), labels)
        for title in ("gradlint: error row or stuck replay", "gradlint: warning row"):
            for what, missed in (("missed", False), ("false alarms", True)):
                found = [
                    line["name"]
                    for line, label in zip(lines, labels, strict=True)
                    if label is not missed and VERDICTS[title](line["probe"], optimizer) is missed
                ]
                print(f"\n{title}, {what} ({len(found)}): {'; '.join(found) or 'none'}")


def row(title: str, flagged: list[bool], labels: list[bool]) -> None:
    """One line of the table."""
    right = sum(f and y for f, y in zip(flagged, labels, strict=True))
    print(f"| {title} | {share(right, sum(flagged))} | {share(right, sum(labels))} | {sum(flagged)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--cache", type=Path, default=Path("bakeoff.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.cache, arguments.seed)
    report(arguments.cache)


if __name__ == "__main__":
    main()
