"""GL407: back-propagation runs through the hidden states of all batches before."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint.finding import Finding, Related, Severity
from gradlint.rule import Rule
from gradlint.source.script import CarriedState, Script


class HiddenStateNotDetached(Rule):
    """
    ## What it does
    Looks for a loop that gives a recurrent model the hidden state of the pass before and calls `backward()` in each
    turn, where nothing cuts the state from its graph or makes it anew. A `detach()` whose result is not used cuts
    nothing.

    ## Why it hurts
    The graph of each turn hangs on those of all turns before. Without `retain_graph=True` the second `backward()`
    fails. With it each pass runs back to the first batch: time and memory grow with every turn, the gradient is a
    product of ever more Jacobians, which vanishes or explodes, and as the optimizer has changed the weights in between
    it is wrong where PyTorch does not refuse it. Truncated back-propagation keeps the values of the state and drops
    its graph.

    ## Example
    ```python
    for x, y in loader:
        out, hidden = model(x, hidden)
        criterion(out, y).backward(retain_graph=True)
    ```

    ## Use instead
    ```python
    for x, y in loader:
        out, hidden = model(x, hidden.detach())
        criterion(out, y).backward()
    ```

    ## How it is confirmed
    There is nothing to measure: how the state is handed on is written in the source.

    ## Fix safety
    No fix is offered: what is cut decides how far back the model learns.

    ## Options
    None.

    ## References
    - Williams and Peng, An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network Trajectories,
      Neural Computation 1990
    - PyTorch, torch.Tensor.detach
    """

    code = "GL407"
    name = "hidden-state-not-detached"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x, hidden):
        out, hidden = self.rnn(x, hidden)
        return self.head(out[:, -1]), hidden


model = Tagger()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
hidden = torch.zeros(1, 32, 32)
for _ in range(100):
    x, y = torch.randn(32, 12, 16), torch.randint(0, 5, (32,))
    optimizer.zero_grad()
    out, hidden = model(x, hidden)
    loss = criterion(out, y)
    loss.backward(retain_graph=True)
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
"""
    GOOD = BAD.replace("out, hidden = model(x, hidden)", "out, hidden = model(x, hidden.detach())").replace(
        "retain_graph=True", ""
    )

    def check_script(self, script: Script) -> Iterator[Finding]:
        for state in script.carried:
            yield self.finding(
                state.backward,
                f"`{state.name}` carries the graph of all passes before into this one, {_outcome(state)}",
                help=f"cut it between the passes: `{state.name} = {state.name}.detach()`, for each part of it where it "
                "is a tuple"
                + ("; `detach()` gives a new tensor and changes nothing in place" if state.thrown_away else ""),
                related=[Related(state.location, "the state that the next turn is given")],
                needs_probe=False,
            )


def _outcome(state: CarriedState) -> str:
    if state.retains:
        return "and `retain_graph=True` makes each pass run back through all of them"
    return "and the second `backward()` fails"
