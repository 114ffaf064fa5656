"""Which single change of init, activation, norm or skips brings the gradient back, by re-running the algebra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.graph.model import SATURATING, WEIGHTED, ModelGraph
from gradlint.graph.profile import Profile
from gradlint.graph.signal.whatif import AddSkips, Change, InsertNorm, Reinit, SwapActivation, apply

GOOD_ENOUGH = 1.0
"""Decades: among changes that leave no layer further than this from the last, the least intrusive is named."""
LEAST_GAIN = 1.0
"""Decades that a change must win back to be a remedy."""


@dataclass(frozen=True)
class Remedy:
    """A change, and log10 of the gradient that is furthest from the last hidden layer's, before and after it."""

    change: Change
    before: float
    after: float

    @property
    def words(self) -> str:
        """What to do, as help for a person."""
        match self.change:
            case Reinit(law):
                return f"{law} init with the gain of the activation"
            case SwapActivation(to):
                return f"`{to}` instead of the saturating activations"
            case InsertNorm(kind):
                return f"a {kind} norm behind each hidden layer"
            case AddSkips(every):
                return f"a skip around every {every} or so layers"


def best_remedy(graph: ModelGraph, found: Profile, *, batch_size: int = 32) -> Remedy | None:
    """The change after which the gradients stand nearest together, least intrusive first among those that suffice.

    None where nothing is predicted, where no layer stands apart by `LEAST_GAIN` decades, and where no change
    wins that much back. One profile is computed for each candidate.
    """
    before = furthest(found)
    if before is None or abs(before) < LEAST_GAIN:
        return None
    best: Remedy | None = None
    for change in _candidates(graph):
        after = _after(graph, change, batch_size)
        if after is None or abs(before) - abs(after) < LEAST_GAIN:
            continue
        if abs(after) <= GOOD_ENOUGH:
            return Remedy(change, before, after)
        if best is None or abs(after) < abs(best.after):
            best = Remedy(change, before, after)
    return best


def furthest(found: Profile) -> float | None:
    """log10 of the relative gradient that is furthest from 1; zero-initialised branches as grown."""
    known = [layer.gradient for layer in (found.grown or found).layers if layer.gradient is not None]
    return max(known, key=abs, default=None)


def _candidates(graph: ModelGraph) -> Iterator[Change]:
    """From the least intrusive change to the most."""
    yield Reinit("kaiming")
    yield Reinit("xavier")
    if any(n.kind == "activation" and n.op in SATURATING for n in graph.nodes):
        yield SwapActivation("relu")
        yield SwapActivation("elu")
    normed = any(n.kind == "normalization" for n in graph.nodes)
    if not normed:
        yield InsertNorm("batch" if any(n.kind == "conv" for n in graph.nodes) else "layer")
    if sum(n.kind in WEIGHTED for n in graph.nodes) > 2:
        yield AddSkips(2, branch_scale=1.0 if normed else 0.2)


def _after(graph: ModelGraph, change: Change, batch_size: int) -> float | None:
    from gradlint.graph.signal.interpreter import profile

    changed = apply(graph, change)
    return furthest(profile(changed, batch_size=batch_size, folds=False)) if changed != graph else None
