"""GL602: a loss takes a logarithm or a root of what can be 0, where its gradient is infinite."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import claims
from gradlint.finding import Finding, Severity
from gradlint.rule import Rule
from gradlint.source.script import Script, Singularity

SURE = frozenset({"rectified", "itself"})
"""What any batch brings to 0; the others take large logits, or a prediction without any error."""


class UnguardedSingularity(Rule):
    """
    ## What it does
    Looks for a logarithm or a square root of what can be exactly 0, on the way to a loss or to what a module returns:

    - the logarithm of a ReLU or of a clamp at 0, and the root of the squared distances of a tensor to itself, which any
      batch brings to 0: a warning;
    - the logarithm of `1 - sigmoid(x)` or `1 - softmax(x)`, which round to 0 from x ≈ 17 on, and of `sigmoid(x)` or
      `softmax(x)`, which do so about 90 apart: an info;
    - the logarithms of `p` and of `1 - p` in one loss: `p` is a probability that rounds to 0 or 1 as well: an info;
    - the logarithm of a sum of exponentials behind a mask, which may leave nothing: an info;
    - the root of a squared error, which a perfect prediction makes 0, of a clamp at 0, or of a sum of squares, which is
      a norm without the slope that `torch.norm` has at 0: an info.

    A constant added, a clamp above 0, `torch.where` and the like between the two leave nothing to report.

    ## Why it hurts
    The logarithm of 0 is infinite, and so is the loss. The slope of log and of the square root at 0 is infinite too:
    the chain rule multiplies it by the slope of what is inside, which mostly is 0 there, and 0·∞ is NaN; after the
    next step it is in every parameter. The value of a root shows nothing of it.

    ## Example
    ```python
    distances = ((z.unsqueeze(0) - z.unsqueeze(1)) ** 2).sum(-1)
    loss = torch.sqrt(distances).mean() - torch.log(F.relu(margin)).mean()
    ```

    ## Use instead
    ```python
    distances = ((z.unsqueeze(0) - z.unsqueeze(1)) ** 2).sum(-1)
    loss = torch.sqrt(distances + 1e-8).mean() - torch.log(F.softplus(margin)).mean()
    ```

    ## How it is confirmed
    There is nothing to measure: where the slope is infinite follows from the expression. (The roundings were found
    by trying, in float32: the gradient of `log(1 - sigmoid(17))`, `log(sigmoid(-89))` and of `log(softmax([90, 0]))` is
    NaN.)

    ## Fix safety
    No fix is offered: the loss has to be written in other terms.

    ## Options
    None.

    ## References
    - Goldberg, What Every Computer Scientist Should Know About Floating-Point Arithmetic, ACM Computing Surveys 1991
    - PyTorch, Autograd mechanics: gradients for non-differentiable functions
    """

    code = "GL602"
    name = "unguarded-singularity"
    since = "0.1"
    severity = Severity.WARNING
    BAD = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(100):
    x = torch.randn(32, 16)
    optimizer.zero_grad()
    z = model(x)
    distances = ((z.unsqueeze(0) - z.unsqueeze(1)) ** 2).sum(dim=-1)
    loss = -torch.sqrt(distances).mean()
    loss.backward()
    optimizer.step()
"""
    GOOD = BAD.replace("torch.sqrt(distances)", "torch.sqrt(distances + 1e-8)")

    def check_script(self, script: Script) -> Iterator[Finding]:
        for singular in script.singular:
            why, remedy = _told(singular)
            yield self.finding(
                singular.location,
                f"`{claims.quoted(singular.text)}` {why}",
                help=remedy,
                severity=None if _is_sure(singular) else Severity.INFO,
                needs_probe=False,
            )


def _is_sure(singular: Singularity) -> bool:
    """Whether ordinary values reach the singularity; the root of a clamp is finite, and steep at 0 alone."""
    return singular.how in SURE or (singular.how == "clamped" and singular.op != "sqrt")


def _told(singular: Singularity) -> tuple[str, str]:
    operation = "a logarithm" if singular.op.startswith("log") else "a root"
    where = "where the loss is infinite" if singular.op != "sqrt" else "where the gradient is infinite or NaN"
    match singular.how:
        case "rectified" | "clamped":
            return f"takes {operation} of what is cut off at 0, {where}", "cut it off above 0: `clamp(min=1e-8)`"
        case "itself":
            return (
                f"takes {operation} of the distances of a tensor to itself: they are 0 on the diagonal, where the "
                "gradient is NaN",
                "add a small constant inside, or use `torch.cdist`",
            )
        case "error":
            return (
                f"takes {operation} of a squared error: where it is 0 the gradient is NaN",
                "add a small constant inside",
            )
        case "squares":
            return (
                f"takes {operation} of squares alone, a norm that is written out: where all are 0 the gradient is NaN",
                "use `torch.linalg.vector_norm`, or add a small constant inside",
            )
        case "masked":
            return (
                f"takes {operation} of a sum that is 0 where the mask leaves nothing, or what rounds to 0",
                "add a small constant inside, or use `logsumexp` over logits that are masked with -inf",
            )
        case "probability" | "1-probability":
            return (
                f"takes {operation} of a probability, which float32 rounds to 0 or 1 for large logits: the loss is "
                "infinite and the gradient NaN there",
                "compute it from the logits, or clamp the probability away from 0 and 1",
            )
        case "sigmoid":
            return (
                "takes a logarithm of what rounds to 0 for logits below -88, and the gradient is NaN there",
                "use `logsigmoid`",
            )
        case "1-sigmoid":
            return (
                "takes a logarithm of what rounds to 0 from logits of 17 on, and the gradient is NaN there",
                "use `logsigmoid(-x)`, or `binary_cross_entropy_with_logits`",
            )
        case "1-softmax":
            return (
                "takes a logarithm of what rounds to 0 for logits 17 apart, and the gradient is NaN there",
                "clamp the difference above 0: `clamp(min=1e-6)`",
            )
    return (
        "takes a logarithm of what rounds to 0 for logits about 90 apart, and the gradient is NaN there",
        "use `log_softmax`",
    )
