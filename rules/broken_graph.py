"""GL603: the way from the loss back to the parameters is cut."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding, Related, Severity
from gradlint.rule import Rule
from gradlint.source.script import BrokenGraph, Script


class BrokenGraphRule(Rule):
    """
    ## What it does
    Looks for `.detach()`, `.data`, `.item()`, NumPy, `torch.tensor(…)`, `argmax` and `no_grad` where they end the
    gradient of what is trained:

    - on every way from the parameters to the value that `backward()` starts from,
    - on one term of a sum that is the loss,
    - on the only way from a layer to the output of its module.

    A `detach()` beside another way is left alone: the discriminator's step on a fake, targets, advantages,
    straight-through estimators, what is only logged.

    ## Why it hurts
    What lies behind the cut is never trained. PyTorch refuses a loss without any graph, and `requires_grad=True` on the
    loss only silences it: the gradient then ends at the loss itself.

    ## Example
    ```python
    predicted = model(x).argmax(dim=1).float()
    loss = criterion(predicted, y)
    loss.requires_grad = True
    loss.backward()
    ```

    ## Use instead
    ```python
    loss = criterion(model(x), y)
    loss.backward()
    ```

    ## How it is confirmed
    There is nothing to measure: where the graph ends is written in the source.

    ## Fix safety
    No fix is offered: the loss has to be written in other terms.

    ## Options
    None.

    ## References
    - PyTorch, Autograd mechanics: how autograd encodes the history
    """

    code = "GL603"
    name = "broken-graph"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randn(32)
    optimizer.zero_grad()
    predicted = model(x).argmax(dim=1).float()
    loss = criterion(predicted, y)
    loss.requires_grad = True
    loss.backward()
    optimizer.step()
"""
    GOOD = BAD.replace(".argmax(dim=1).float()", ".mean(dim=1)").replace("    loss.requires_grad = True\n", "")

    def check_script(self, script: Script) -> Iterator[Finding]:
        for broken in script.broken:
            message, remedy = _told(broken)
            beside = broken.backward is not None and broken.backward.line != broken.location.line
            yield self.finding(
                broken.location,
                message,
                help=remedy,
                related=[Related(broken.backward, "starts here")] if beside and broken.backward else [],
                needs_probe=False,
            )


def _told(broken: BrokenGraph) -> tuple[str, str]:
    text = claims.quoted(broken.text)
    match broken.how:
        case "revived":
            return (
                f"`{text}` gives the loss a gradient that ends at the loss: `backward()` trains nothing",
                "find what cuts the loss from the model (`argmax`, `item()`, `no_grad`, NumPy …), and remove this line",
            )
        case "term":
            return (
                f"`{text}` is a constant to `backward()`: this term of the loss trains nothing",
                "add the tensor itself, or leave the term out of the loss",
            )
        case "forward":
            return (
                f"`{text}` ends the only gradient of `{broken.layer}`, which is never trained",
                "leave the graph whole, or freeze the layer where it is meant to stay as it is",
            )
    return (
        f"`{text}` cuts the loss from every parameter, so that `backward()` trains nothing",
        "compute the loss from the model's output itself",
    )
