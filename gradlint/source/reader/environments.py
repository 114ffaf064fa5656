"""Environments of reinforcement learning, as far as their spaces are known."""

from __future__ import annotations

from typing import Any

from gradlint.graph.spaces import spaces_of
from gradlint.source.reader.values import Instance, Unknown

MAKERS = frozenset({"gym.make", "gymnasium.make", "gym.vector.make", "gymnasium.vector.make"})

SAME_SPACES = frozenset(
    {"TimeLimit", "RecordVideo", "RecordEpisodeStatistics", "Monitor", "ClipAction", "NormalizeObservation"}
    | {"NormalizeReward", "TransformReward", "OrderEnforcing", "PassiveEnvChecker", "Autoreset"}
)
"""Wrappers of `gym.wrappers` that leave both spaces as they are."""


def made(name: Any) -> Instance | None:
    """The environment of `gym.make(NAME)` with its two spaces, or None if they are not known."""
    spaces = spaces_of(name)
    if spaces is None:
        return None
    observation, action = map(_space, spaces)
    spaces_by_name = {
        f"{prefix}{kind}": space
        for prefix in ("", "single_")
        for kind, space in (("observation_space", observation), ("action_space", action))
    }
    environment = Instance(None, spaces_by_name, open=True)
    environment.attributes["unwrapped"] = environment.attributes["env"] = environment
    return environment


def _space(size: tuple[int, ...] | int) -> Instance:
    if isinstance(size, int):
        return Instance(None, {"n": size, "shape": ()}, open=True)
    bounds = {side: Unknown("a bound of the space", numeric=True) for side in ("low", "high")}
    return Instance(None, {"shape": size, **bounds}, open=True)
