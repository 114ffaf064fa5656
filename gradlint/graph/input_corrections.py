"""Inputs that an error message asks for: other widths, other sizes of an image, another number of axes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from gradlint.graph.input_facts import TOKENS
from gradlint.graph.inputs import InputSpec, ModelInput

_Correct = Callable[[re.Match[str], InputSpec], list[tuple[int, ...]]]


def corrections(error: Exception, tried: ModelInput) -> Iterator[ModelInput]:
    """Inputs that an error message asks for, the nearest first."""
    text = " ".join(str(error).split())
    for pattern, correct in _CORRECTIONS:
        found = re.search(pattern, text)
        if found is None:
            continue
        for k, item in enumerate(tried.specs()):
            if item.law == "value" or item.dtype == "bool":
                continue
            for shape in correct(found, item):
                if shape != item.shape and all(s > 0 for s in shape) and math.prod(shape) < 1 << 28:
                    yield tried.with_spec(k, replace(item, shape=shape))
        return


def _resized(shape: tuple[int, ...], factor: float) -> list[tuple[int, ...]]:
    """The same tensor with pixels scaled by `factor`, and sizes near it."""
    rank = len(shape) - 2
    if rank < 1:
        return []
    size = shape[-1] * factor ** (1.0 / rank)
    near = sorted(range(max(1, int(size) - 12), int(size) + 13), key=lambda s: (abs(s - size), s))
    return [(*shape[:2], *[s] * rank) for s in near[:16]]


def _features(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    got, wanted = int(found["got"]), int(found["want"])
    if item.dtype.startswith("int"):
        return [(*item.shape[:-1], max(1, item.shape[-1] * wanted // got))] if got else []
    direct = [(*item.shape[:-1], wanted)] if item.shape and item.shape[-1] == got else []
    if direct and len(item.shape) == 4:
        # A layer that takes no images, though the data set holds some: their pixels in a row, or noise.
        direct.insert(0, (item.shape[0], wanted))
    # `torch.cat((x, hidden))` before the layer: the rest of its operand is not x.
    rest = item.shape[-1] + wanted - got if item.shape else 0
    if rest > 0 and not direct and len(item.shape) in (2, 3):
        direct = [(*item.shape[:-1], rest)]
    pixels = _resized(item.shape, wanted / got) if got else []
    flat = [(*item.shape[:-1], item.shape[-1] * wanted // got)] if len(item.shape) == 2 and got else []
    return direct + pixels + flat


def _channels(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    wanted = int(found["want"])
    if len(item.shape) < 2 or item.dtype.startswith("int"):
        return []
    return [(item.shape[0], wanted, *item.shape[2:])] if len(item.shape) > 2 else [(item.shape[0], wanted)]


def _coloured(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    """A convolution on meta does not say how many channels it wants."""
    return [(item.shape[0], c, *item.shape[2:]) for c in (3, 1)] if len(item.shape) == 4 else []


def _last(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    wanted = int(found["want"])
    return [(*item.shape[:-1], wanted)] if item.shape and item.dtype.startswith("float") else []


def _recurrent(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    wanted, got = int(found["want"]), int(found["got"])
    if item.dtype.startswith("int") and len(item.shape) > 1 and got % wanted == 0:
        # `embedding(x).view(len(x), 1, -1)`: a sequence without a batch; `.view(1, 1, -1)`: a token of one.
        return [(item.shape[0],), (1, 1), (1,)]
    return _last(found, item)


def _larger(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    return (
        [(*item.shape[:2], *[int(s * k) for s in item.shape[2:]]) for k in (4 / 3, 2, 4, 8)]
        if len(item.shape) > 2
        else []
    )


def _matched(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    a, b = int(found["got"]), int(found["want"])
    direct = [tuple(b if s == a else s for s in item.shape), tuple(a if s == b else s for s in item.shape)]
    return [d for d in direct if d != item.shape] + _resized(item.shape, b / a if a else 1.0)[:8]


def _ranked(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    wanted = int(found["want"])
    if item.dtype.startswith("int"):
        return []
    shape = item.shape
    if wanted == len(shape) + 1:
        return [(shape[0], 1, *shape[1:]), (shape[0], TOKENS, *shape[1:])]
    if wanted == 4 and len(shape) == 2:
        return [(shape[0], 3, 32, 32), (shape[0], 1, 28, 28)]
    if wanted == len(shape) - 1:
        return [(shape[0], *shape[2:])]
    return []


def _view(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    """`x.view(-1, n)` or `x.view(-1, c, n)` failed: so many features a sample are wanted."""
    sizes, got = [int(size) for size in found["want"].split(",")], int(found["got"])
    if item.dtype.startswith("int"):
        return []
    if item.shape and sizes[0] == item.shape[0] and len(sizes) > 1:
        sizes = sizes[1:]
    wanted = math.prod(size for size in sizes if size > 0)
    own = got // max(item.shape[0], 1) if item.shape else 0
    return ([(item.shape[0], wanted)] if len(item.shape) == 2 else []) + (
        _resized(item.shape, wanted / own) if own else []
    )


def _shorter(found: re.Match[str], item: InputSpec) -> list[tuple[int, ...]]:
    """As many tokens less as an index lies beyond its table: `position(torch.arange(t))`."""
    beyond = int(found["got"]) + 1 - int(found["want"])
    if item.dtype.startswith("int"):
        axes = list(range(len(item.shape)))[::-1]
    else:
        axes = [1, 0] if len(item.shape) == 3 else []
    return [(*item.shape[:a], item.shape[a] - beyond, *item.shape[a + 1 :]) for a in axes]


_CORRECTIONS: list[tuple[str, _Correct]] = [
    (r"cannot be multiplied \(\d+x(?P<got>\d+) and (?P<want>\d+)x\d+\)", _features),
    (r"same reduction dim, but got \[\d+, (?P<got>\d+)\] X \[(?P<want>\d+), \d+\]", _features),
    (r"to have (?P<want>\d+) channels, but got \d+ channels", _channels),
    (r"Invalid channel dimensions", _coloured),
    (r"running_mean should contain \d+ elements not (?P<want>\d+)", _channels),
    (r"must be equal to input_size\. Expected (?P<want>\d+), got (?P<got>\d+)", _recurrent),
    (r"input has inconsistent input_size: got \d+,? expected (?P<want>\d+)", _last),
    (r"event_shape: torch\.Size\(\[.*?\]\) vs torch\.Size\(\[(?P<want>\d+)\]\)", _last),
    (r"expected input with shape \[\*, (?P<want>\d+)\]", _last),
    (r"embedding dimension of (?P<want>\d+), but got \d+", _last),
    (
        r"(?:Kernel size can't be greater|Output size is too small|more than 1 value per channel|should be greater)",
        _larger,
    ),
    (r"[Ee]xpected (?P<want>\d)D", _ranked),
    (r"not enough values to unpack \(expected (?P<want>\d+), got \d+\)", _ranked),
    (r"too many values to unpack \(expected (?P<want>\d+)", _ranked),
    (r"tensor a \((?P<got>\d+)\) must match the size of tensor b \((?P<want>\d+)\)", _matched),
    (
        r"[Ii]nput (?:image )?(?:size|height|width).*?\(?(?P<got>\d+).*?doesn't match (?:model )?\(?(?P<want>\d+)",
        _matched,
    ),
    (r"index (?P<got>\d+) is beyond the (?P<want>\d+) rows", _shorter),
    (r"shape '\[(?P<want>[-\d, ]+)\]' is invalid for input of size (?P<got>\d+)", _view),
]
