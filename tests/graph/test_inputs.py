"""The grammar of `--input`, and the tensors made after it."""

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from gradlint.graph.input_grammar import InputSpecError, parse_spec  # noqa: E402
from gradlint.graph.input_values import arguments  # noqa: E402


def test_several_inputs_with_types_names_and_ids():
    spec = parse_spec("1x3x224x224, int64:1x128<30522, attention_mask=bool:1x128")
    image, ids, mask = spec.items
    assert (image.shape, image.dtype) == ((1, 3, 224, 224), "float32")
    assert (ids.dtype, ids.high) == ("int64", 30522)
    assert (mask.name, mask.dtype) == ("attention_mask", "bool")
    args, kwargs = arguments(spec.sized(4), "cpu", seed=1)
    assert [tuple(a.shape) for a in args] == [(4, 3, 224, 224), (4, 128)]
    assert kwargs["attention_mask"].all()
    assert int(args[1].max()) < 30522


@pytest.mark.parametrize(
    "text",
    [
        "2x3x8",
        "int64:2x5<9, x=2x4",
        "float16:3",
        "{input_ids=int64:2x5<9, attention_mask=bool:2x5}",
        "[2x3x8x8, 2x6x4x4]",
        "2x5x4, (1x2x8, 1x2x8)",
        "[2*3x64x64], [2*{boxes=boxes:3x4<64, labels=int64:3<2}]",
        "2x9x4, lengths:2<9",
        "2x3, None, train=True, mode='mean', steps=value:3",
    ],
)
def test_a_spec_reads_back_what_it_writes(text):
    assert str(parse_spec(text)) == text


def test_a_batch_in_a_dict_is_one_argument():
    (batch,), kwargs = arguments(parse_spec("{input_ids=int64:2x5<9, attention_mask=int64:2x5}").sized(3), "cpu")
    assert not kwargs
    assert {k: tuple(v.shape) for k, v in batch.items()} == {"input_ids": (3, 5), "attention_mask": (3, 5)}
    assert batch["attention_mask"].all()


def test_a_list_of_samples_grows_with_the_batch():
    (images, targets), _ = arguments(parse_spec("[2*3x8x8], [2*{boxes=boxes:3x4<8, labels=int64:3<2}]").sized(5), "cpu")
    assert [tuple(i.shape) for i in images] == [(3, 8, 8)] * 5
    assert len(targets) == 5
    boxes = targets[0]["boxes"]
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all() and (boxes <= 8).all()


def test_a_state_of_two_tensors_is_a_tuple():
    (_, state), _ = arguments(parse_spec("2x5x4, (1x2x8, 1x2x8)"), "cpu")
    assert isinstance(state, tuple) and len(state) == 2


def test_ids_are_integers_without_being_told():
    assert parse_spec("2x7<50").items[0].dtype == "int64"


def test_an_input_is_the_same_for_the_same_seed_and_leaves_the_random_state():
    spec = parse_spec("2x3")
    state = torch.get_rng_state()
    (a,), _ = arguments(spec, "cpu", seed=5)
    (b,), _ = arguments(spec, "cpu", seed=5)
    (c,), _ = arguments(spec, "cpu", seed=6)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "text", ["", "axb", "1x", "quux:2x3", "-1x3", "2x3<", "[2x3", "{2x3}", "[2*2x3, 2x4]", "2x3]", "3=2x3", "1x2 3x4"]
)
def test_a_wrong_spec_is_one_line_that_quotes_it(text):
    with pytest.raises(InputSpecError) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)
