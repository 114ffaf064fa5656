"""GL604: before anything is learnt a classifier's loss is far above that of guessing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradlint import claims
from gradlint.finding import Evidence, Finding, Outcome, Severity, Verdict
from gradlint.graph.model import WEIGHTED, ModelGraph, Node
from gradlint.graph.profile import Profile
from gradlint.notation import number
from gradlint.probe.experiment import OVERFLOW, Experiment, Measurements
from gradlint.rule import Context, Rule

MARGIN = 0.5
"""Decades by which the predicted std of the logits may miss the one that condenses a softmax and be measured still."""

NOTED, HARMFUL = 3.0, 10.0
"""First loss as a multiple of ln C from which it is an info, and a warning: logits of std 1.5 and 5 times √(2 ln C)."""


@dataclass(frozen=True)
class OffChanceSubject:
    """The number of classes that the loss is taken over."""

    classes: int


class LossOffChance(Rule):
    """
    ## What it does
    Measures the first loss of a model that is trained from scratch with CrossEntropyLoss over C classes. An info from
    three times ln C on, a warning from ten times.

    ## Why it hurts
    A model that knows nothing should say so, and then its loss is ln C. With logits of std s it is about ln C + s²/2.
    Beyond s = √(2 ln C), where it is 2 ln C, softmax puts nearly all its weight on a few classes, chosen at random: the
    first epochs only take the logits back, and the gradient of the other classes is next to nothing meanwhile. Usual
    causes are an output layer tied to an embedding that was drawn from N(0, 1), an init of the last layer that is too
    wide, and a signal that grows on the way to it.

    ## Example
    ```python
    self.embedding = nn.Embedding(50000, 768)
    self.head.weight = self.embedding.weight  # N(0, 1): logits of std 28
    ```

    ## Use instead
    ```python
    self.embedding = nn.Embedding(50000, 768)
    nn.init.normal_(self.embedding.weight, std=0.02)
    self.head.weight = self.embedding.weight
    ```

    ## How it is confirmed
    One batch with classes drawn at random. The rule has nothing to say before that measurement, which is made where
    the logits are predicted to be large, or cannot be predicted.

    ## Fix safety
    No fix is offered: an init is a decision.

    ## Options
    None.

    ## References
    - Karpathy, A Recipe for Training Neural Networks, 2019 (verify the loss at init)
    - Derrida, Random-energy model, Physical Review B 1981 (√(2 ln C): where the sum condenses)
    """

    code = "GL604"
    name = "loss-off-chance"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn


class Bigram(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(500, 512)
        self.norm = nn.LayerNorm(512)
        self.hidden = nn.Linear(512, 512)
        self.head = nn.Linear(512, 500, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.norm(torch.tanh(self.hidden(self.embedding(tokens)))))


model = Bigram()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randint(0, 500, (64,)), torch.randint(0, 500, (64,))
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace(
        "        self.norm = ", "        nn.init.normal_(self.embedding.weight, std=0.02)\n        self.norm = "
    )

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        last = claims.output_of(graph)
        if last is None or graph.loss.kind != "cross_entropy" or graph.loss.inside or not context.optimizers:
            return
        head = _head(graph, last)
        classes = _classes(graph, last)
        if head is None or classes is None or claims.from_checkpoint(graph, [n for n in graph.nodes if n.parameters]):
            return
        if any(m.pretrained for o in context.optimizers for m in o.models) or not claims.one_loss(context):
            return
        location = claims.place(graph, head)
        spread = profile.std_at[last.id] if last.id < len(profile.std_at) else None
        condensed = math.log10(math.sqrt(2 * math.log(classes)))
        if location is None or (spread is not None and spread < condensed - MARGIN):
            return
        yield self.finding(
            location,
            f"the loss starts far above ln {classes} = {number(math.log(classes))}, that of guessing",
            help="make the logits small at the start: draw the weights of this layer with a smaller std (0.02 is "
            "customary where it is tied to an embedding), or normalise what it reads",
            related=claims.at(graph.loss.location, "the loss"),
            model=claims.model_key(graph),
            optimizer=context.algorithm,
            confidence=graph.confidence,
            tentative=True,
            subject=OffChanceSubject(classes),
        )

    def experiments(self, finding: Finding) -> list[Experiment]:
        return [Experiment("baseline")] if isinstance(finding.subject, OffChanceSubject) else []

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        subject, baseline = finding.subject, seen.get("baseline")
        if not isinstance(subject, OffChanceSubject) or baseline is None or baseline.loss is None:
            return Verdict(Outcome.UNVERIFIED, "the first loss was not measured")
        if baseline.loss >= OVERFLOW or any("squared error" in note for note in baseline.notes):
            return Verdict(Outcome.UNVERIFIED, "the first loss is not a finite cross-entropy")
        chance = math.log(subject.classes)
        ratio = baseline.loss / chance
        evidence = Evidence(numbers={"first_loss": baseline.loss, "loss_of_guessing": chance})
        told = f"the first loss is {number(baseline.loss)}, {number(ratio)} times ln {subject.classes}"
        if ratio < NOTED:
            return Verdict(Outcome.REFUTED, told, Severity.INFO, evidence)
        severity = Severity.WARNING if ratio >= HARMFUL else Severity.INFO
        return Verdict(Outcome.CONFIRMED, told, severity, evidence)


def _head(graph: ModelGraph, last: Node) -> Node | None:
    """The last weighted layer, where nothing but biases, scales and views lie behind it."""
    node = last
    while node.kind in {"add", "scale", "mul", "reshape", "dropout"} and node.inputs:
        node = graph.nodes[node.inputs[0]]
    return node if node.kind in WEIGHTED or node.kind == "matmul" else None


def _classes(graph: ModelGraph, last: Node) -> int | None:
    """Over how many classes the loss is taken: the axis that the targets do not have."""
    if graph.loss.classes is not None:
        return graph.loss.classes if graph.loss.classes > 1 else None
    if last.shape is None or len(last.shape) < 2:
        return None
    axis = 1 if len(last.shape) != 3 else -1
    found = last.shape[axis]
    return found if found is not None and found > 1 else None
