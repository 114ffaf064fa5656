"""Functions chosen by the type of a value."""

from collections import OrderedDict

from gradlint.source.reader.by_type import ByType

NAMES = ByType(
    {dict: lambda value: "table", int: lambda value: "number", list: lambda value: "list"}, lambda value: "?"
)


def named(value: object) -> object:
    return NAMES[type(value)](value)


def test_a_value_goes_to_the_function_of_its_own_type() -> None:
    assert [named(v) for v in ({}, 1, [])] == ["table", "number", "list"]


def test_a_value_of_a_derived_type_goes_to_the_nearest_base() -> None:
    class Rows(list[int]):
        pass

    class Flags(Rows):
        pass

    assert [named(v) for v in (OrderedDict(), True, Rows(), Flags())] == ["table", "number", "list", "list"]


def test_any_other_value_goes_to_the_function_for_all_others() -> None:
    assert [named(v) for v in ("text", None, 1.0)] == ["?", "?", "?"]


def test_a_type_that_has_no_function_hides_none_of_its_other_bases() -> None:
    class Plain:
        pass

    class Table(Plain, dict[str, int]):
        pass

    assert (named(Plain()), named(Table())) == ("?", "table")
