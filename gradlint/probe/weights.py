"""What a backward pass shows of a model's parameters: norms of gradients, of the weights and of the first update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from gradlint.graph.model import Node
from gradlint.probe.histogram import shares_by_decade
from gradlint.probe.norms import norms, read
from gradlint.probe.ranks import Ranks
from gradlint.probe.replay import Recipe, UnknownOptimizerError
from gradlint.probe.targets import parameters_of, weights_of
from gradlint.probe.update import update_norms


@dataclass(frozen=True)
class Weights:
    """Norms by the identity of a parameter: of its gradient, of itself, and of its first optimizer step."""

    table: dict[str, nn.Parameter]
    gradient: dict[int, float]
    size: dict[int, float]
    update: dict[int, float]
    notes: tuple[str, ...] = ()
    histogram: dict[int, tuple[float, ...]] = field(default_factory=dict)
    gradient_histogram: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        module: nn.Module,
        gradients: Mapping[int, Tensor | None],
        recipe: Recipe | None,
        budget: int | None = None,
        ranks: Ranks | None = None,
    ) -> Weights:
        """Norms of a module's parameters, whose gradients are given by identity; one synchronisation for all.

        `budget` limits how many elements of a parameter the optimizer is tried on. With `ranks` the norms are those
        over all shards; the gradients must have been averaged.
        """
        parameters = {id(p): p for p in module.parameters() if p.device.type != "meta"}
        reached = {key: g for key, g in gradients.items() if g is not None}
        notes: tuple[str, ...] = ()
        updates: list[Tensor] = []
        if recipe is not None:
            try:
                updates = update_norms([(parameters[key], g) for key, g in reached.items()], recipe, budget)
            except (UnknownOptimizerError, TypeError, ValueError, RuntimeError) as error:
                notes = (f"no update ratio: {error}".splitlines()[0],)
        found = cls(
            table=parameters_of(module),
            gradient=dict(zip(reached, norms(list(reached.values())), strict=True)),
            size=dict(zip(parameters, norms(list(parameters.values())), strict=True)),
            update=dict(zip(reached, read(updates), strict=True)) if updates else {},
            notes=notes,
            histogram=shares_by_decade(parameters),
            gradient_histogram=shares_by_decade(reached),
        )
        return found if ranks is None else found._over(ranks, parameters)

    def _over(self, ranks: Ranks, parameters: Mapping[int, Tensor]) -> Weights:
        """The norms over all shards; histograms are the mean over the ranks that hold a part."""
        keys = list(parameters)
        shares = [ranks.share(p) for p in parameters.values()]
        names = ("gradient", "size", "update", "histogram", "gradient_histogram")
        parts = ranks.gather([shares, *([getattr(self, name).get(k) for k in keys] for name in names)])
        merged: list[dict[int, float]] = [{} for _ in range(3)]
        drawn: list[dict[int, tuple[float, ...]]] = [{} for _ in range(2)]
        for index, key in enumerate(keys):
            for which, table in enumerate(merged, 1):
                rows = [(p[0][index], p[which][index]) for p in parts if p[which][index] is not None]
                if rows:
                    table[key] = math.sqrt(sum(share * norm * norm for share, norm in rows))
            for which, shown in enumerate(drawn, 4):
                histograms = [p[which][index] for p in parts if p[which][index] is not None]
                if histograms:
                    shown[key] = tuple(sum(bins) / len(bins) for bins in zip(*histograms, strict=True))
        return Weights(self.table, merged[0], merged[1], merged[2], self.notes, drawn[0], drawn[1])

    def shares(self, node: Node, histograms: Mapping[int, tuple[float, ...]]) -> tuple[float, ...]:
        """The histogram of a node's largest weight; empty if none is known."""
        found = [(p.numel(), histograms[id(p)]) for _, p in weights_of(node, self.table) if id(p) in histograms]
        return max(found)[1] if found else ()

    def of(self, node: Node, norms: Mapping[int, float]) -> float | None:
        """The joint norm over a node's weights (not its biases); None if none of them is known."""
        found = [norms[id(p)] for _, p in weights_of(node, self.table) if id(p) in norms]
        return math.hypot(*found) if found else None

    def total(self) -> float:
        """The norm over the gradients of all parameters."""
        return math.hypot(*self.gradient.values())


def in_order(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> dict[int, Tensor | None]:
    """Gradients by the identity of the parameter that they are of."""
    return {id(p): g for p, g in zip(parameters, gradients, strict=True)}
