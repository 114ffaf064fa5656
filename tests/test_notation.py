"""One way to write a number, in messages and in reports."""

import math

import pytest

from gradlint.notation import from_log10, number
from gradlint.probe.experiment import OVERFLOW


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (3.14e-9, "3.1e-9"),
        (1e-9, "1e-9"),
        (0.714, "0.71"),
        (1.0, "1"),
        (35.2, "35"),
        (123.0, "120"),
        (19400.0, "1.9e4"),
        (0.0, "0"),
        (math.inf, "infinite"),
        (math.nan, "not finite"),
        (OVERFLOW, "not finite"),
        (None, "unknown"),
    ],
)
def test_a_number_has_two_significant_digits(value: float | None, written: str) -> None:
    assert number(value) == written


@pytest.mark.parametrize(("exponent", "written"), [(-8.5, "3.2e-9"), (-400.0, "1e-400"), (-math.inf, "0")])
def test_a_logarithm_is_written_as_its_number_even_beyond_floats(exponent: float, written: str) -> None:
    assert from_log10(exponent) == written
