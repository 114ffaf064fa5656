"""Draws of Gaussian tokens without randomness.

A Latin hypercube (McKay et al. 1979): every variable takes the same evenly spread quantiles, in an order of its own. No
random state is touched.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from operator import mul
from statistics import NormalDist

from gradlint.graph.signal.moments import Draws, Signal

DRAWS = 1021
"""Particles: a prime, so that shifting their order by any step makes a new one."""


def fitted(rows: list[list[float]], exact: Signal, uneven: bool) -> Draws:
    """Draws in units of the root mean square, shifted and stretched to the exact first moments."""
    mean = sum(map(sum, rows)) / (3 * DRAWS)
    spread = sum([sum(map(mul, row, row)) for row in rows]) / (3 * DRAWS) - mean * mean
    target = 1.0 - exact.m * exact.m
    if spread > 1e-12 and target > 1e-12:
        stretch = math.sqrt(target / spread)
        shift = exact.m - stretch * mean
        rows = [[shift + stretch * x for x in row] for row in rows]
    token, other, stranger = rows
    return Draws(token, other, stranger, exact.log_q, uneven)


def gaussian(x: Signal, key: int) -> Draws:
    """Three tokens of mean m and correlations s and c, in units of the root mean square."""
    spread = max(1.0 - x.m * x.m, 0.0)
    near, far = (min(max(d / spread, 0.0), 1.9) if spread > 1e-12 else 0.0 for d in (x.ds, x.dc))
    # Two tokens that are both like a third are like each other.
    near = min(near if x.positions > 1.0 else far, far * (4.0 - 2.0 * far) if far < 1.0 else near)
    r_s, r_c = 1.0 - near, 1.0 - far
    own = math.sqrt(near * (2.0 - near))
    tie = r_c * math.sqrt(near / (2.0 - near))
    left = math.sqrt(max((4.0 * far - 2.0 * far * far - near) / (2.0 - near), 0.0))
    sigma, m = math.sqrt(spread), x.m
    a, b, c = (normal(3 * key + i) for i in range(3))
    token = [m + sigma * u for u in a]
    near_a, near_b = sigma * r_s, sigma * own
    far_a, far_b, far_c = sigma * r_c, sigma * tie, sigma * left
    other = [m + near_a * u + near_b * v for u, v in zip(a, b, strict=True)]
    stranger = [m + far_a * u + far_b * v + far_c * w for u, v, w in zip(a, b, c, strict=True)]
    return Draws(token, other, stranger, x.log_q)


@lru_cache(maxsize=256)
def normal(key: int) -> list[float]:
    """The normal quantiles in an order that differs for every key."""
    order, shifts = _orders()[key % 7], _shifts()
    start = shifts[key // 7 % DRAWS]
    return order[start:] + order[:start]


@lru_cache(maxsize=1)
def _orders() -> list[list[float]]:
    normal = NormalDist()
    grid = [normal.inv_cdf((i + 0.5) / DRAWS) for i in range(DRAWS)]
    scale = math.sqrt(DRAWS / math.fsum(x * x for x in grid))
    source = random.Random(0)
    return [source.sample([scale * x for x in grid], DRAWS) for _ in range(7)]


@lru_cache(maxsize=1)
def _shifts() -> list[int]:
    return random.Random(1).sample(range(DRAWS), DRAWS)
