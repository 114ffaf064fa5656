"""How numbers are written for people: two significant digits, powers of ten where they are far from 1."""

from __future__ import annotations

import math

from gradlint.probe.experiment import OVERFLOW


def number(value: float | None) -> str:
    """A number with two significant digits: 3.1e-9, 0.71, 35, 1.9e4; "unknown" for None.

    `OVERFLOW` stands for a measured NaN or infinity: "not finite".
    """
    if value is None:
        return "unknown"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinity"
    if math.isnan(value) or abs(value) >= OVERFLOW:
        return "not finite"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        rounded = float(f"{value:.2g}")
        return f"{rounded:.0f}" if rounded == int(rounded) and abs(rounded) >= 1 else f"{rounded:g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def from_log10(exponent: float | None) -> str:
    """A number given as its log10, which may lie beyond a float's range: 3.1e-9, 0.71, 35, 1e-400."""
    if exponent is None or math.isnan(exponent):
        return "unknown"
    if abs(exponent) > 300:
        return "infinite" if exponent == math.inf else "0" if exponent == -math.inf else f"1e{exponent:.0f}"
    return number(10.0**exponent)


def decades(exponent: float) -> str:
    """A power of ten on a logarithmic scale, as "1e-8.9", and plain "1" where it is one."""
    rounded = round(exponent, 1) + 0.0
    return "1" if rounded == 0 else f"1e{rounded:g}"
