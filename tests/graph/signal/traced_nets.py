"""Small modules that are traced, and what is predicted of them; needs torch."""

from __future__ import annotations

from torch import nn

from gradlint.graph.laws import LawRecorder
from gradlint.graph.lower import Origins
from gradlint.graph.signal.walk import evaluate
from gradlint.graph.trace import trace_module

BATCH = 16


def traced(build, x):
    recorder = LawRecorder()
    with recorder:
        net = build()
    return trace_module(
        net.train(), (x,), origins=Origins({n: recorder.law(p) for n, p in net.named_parameters()})
    ).graph


def output(graph, op):
    """The predicted signal at the last operation of this name."""
    walk = evaluate(graph, BATCH, grown=False)
    return next(site.output for site in reversed(walk.sites) if site is not None and site.node.op == op)


class Net(nn.Module):
    """A layer that makes the parts trainable, and whatever `forward` does behind it."""

    def __init__(self, forward, layer):
        super().__init__()
        self.layer, self.rest = layer, forward

    def forward(self, x):
        return self.rest(self.layer(x))
