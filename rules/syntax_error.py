"""GL001: the file does not parse."""

from __future__ import annotations

from gradlint.finding import Severity
from gradlint.rule import Rule


class SyntaxErrorFound(Rule):
    """
    ## What it does
    Reports a file that Python cannot parse. Nothing else is checked in it, unless all that Python objects to is `async`
    as a name, which it was before 3.7 (`x.cuda(async=True)`).

    ## Why it hurts
    The script does not run.

    ## Example
    ```python
    net = nn.Sequential(nn.Linear(4, 2)
    ```

    ## Use instead
    ```python
    net = nn.Sequential(nn.Linear(4, 2))
    ```

    ## How it is confirmed
    There is nothing to measure.

    ## Fix safety
    No fix is offered.

    ## Options
    None.

    ## References
    - The Python Language Reference, Full Grammar specification
    """

    code = "GL001"
    name = "syntax-error"
    since = "0.1"
    severity = Severity.ERROR
    BAD = "net = nn.Sequential(nn.Linear(4, 2)\n"
    GOOD = "from torch import nn\n\nnet = nn.Sequential(nn.Linear(4, 2))\n"
