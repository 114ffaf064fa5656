"""Observation and action sizes of the environments that every reinforcement-learning tutorial uses."""

from __future__ import annotations

import re
from typing import Any

from gradlint.source.reader.values import Instance, Unknown

MAKERS = frozenset({"gym.make", "gymnasium.make", "gym.vector.make", "gymnasium.vector.make"})

SAME_SPACES = frozenset(
    {"TimeLimit", "RecordVideo", "RecordEpisodeStatistics", "Monitor", "ClipAction", "NormalizeObservation"}
    | {"NormalizeReward", "TransformReward", "OrderEnforcing", "PassiveEnvChecker", "Autoreset"}
)
"""Wrappers of `gym.wrappers` that leave both spaces as they are."""

SPACES: dict[str, tuple[tuple[int, ...] | int, tuple[int, ...] | int]] = {
    "CartPole": ((4,), 2),
    "MountainCar": ((2,), 3),
    "MountainCarContinuous": ((2,), (1,)),
    "Pendulum": ((3,), (1,)),
    "Acrobot": ((6,), 3),
    "LunarLander": ((8,), 4),
    "LunarLanderContinuous": ((8,), (2,)),
    "BipedalWalker": ((24,), (4,)),
    "BipedalWalkerHardcore": ((24,), (4,)),
    "CarRacing": ((96, 96, 3), (3,)),
    "FrozenLake": (16, 4),
    "Taxi": (500, 6),
    "HalfCheetah": ((17,), (6,)),
    "Hopper": ((11,), (3,)),
    "Walker2d": ((17,), (6,)),
    "Swimmer": ((8,), (2,)),
    "Reacher": ((11,), (2,)),
    "InvertedPendulum": ((4,), (1,)),
}
"""By name without version: the observation and the action space as Gymnasium's documentation gives them, a shape for
a box and a count for a discrete space. Environments whose sizes differ between versions are left out."""


def made(name: Any) -> Instance | None:
    """The environment of `gym.make(NAME)` with its two spaces, or None if they are not known."""
    match = re.fullmatch(r"([A-Za-z0-9]+?)-v\d+", name) if isinstance(name, str) else None
    spaces = SPACES.get(match[1]) if match else None
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
