"""The graph of a model that exists, as it runs on a batch that exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from gradlint.graph.lower import Origins, lower
from gradlint.graph.model import ModelGraph
from gradlint.graph.record import Recorder
from gradlint.graph.walk import tensors_in
from gradlint.probe.state import preserved


def trace_call(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelGraph:
    """Record one forward pass, which the module and the random numbers do not notice.

    Raises whatever the model raises.
    """
    recorder = Recorder(module)
    with preserved(module):
        recorder.run(args, kwargs)
    graph = lower(recorder.graph, module, Origins())
    shapes = ["x".join(map(str, t.shape)) for t in tensors_in((args, dict(kwargs)))]
    return replace(graph, traced_by="recording (real)", input=", ".join(shapes) or None)
