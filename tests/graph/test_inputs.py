"""The grammar of `--input`, and the tensors made after it."""

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from gradlint.graph.inputs import InputSpecError, parse_spec  # noqa: E402


def test_several_inputs_with_types_names_and_ids():
    spec = parse_spec("1x3x224x224, int64:1x128<30522, attention_mask=bool:1x128")
    image, ids, mask = spec.items
    assert (image.shape, image.dtype) == ((1, 3, 224, 224), "float32")
    assert (ids.dtype, ids.high) == ("int64", 30522)
    assert (mask.name, mask.dtype) == ("attention_mask", "bool")
    args, kwargs = spec.sized(4).arguments("cpu", seed=1)
    assert [tuple(a.shape) for a in args] == [(4, 3, 224, 224), (4, 128)]
    assert kwargs["attention_mask"].all()
    assert int(args[1].max()) < 30522


@pytest.mark.parametrize("text", ["2x3x8", "int64:2x5<9, x=2x4", "float16:3"])
def test_a_spec_reads_back_what_it_writes(text):
    assert str(parse_spec(text)) == text


def test_ids_are_integers_without_being_told():
    assert parse_spec("2x7<50").items[0].dtype == "int64"


def test_an_input_is_the_same_for_the_same_seed_and_leaves_the_random_state():
    spec = parse_spec("2x3")
    state = torch.get_rng_state()
    (a,), _ = spec.arguments("cpu", seed=5)
    (b,), _ = spec.arguments("cpu", seed=5)
    (c,), _ = spec.arguments("cpu", seed=6)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("text", ["", "axb", "1x", "quux:2x3", "-1x3", "2x3<"])
def test_a_wrong_spec_is_one_line_that_quotes_it(text):
    with pytest.raises(InputSpecError) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)
