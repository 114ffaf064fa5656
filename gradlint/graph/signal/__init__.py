"""Signal and gradient of every layer, predicted from a `ModelGraph` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradlint.graph.model import ModelGraph
    from gradlint.graph.profile import Profile
    from gradlint.graph.signal.remedy import Remedy
    from gradlint.graph.signal.whatif import Change

__all__ = ["best_remedy", "profile", "what_if"]


def profile(graph: ModelGraph, *, batch_size: int = 32) -> Profile:
    """Predict activation scale, gradient scale and their uncertainty for every node of `graph`.

    `batch_size` is the batch that the absolute gradients and the batch norms are predicted for.
    No forward pass, no weights: mean-field signal propagation over the graph and its init laws.
    """
    from gradlint.graph.signal.interpreter import profile as run

    return run(graph, batch_size=batch_size)


def what_if(graph: ModelGraph, change: Change, *, batch_size: int = 32) -> Profile:
    """The profile that `graph` would have after one change of init, activation, norm or skips."""
    from gradlint.graph.signal.interpreter import profile as run
    from gradlint.graph.signal.whatif import apply

    return run(apply(graph, change), batch_size=batch_size, folds=False)


def best_remedy(graph: ModelGraph, found: Profile, *, batch_size: int = 32) -> Remedy | None:
    """The single change of init, activation, norm or skips that brings the gradient of `found` back, or None."""
    from gradlint.graph.signal.remedy import best_remedy as search

    return search(graph, found, batch_size=batch_size)
