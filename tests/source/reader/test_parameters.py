from __future__ import annotations

from typing import Any

import pytest

from gradlint.source.reader.parameters import built
from gradlint.source.reader.values import Unknown


def shapes(name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {role: shape for role, (shape, _) in built(name, list(args), kwargs)[1].items()}


def test_a_layer_with_other_arguments_is_another_layer() -> None:
    assert shapes("Linear", 3, 5) == {"weight": (5, 3), "bias": (5,)}
    assert shapes("Linear", 5, 3) == {"weight": (3, 5), "bias": (3,)}
    assert shapes("Linear", 3, 5, bias=False) == {"weight": (5, 3)}
    assert shapes("Linear", 3, out_features=5) == {"weight": (5, 3), "bias": (5,)}
    assert shapes("Conv2d", 3, 5, 7) == {"weight": (5, 3, 7, 7), "bias": (5,)}
    assert shapes("Conv2d", 3, 5, (1, 7)) == {"weight": (5, 3, 1, 7), "bias": (5,)}
    assert shapes("Conv2d", 3, 5, kernel_size=7, groups=3) == {"weight": (5, 1, 7, 7), "bias": (5,)}


@pytest.mark.parametrize("given", [True, 1, 1.0])
def test_an_argument_stays_what_it_was_written_as(given: object) -> None:
    arguments, _ = built("Linear", [3, 5, given], {})
    assert type(arguments["bias"]) is type(given)


def test_layers_made_alike_share_nothing_that_can_change() -> None:
    first, second = built("Linear", [3, 5], {}), built("Linear", [3, 5], {})
    first[0]["bias"] = False
    assert second[0]["bias"] is True
    with pytest.raises(TypeError):
        first[1]["bias"] = second[1]["weight"]  # type: ignore[index]


def test_what_is_not_given_is_not_known_to_either_of_two_layers() -> None:
    first, second = built("Linear", [3], {}), built("Linear", [3], {})
    assert isinstance(first[0]["out_features"], Unknown)
    assert first[0]["out_features"] is not second[0]["out_features"]
    assert first[1]["weight"][0] == (None, 3)
