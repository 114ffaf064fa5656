"""GL503: parameters that are there to be trained, and that no optimizer updates."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding, Related, Severity
from gradlint.rule import Rule
from gradlint.source.script import Forgotten, Script

CONTAINERS = "`nn.ModuleList`, `nn.ModuleDict` or `nn.Sequential`"


class ParameterNotOptimised(Rule):
    """
    ## What it does
    Looks for trainable parameters that stay as they were drawn:

    - layers in a plain list or dict of a module, which `parameters()` does not see,
    - a layer that `forward` builds anew each time it runs,
    - an `nn.Parameter` that is moved or scaled before it is assigned, so that a plain tensor is assigned,
    - a layer that is put into a model after its optimizer was made,
    - a network that the loss runs through and that no optimizer of the script is given.

    What is frozen, loaded, registered by hand or handed to an optimizer elsewhere is left alone.

    ## Why it hurts
    The loss falls all the same, because the other layers adapt to the random ones. The parameters are also missing
    from the checkpoint and stay on the CPU.

    ## Example
    ```python
    self.layers = [nn.Linear(64, 64) for _ in range(4)]
    ```

    ## Use instead
    ```python
    self.layers = nn.ModuleList([nn.Linear(64, 64) for _ in range(4)])
    ```

    ## How it is confirmed
    There is nothing to measure: where the parameters are kept is written in the source.

    ## Fix safety
    No fix is offered: checkpoints that were saved before would no longer fit.

    ## Options
    None.

    ## References
    - PyTorch, torch.nn.ModuleList; torch.optim, constructing it
    """

    code = "GL503"
    name = "parameter-not-optimised"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(16, 16) for _ in range(2)]
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 16), torch.randint(0, 4, (32,))
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace("[nn.Linear(16, 16) for _ in range(2)]", "nn.ModuleList(nn.Linear(16, 16) for _ in range(2))")

    def check_script(self, script: Script) -> Iterator[Finding]:
        groups: dict[tuple[str, str], list[Forgotten]] = {}
        for forgotten in script.forgotten:
            groups.setdefault((forgotten.how, forgotten.owner), []).append(forgotten)
        for group in groups.values():
            first, *others = sorted(group, key=lambda f: not f.trains)
            message, remedy = _told(first, claims.listed(tuple(dict.fromkeys(f.name for f in (first, *others)))))
            related = [Related(f.location, f"`{f.name}` too") for f in others]
            if first.optimizer is not None:
                related.append(Related(first.optimizer, "the optimizer"))
            yield self.finding(
                first.location,
                message,
                help=remedy,
                severity=None if first.trains else Severity.INFO,
                related=related,
                model=first.owner,
                needs_probe=False,
            )


def _told(forgotten: Forgotten, names: str) -> tuple[str, str]:
    """The message, in which `names` are all that share the fault, and the remedy."""
    name, owner = forgotten.name, forgotten.owner
    match forgotten.how:
        case "container":
            return (
                f"the layers in {names} stand in a plain list or dict: they are no parameters of `{owner}`, and no "
                "optimizer trains them",
                f"keep them in {CONTAINERS}",
            )
        case "forward":
            return (
                f"each `forward` of `{owner}` builds {names} anew, with weights that are never trained",
                "build it in `__init__` and call it in `forward`",
            )
        case "moved":
            return (
                f"what is assigned to {names} is no Parameter any more but a tensor made from one: `{owner}` does not "
                "own it, and no optimizer trains it",
                "assign the `nn.Parameter` itself, and move the whole module",
            )
        case "replaced":
            return (
                f"{names} is put in after the optimizer took the parameters of `{owner}`, so that it is never trained",
                "replace the layer first, then make the optimizer",
            )
    return (
        f"the loss runs through `{name}`, and no optimizer is given its parameters",
        f"add `{name}.parameters()` to an optimizer, or freeze it where it is meant to stay as it is",
    )
