"""GL103: a rectifier at the end of the model, or behind a bias that holds it shut, cuts off what training needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradlint import claims
from gradlint.finding import Evidence, Finding, Outcome, Severity, Verdict
from gradlint.graph.model import InitLaw, ModelGraph, Node
from gradlint.graph.profile import Profile
from gradlint.graph.topology import topology
from gradlint.graph.topology_paths import feeds
from gradlint.location import Location
from gradlint.notation import number
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.rule import Context, Rule
from gradlint.verdicts import unmeasured

CUTS_OFF = frozenset({"relu", "relu6", "threshold"})
"""Rectifiers without any gradient below zero."""

LOGITS = {
    "cross_entropy": "a class whose logit falls below 0 gets no gradient any more",
    "bce_with_logits": "no probability below 0.5 can be said, and a logit that falls below 0 gets no gradient any more",
}
VALUES = frozenset({"mse", "l1", "smooth_l1"})

SHUT = 5.0
"""Standard deviations of a layer's output by which its bias lies below zero: of a Gaussian 3 values in ten million lie
beyond, so that a unit gives 0 for a whole epoch of many data sets."""

DEAD = 0.5
"""Share of a layer's units that are 0 for the whole batch from which it is dead."""


@dataclass(frozen=True)
class DeadSubject:
    """The layers whose units are claimed to give 0 for every sample."""

    layers: tuple[str, ...]


class ReluOnOutput(Rule):
    """
    ## What it does
    Looks for two things that keep a rectifier shut.

    (a) A model whose last operation is ReLU or ReLU6. A warning under CrossEntropyLoss and BCEWithLogitsLoss,
    which need logits of both signs; an info under regression losses, where targets may be known to be positive. Only
    where the model has a single output and the script a single model and kind of loss.

    (b) A hidden layer before ReLU or ReLU6, with no normalisation between, whose bias starts five or more standard
    deviations of the layer's output below zero: its units are dead before training begins.

    ## Why it hurts
    Where the layer before it is negative the rectifier gives 0 and passes no gradient. Of a hidden layer other units
    take over; of the output nothing does: a sample whose outputs are all 0 teaches nothing, and an output that is
    negative for every sample stays dead.

    ## Example
    ```python
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.ReLU())
    criterion = nn.CrossEntropyLoss()
    ```

    ## Use instead
    ```python
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    criterion = nn.CrossEntropyLoss()
    ```
    For values that cannot be negative, `nn.Softplus()`.

    ## How it is confirmed
    What the model ends in is written in the source. Of a hidden layer the share of units is measured that are 0 for
    the whole batch; half of them and more confirm it, and all of them make it an error.

    ## Fix safety
    No fix is offered: code that reads the outputs may rely on their sign.

    ## Options
    None.

    ## References
    - Maas et al., Rectifier Nonlinearities Improve Neural Network Acoustic Models, ICML 2013
    - PyTorch, torch.nn.CrossEntropyLoss
    """

    code = "GL103"
    name = "relu-on-output"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10), nn.ReLU())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace("nn.Linear(64, 10), nn.ReLU()", "nn.Linear(64, 10)")

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        yield from self._at_the_end(graph, context)
        groups: dict[Location | None, list[tuple[Node, InitLaw]]] = {}
        for layer, law in [] if graph.pretrained else _shut(graph, profile):
            groups.setdefault(law.location, []).append((layer, law))
        for where, group in groups.items():
            layers = [layer for layer, _ in group]
            location = where or claims.place(graph, *layers)
            if location is not None:
                yield self._dead(location, layers, group[0][1], graph, profile, context)

    def _dead(
        self,
        location: Location,
        layers: Sequence[Node],
        law: InitLaw,
        graph: ModelGraph,
        profile: Profile,
        context: Context,
    ) -> Finding:
        names = tuple(layer.name for layer in layers)
        return self.finding(
            location,
            f"the bias of {claims.listed(names)} starts at {number(law.mean)}, far below what the weights make up for: "
            "the rectifier behind gives 0 and passes no gradient",
            help="start the bias at 0",
            related=claims.further(layers, "gets this bias", beside=location),
            model=claims.model_key(graph),
            optimizer=context.algorithm,
            confidence=claims.confidence(graph, profile),
            subject=DeadSubject(names),
        )

    def experiments(self, finding: Finding) -> list[Experiment]:
        return [Experiment("baseline")] if isinstance(finding.subject, DeadSubject) else []

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        layers = seen.baseline.layers if seen.baseline else {}
        known = {n: share for n in finding.subject.layers if n in layers and (share := layers[n].dead) is not None}
        if not known:
            return unmeasured(seen, "no rectifier was seen behind it")
        deadest = max(known, key=lambda name: known[name])
        most, dead = known[deadest], sum(share >= DEAD for share in known.values())
        told, evidence = f"{most:.0%} of the units are 0 for the whole batch", Evidence(numbers={"dead": most})
        if len(known) > 1:
            told = f"`{deadest}`: {told}; {dead} of {len(known)} layers are dead"
        if most < DEAD:
            return Verdict(Outcome.REFUTED, told, Severity.INFO, evidence)
        # A layer that nothing bypasses, and of which no unit is left, stops the whole gradient.
        return Verdict(Outcome.CONFIRMED, told, Severity.ERROR if most == 1.0 else None, evidence)

    def _at_the_end(self, graph: ModelGraph, context: Context) -> Iterator[Finding]:
        last = claims.output_of(graph)
        if last is None or last.op not in CUTS_OFF or graph.pretrained or graph.assumed:
            return
        loss = graph.loss.kind
        location = claims.end_of(graph, last)
        if location is None or not context.optimizers or not claims.one_loss(context):
            return
        if loss not in LOGITS and loss not in VALUES:
            return
        harm = LOGITS.get(
            loss, "no negative value can be said, and an output that falls below 0 gets no gradient any more"
        )
        yield self.finding(
            location,
            f"the model ends in `{last.op}`: {harm}",
            help=f"return the input of `{last.op}`"
            if loss in LOGITS
            else f"return the input of `{last.op}`, or use `softplus` where the targets are positive",
            severity=None if loss in LOGITS else Severity.INFO,
            related=claims.at(graph.loss.location, "the loss"),
            model=claims.model_key(graph),
            optimizer=context.algorithm,
            confidence=graph.confidence,
            needs_probe=False,
        )


def _shut(graph: ModelGraph, profile: Profile) -> Iterator[tuple[Node, InitLaw]]:
    """The hidden layers whose bias holds every rectifier behind them shut, with the law of that bias.

    Of weights with mean 0 the output of a layer is Gaussian about its bias b, with the predicted std s: all but
    Φ(b/s) of it is cut off.
    """
    paths = topology(graph)
    for layer in graph.of_kind("linear", "conv", "conv_transpose"):
        law, weight = graph.weight_law(layer, "bias"), graph.weight_law(layer)
        if law is None or law.partial or law.origin != "explicit" or law.mean is None or law.mean >= 0:
            continue
        if weight is None or weight.mean or layer.id in paths.innermost or layer.id in paths.side:
            continue
        spread = profile.std_at[layer.id] if layer.id < len(profile.std_at) and not profile.void[layer.id] else None
        fed = feeds(graph, layer)
        shut = fed.activations and all(a.op in CUTS_OFF and a.id not in paths.gates for a in fed.activations)
        if not shut or fed.normalized or fed.output or fed.unknown or spread is None:
            continue
        if -law.mean >= SHUT * 10.0**spread:
            yield layer, law
