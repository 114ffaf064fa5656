"""The report on one measured batch, as a table for terminals and notebooks."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradlint.finding import Severity
from gradlint.graph.model import WEIGHTED, ModelGraph, Node
from gradlint.graph.topology import topology
from gradlint.graph.topology_paths import feeds
from gradlint.graph.topology_scales import only_rescales
from gradlint.location import Location
from gradlint.notation import number
from gradlint.probe.experiment import LOSS, LayerMeasurement, Measurement
from gradlint.probe.judging import ABSOLUTE, Health, classify, health, log10, ratio_bands

BAR_WIDTH = 12
"""Characters of a bar; each is one decade."""

NAME = 24
"""Characters of a layer's name before it folds."""

COLOURS = {None: "green", Severity.INFO: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "red"}


@dataclass(frozen=True)
class Report:
    """What one forward and backward pass over a batch showed of a model.

    `measurement` holds the numbers by operation, `graph` the operations, `optimizer` the name of the optimizer that
    the thresholds are chosen by, `loss_at` the line that takes the loss's gradient. Shows itself as a table in a
    terminal (rich) and in a notebook.
    """

    graph: ModelGraph
    measurement: Measurement
    optimizer: str | None = None
    loss_at: Location | None = None

    @cached_property
    def layers(self) -> tuple[LayerMeasurement, ...]:
        """The weighted layers in execution order."""
        seen = self.measurement.layers
        return tuple(seen[n.name] for n in self.graph.of_kind(*sorted(WEIGHTED)) if n.name in seen)

    @cached_property
    def hidden(self) -> tuple[str, ...]:
        """Names of the weighted layers that carry the signal and have another behind them; all of them if none has.

        Left out are those that act through gates or attention weights alone: at uniform attention queries and keys get
        next to no gradient, and the net trains.
        """
        later = topology(self.graph).before_weights
        weighted = [n for n in self._weighted if n.name in self.measurement.layers]
        carrying = [n for n in weighted if n.name not in self.beside]
        return tuple(n.name for n in carrying if later[n.id]) or tuple(n.name for n in weighted)

    @cached_property
    def beside(self) -> frozenset[str]:
        """Layers whose whole influence goes through a gate or attention weights."""
        side = topology(self.graph).side
        return frozenset(n.name for n in self._weighted if n.id in side)

    @cached_property
    def scale_free(self) -> frozenset[str]:
        """Layers whose scale a normalisation divides out."""
        return frozenset(n.name for n in self._weighted if feeds(self.graph, n).normalized)

    @cached_property
    def zero_gated(self) -> frozenset[str]:
        """What gets no gradient by design: behind a zero-initialised weight at the end of a residual branch, or a mere
        scale in front of a norm that divides it out."""
        silent = {n.id for n in self.graph.nodes if self._seen(n) and self._seen(n).weight_norm == 0}
        gated = {i for skip in topology(self.graph).skips if skip.branch & silent for i in skip.branch}
        scales = {n.id for n in self._weighted if only_rescales(self.graph, n)}
        return frozenset(self.graph.nodes[i].name for i in (gated - silent) | scales)

    @property
    def _weighted(self) -> list[Node]:
        return list(self.graph.of_kind(*sorted(WEIGHTED)))

    def _seen(self, node: Node) -> LayerMeasurement:
        return self.measurement.layers.get(node.name, LayerMeasurement(node.name))

    @cached_property
    def health(self) -> Health:
        """The gradient ratio, the absolute gradients and the forward signal, judged by the table of the rules."""
        return health(
            self.measurement, self.hidden, self.optimizer, scale_free=self.scale_free, zero_gated=self.zero_gated
        )

    @property
    def severity(self) -> Severity | None:
        """How bad it is; None is healthy. A value that is not finite is an error."""
        return Severity.ERROR if self.measurement.first_nonfinite else self.health.severity

    @property
    def healthy(self) -> bool:
        """Whether nothing is outside of what training copes with (a warning or an error)."""
        return self.severity is None or self.severity is Severity.INFO

    @property
    def problems(self) -> tuple[str, ...]:
        """What is outside the healthy range, in words."""
        broken, step = self.measurement.first_nonfinite, self.measurement.nonfinite_step
        if broken is None:
            return self.health.reasons
        at = self.broken_at
        where = f" ({PurePath(at.path).name}:{at.line})" if at is not None else ""
        when = f" at step {step}" if step is not None and step > 1 else ""
        if broken == LOSS:
            said = f"the loss{where} is not finite{when}, while all that the model computes is"
        else:
            said = f"`{broken}`{where} makes the first value that is not finite{when}"
        return (said, *self.health.reasons)

    @cached_property
    def broken_at(self) -> Location | None:
        """The line that makes the first value that is not finite, None where all are or where it is not known."""
        broken = self.measurement.first_nonfinite
        if broken == LOSS:
            return self.loss_at
        return next((n.best_location for n in self.graph.nodes if n.name == broken), None)

    def __rich__(self) -> Table:
        """The layers as a table: activations, gradients on a log scale, saturation, dead units, update ratio."""
        title = Text(f"{self.graph.name}: loss {_number(self.measurement.loss)} on {self.measurement.device}")
        table = Table(title=title, caption=Text(self._verdict()), title_justify="left", caption_justify="left")
        longest = max((len(layer.name) for layer in self.layers), default=0)
        # Where there is little room long names fold and the numbers stay.
        table.add_column("layer", overflow="fold", min_width=min(longest, NAME))
        for heading in ("std h", "‖∂L/∂h‖", "relative", "", "‖∂L/∂W‖", "sat.", "dead", "‖Δw‖/‖w‖"):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        last = self.measurement.layers[self.hidden[-1]].gradient if self.hidden else None
        for layer in self.layers:
            relative = layer.gradient / last if layer.gradient is not None and last else None
            colour = COLOURS[self._class(layer, relative)]
            table.add_row(
                layer.name,
                _number(layer.activation_std),
                _number(layer.gradient),
                _number(relative),
                Text(_bar(relative), style=colour),
                Text(_number(layer.weight_gradient), style=colour),
                _share(layer.saturated),
                _share(layer.dead),
                _number(layer.update_ratio),
            )
        return table

    def _class(self, layer: LayerMeasurement, relative: float | None) -> Severity | None:
        if layer.name in self.beside:
            return None
        absolute = None if layer.name in self.scale_free | self.zero_gated else layer.weight_gradient
        classes = [classify(relative, ratio_bands(self.optimizer)), classify(absolute, ABSOLUTE)]
        return max((c for c in classes if c), key=lambda c: c.rank, default=None)

    def _verdict(self) -> str:
        word = self.severity.value if self.severity else "healthy"
        return f"{word}: " + "; ".join(self.problems) if self.problems else word

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=110, color_system=None)
        console.print(self)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    def _repr_html_(self) -> str:
        console = Console(file=io.StringIO(), width=110, record=True)
        console.print(self)
        return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _bar(relative: float | None) -> str:
    """One mark for each decade away from the last hidden layer: "◂◂◂" smaller, "▸▸" larger."""
    if relative is None:
        return ""
    decades = max(-BAR_WIDTH, min(BAR_WIDTH, log10(relative)))
    count = round(abs(decades))
    return ("◂" if decades < 0 else "▸") * count or "·"
