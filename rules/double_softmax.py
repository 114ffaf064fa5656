"""GL601: the model's output is normalised once by the model and again by the loss."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding, Severity
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.hints import LOSS_KINDS
from gradlint.rule import Context, Rule
from gradlint.source.script import Model, Script

DOUBLED = {
    ("softmax", "cross_entropy"): ("`softmax`", "`CrossEntropyLoss`", "a second softmax"),
    ("log_softmax", "cross_entropy"): ("`log_softmax`", "`CrossEntropyLoss`", "a second log-softmax"),
    ("sigmoid", "bce_with_logits"): ("`sigmoid`", "`BCEWithLogitsLoss`", "a second sigmoid"),
}


class DoubleSoftmax(Rule):
    """
    ## What it does
    Looks for a CrossEntropyLoss that is given the output of a softmax or log-softmax, and a BCEWithLogitsLoss that is
    given that of a sigmoid, whether it stands in the model or in the training step. What the loss reads is followed
    through variables, tuples, dicts, attributes and calls: of a model with several outputs only the one that is read
    counts. Where it cannot be followed, a model that ends so is reported if it has a single output, and the script a
    single model and kind of loss.

    ## Why it hurts
    The loss applies a softmax of its own. Fed with probabilities it never sees values outside [0, 1]: over ten
    classes the best it can reach is 1.46 instead of 0, and the gradient shrinks as the first softmax saturates. A
    log-softmax applied twice changes nothing and is only reported as an info.

    ## Example
    ```python
    model = nn.Sequential(nn.Linear(64, 10), nn.Softmax(dim=1))
    criterion = nn.CrossEntropyLoss()
    ```

    ## Use instead
    ```python
    model = nn.Sequential(nn.Linear(64, 10))
    criterion = nn.CrossEntropyLoss()
    ```

    ## How it is confirmed
    There is nothing to measure: what is applied twice is written in the source.

    ## Fix safety
    No fix is offered: code that reads probabilities from the model would change its meaning.

    ## Options
    None.

    ## References
    - PyTorch, torch.nn.CrossEntropyLoss
    """

    code = "GL601"
    name = "double-softmax"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(dim=1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace(", nn.Softmax(dim=1)", "")

    def check_script(self, script: Script) -> Iterator[Finding]:
        told = set()
        for read in script.reads:
            doubled = DOUBLED.get((read.op, LOSS_KINDS[read.loss]))
            if doubled is None or read.operation in told:
                continue
            told.add(read.operation)
            ends, loss, again = doubled
            yield self.finding(
                read.operation,
                f"{loss} reads the output of {ends} and applies {again}",
                help=f"give the loss the input of {ends}",
                severity=Severity.INFO if read.op == "log_softmax" else None,
                related=claims.at(read.location, "the loss"),
                model=_key(read.model) if read.model else None,
                optimizer=_algorithm(script, read.model),
                needs_probe=False,
            )

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        if context.script is not None and context.script.reads:
            return
        last = claims.output_of(graph)
        if last is None or not claims.one_loss(context):
            return
        doubled = DOUBLED.get((last.op, graph.loss.kind))
        location = claims.end_of(graph, last)
        if doubled is None or location is None:
            return
        ends, loss, again = doubled
        yield self.finding(
            location,
            f"the model ends in {ends} and {loss} applies {again}",
            help=f"return the input of {ends} from the model while training",
            severity=Severity.INFO if last.op == "log_softmax" else None,
            related=claims.at(graph.loss.location, "the loss"),
            model=claims.model_key(graph),
            optimizer=context.algorithm,
            confidence=graph.confidence,
            needs_probe=False,
        )


def _key(model: Model) -> str:
    """The model as findings on its graph name it."""
    return f"{model.location.path}:{model.classes[0].rpartition('.')[2] if model.classes else model.name}"


def _algorithm(script: Script, model: Model | None) -> str | None:
    """The algorithm of the one optimizer that trains the model, or None."""
    found = {o.algorithm for o in script.optimizers if model in o.models}
    return found.pop() if len(found) == 1 else None
