"""A small result with every kind of finding, for the snapshots of all formats."""

from __future__ import annotations

from pathlib import Path

from gradlint.finding import Edit, Evidence, Finding, Fix, Outcome, Related, Severity, Verdict
from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.profile import LayerProfile, Profile
from gradlint.location import Location
from gradlint.probe.experiment import LayerMeasurement, Measurement, Measurements
from gradlint.result import CheckedModel, Result
from gradlint.source.script import Skipped

ROOT = Path("/project")
TEXT = """\
import torch
from torch import nn

net = nn.Sequential(
    nn.Linear(64, 64),
    nn.Sigmoid(),
\tnn.Linear(64, 64),
    nn.Sigmoid(),
    nn.Linear(64, 10),
)
for x, y in loader:
    loss = criterion(net(x), y)
    loss.backward()
    optimizer.step()
"""


def at(line: int, column: int, end: int, path: str = "/project/train.py", cell: int | None = None) -> Location:
    return Location(path, line, column, line, end, cell)


def sample() -> Result:
    """One confirmed, one secondary, one refuted, one unverified with a fix, and one without a verdict."""
    stack = Finding(
        "GL101",
        "saturating-stack",
        Severity.ERROR,
        "2 `sigmoid` layers in a row, 100% wrong: the gradient falls to a predicted 3.1e-9",
        at(6, 5, 17),
        help="use ReLU, or put a LayerNorm before each activation",
        related=(Related(at(8, 5, 17), "and here"), Related(at(3, 1, 9, "/project/nets/deep.py"), "built by this")),
        evidence=Evidence(3.1e-9, 2.4e-9, {"LayerNorm": 0.6, "ReLU": None}, 1.4, 3, (("sigmoid1", -1.2),)),
        verdict=Verdict(Outcome.CONFIRMED, "the gradient is measured to fall as predicted"),
        model="/project/train.py:net",
        optimizer="SGD",
    )
    secondary = Finding(
        "GL102",
        "deep-without-norm",
        Severity.WARNING,
        "no normalisation in 3 layers",
        at(5, 5, 22),
        verdict=Verdict(Outcome.CONFIRMED, "see GL101"),
        model="/project/train.py:net",
        primary=False,
    )
    refuted = Finding(
        "GL201",
        "rectifier-init",
        Severity.INFO,
        "Xavier before ReLU",
        at(7, 2, 19),
        verdict=Verdict(Outcome.REFUTED, "gradient ratio measured 0.7"),
    )
    unclipped = Finding(
        "GL401",
        "unclipped-recurrent-step",
        Severity.WARNING,
        "`net` is recurrent (RNN), and nothing clips its gradient before the optimizer step",
        at(14, 5, 21),
        verdict=Verdict(Outcome.UNVERIFIED, "not measured: --no-exec"),
        fix=Fix("clip to 1", (Edit(Location("/project/train.py", 14, 5), "clip()\n    "),), safe=True),
    )
    unused = Finding(
        "GL002", "unused-suppression", Severity.WARNING, "this suppression suppresses nothing", at(1, 14, 20),
        needs_probe=False,
    )  # fmt: skip
    return Result(
        root=ROOT,
        findings=(unused, secondary, stack, refuted, unclipped),
        models=(_model(),),
        skipped=(Skipped(Location("/project/model.py", 3), "`Big` could not be built: no module named `foo`"),),
        files=2,
        seconds=1.94,
        texts={"/project/train.py": TEXT},
    )


def _model() -> CheckedModel:
    nodes = (
        Node(0, "input", "input", "x"),
        Node(1, "linear", "linear", "0", (0,), constructor=at(5, 5, 22)),
        Node(2, "activation", "sigmoid", "1", (1,), constructor=at(6, 5, 17)),
        Node(3, "linear", "linear", "2", (2,), constructor=at(7, 2, 19)),
    )
    graph = ModelGraph(
        "net", nodes, location=at(4, 7, 20), class_name="Sequential", traced_by="recording", input="32x64"
    )
    profile = Profile(
        (
            LayerProfile(1, "0", "linear", -0.2, -8.9, -9.0, (-9.1, -8.7), saturated=0.0, distinct=0.5),
            LayerProfile(3, "2", "linear", -0.1, 0.0, -1.0, (0.0, 0.0)),
        )
    )
    seen = Measurement(
        "baseline",
        layers={
            "0": LayerMeasurement("0", 0.0, 0.6, 2.4e-9, 1e-9, 0.01, 0.0, 1e-4),
            "2": LayerMeasurement("2", 0.0, 0.7, 1.0, 0.1),
        },
        seeds=3,
    )
    return CheckedModel("/project/train.py", graph, profile, Measurements({"baseline": seen}))
