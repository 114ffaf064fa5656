"""A dataclass that is made quickly is the dataclass it was."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from gradlint.quick_init import quick_init


@quick_init
@dataclass(frozen=True)
class Pair:
    first: int
    second: int | None = 2
    rest: list[int] = field(default_factory=list)


def test_arguments_go_where_a_dataclass_puts_them() -> None:
    assert Pair(1) == Pair(1, 2) == Pair(first=1, second=2, rest=[])
    assert repr(Pair(1, None, [3])) == "Pair(first=1, second=None, rest=[3])"


def test_each_instance_has_a_default_of_its_own() -> None:
    one, other = Pair(1), Pair(1)
    one.rest.append(3)
    assert other.rest == []


@pytest.mark.parametrize("given", [{}, {"first": 1, "third": 3}])
def test_a_missing_and_an_unknown_argument_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(TypeError, match=r"Pair.__init__\(\)"):
        Pair(**given)  # type: ignore[arg-type]


def test_it_stays_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Pair(1).first = 2  # type: ignore[misc]


def test_copies_are_equal() -> None:
    pair = Pair(1, 2, [3])
    assert replace(pair, second=5) == Pair(1, 5, [3])
    assert pickle.loads(pickle.dumps(pair)) == pair
