"""Observation and action sizes of the environments that every reinforcement-learning tutorial uses."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

Size: TypeAlias = tuple[int, ...] | int
"""The shape of a box, or the count of a discrete space."""

SPACES: dict[str, tuple[Size, Size]] = {
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


def spaces_of(name: Any) -> tuple[Size, Size] | None:
    """The observation and the action space of `gym.make(NAME)`, or None if they are not known."""
    match = re.fullmatch(r"([A-Za-z0-9]+?)-v\d+", name) if isinstance(name, str) else None
    return SPACES.get(match[1]) if match else None
