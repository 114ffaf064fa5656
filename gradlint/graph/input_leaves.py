"""Inputs that fit one layer: the operand that a convolution, an embedding or a recurrent layer takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from gradlint.graph.input_facts import BATCH, TOKENS, Facts
from gradlint.graph.inputs import Argument, InputGroup, InputSpec

MAX_LEAVES = 12
"""Layers, in the order of registration, whose operand may be the model's input."""

_IDS = (
    "ids",
    "token",
    "src",
    "tgt",
    "trg",
    "text",
    "word",
    "source",
    "target",
    "sentence",
    "seq",
    "idx",
    "index",
    "caption",
    "review",
    "question",
)
_IMAGENET_CLASSES = (1000, 1001, 21841, 21843)
"""Of ImageNet-1k and ImageNet-21k, with and without a class for the background."""


def spec(dtype: str | None, shape: Sequence[int], high: int | None = None, law: str | None = None) -> InputSpec:
    """A tensor with its batch first: ids below `high`, else N(0, 1)."""
    dtype = dtype or ("int64" if high else "float32")
    return InputSpec(tuple(shape), dtype, None, high, law or ("ids" if high else "normal"))


def plain_value(value: Any) -> InputSpec:
    """An argument that is no tensor."""
    return InputSpec((), law="value", value=value, batch_axis=None)


def masks() -> Iterator[InputSpec]:
    """What an argument called a mask may be: nothing, or one that leaves everything in."""
    yield plain_value(None)
    yield InputSpec((BATCH, TOKENS), "bool", law="ones")
    yield InputSpec((BATCH, 1, 1, TOKENS), "bool", law="ones")
    yield InputSpec((TOKENS, TOKENS), "float32", law="zeros", batch_axis=None)
    yield InputSpec((BATCH, TOKENS), "float32", law="ones")


def states(facts: Facts) -> Iterator[Argument]:
    """The first state of a recurrent model: zeros, two of them for an LSTM."""
    layer = next((a for _, _, k, a in facts.leaves if k == "recurrent"), None)
    if layer is None:
        widths = [int(a["out_features"]) for _, _, k, a in facts.leaves if k == "linear" and a.get("out_features")]
        for width in widths[:3]:
            yield InputSpec((BATCH, width), law="zeros")
        yield plain_value(None)
        return
    directions = 2 if layer.get("bidirectional") else 1
    hidden = layer.get("hidden_size") or 1
    shape = (BATCH, hidden) if layer.get("cell") else ((layer.get("num_layers") or 1) * directions, BATCH, hidden)
    one = InputSpec(shape, law="zeros", batch_axis=len(shape) - 2)
    two = InputGroup((one, one), "tuple")
    first, other = (two, one) if layer["op"] == "lstm" else (one, two)
    yield from (first, plain_value(None), other)


def signals(
    facts: Facts, position: int, module: nn.Module, sample: Sequence[int] | None, name: str = ""
) -> Iterator[InputSpec]:
    """What an argument that carries the signal may be: a sample of the data set, token ids, a layer's operand."""
    if sample:
        yield from _of_sample(facts, sample)
    embeddings = [a for _, _, k, a in facts.leaves if k == "embedding"]
    looks_like_ids = any(s in name for s in _IDS)
    tables = [a.get("num_embeddings") for a in embeddings if (a.get("num_embeddings") or 0) > 2]
    first = facts.leaves[0][2] if facts.leaves else None
    if tables and (looks_like_ids or first == "embedding"):
        high = tables[min(position, len(tables) - 1)]
        yield from _ids(high, module)
    for _, leaf, kind, attributes in facts.leaves[:MAX_LEAVES]:
        yield from _of_leaf(leaf, kind, attributes, module)
    if not facts.leaves:
        shape = next((p.shape for p in module.parameters() if p.dim() == 2), ())
        yield from (spec(None, (BATCH, width)) for width in shape)
        yield from (spec(None, s) for s in ((BATCH, 3, 32, 32), (BATCH, 16), (BATCH, 16, 16)))
    if tables and not (looks_like_ids or first == "embedding"):
        yield from _ids(tables[0], module)


def _ids(high: int | None, module: nn.Module) -> Iterator[InputSpec]:
    longest = next(
        (
            int(v)
            for owner in (module, getattr(module, "config", None))
            for key in (
                "block_size",
                "max_len",
                "seq_len",
                "context_length",
                "max_seq_len",
                "n_positions",
                "max_length",
            )
            if isinstance(v := getattr(owner, key, None), int) and v > 0
        ),
        TOKENS,
    )
    tokens = min(longest, TOKENS)
    yield spec("int64", (BATCH, tokens), high)
    if longest != tokens:
        yield spec("int64", (BATCH, longest), high)
    yield replace(spec("int64", (tokens, BATCH), high), batch_axis=1)
    yield spec("int64", (BATCH,), high)
    yield spec("int64", (BATCH, 1), high)
    yield spec("int64", (BATCH, 16), high)
    yield spec("int64", (BATCH, 8), high)


def _of_sample(facts: Facts, sample: Sequence[int]) -> Iterator[InputSpec]:
    """One sample of the data set as the model may want it: as it is, flat, or as rows."""
    shape = tuple(sample)
    first = next((k for _, _, k, _ in facts.leaves if k != "normalization"), None)
    whole = spec(None, (BATCH, *shape))
    flat = spec(None, (BATCH, math.prod(shape)))
    rows = [spec(None, (BATCH, *shape[-2:]))] if len(shape) == 3 and shape[0] == 1 else []
    order = [whole, flat, *rows] if first in ("conv", None) else [*rows, whole, flat]
    if first == "linear":
        order = [whole, flat, *rows]
    yield from order


def _image_sizes(leaf: nn.Module, module: nn.Module) -> list[int]:
    for owner in (module, getattr(module, "config", None), getattr(module, "patch_embed", None)):
        for key in ("image_size", "img_size", "input_size", "in_size", "resolution"):
            value = getattr(owner, key, None)
            if isinstance(value, (tuple, list)) and value:
                value = value[-1]
            if isinstance(value, int) and value > 4:
                return [value]
    default = getattr(module, "default_cfg", None) or getattr(module, "pretrained_cfg", None)
    if isinstance(default, dict) and default.get("input_size"):
        return [int(default["input_size"][-1])]
    kernel, stride = getattr(leaf, "kernel_size", (3,)), getattr(leaf, "stride", (1,))
    channels = getattr(leaf, "in_channels", 3)
    heads = [m.out_features for m in module.modules() if isinstance(m, nn.Linear)]
    if channels == 3 and heads and heads[-1] in _IMAGENET_CLASSES:
        return [224, 299, 256, 331, 64, 32]
    if channels == 1:
        return [28, 32, 64, 224]
    if max(kernel) >= 7 or max(stride) >= 2:
        return [224, 64, 32, 96, 256]
    return [32, 64, 28, 96, 224, 299]


def _of_leaf(leaf: nn.Module, kind: str, a: dict[str, Any], module: nn.Module) -> Iterator[InputSpec]:
    match kind:
        case "conv" | "conv_transpose":
            rank = int(a["op"][-2])
            channels = a.get("in_channels") or (3 if rank == 2 else 1)
            if kind == "conv_transpose":
                sizes = [1, 4, 8, 16]
            elif rank == 2:
                sizes = _image_sizes(leaf, module)
            else:
                sizes = [128, 1024, 16, 16000] if rank == 1 else [16, 32, 64, 112]
            if rank == 3 and channels == 3 and kind == "conv":
                yield from (spec(None, (BATCH, 3, 16, side, side)) for side in (112, 224))
            for size in sizes:
                yield spec(None, (BATCH, channels, *[size] * rank))
            if not a.get("in_channels") and rank == 2:
                yield spec(None, (BATCH, 1, 28, 28))
            if rank == 1:
                yield spec(None, (BATCH, 128, channels))
                yield spec(None, (BATCH, 128))
            if rank == 2 and channels == 1:
                yield spec(None, (BATCH, 28, 28))
        case "linear":
            width = a.get("in_features") or 64
            yield spec(None, (BATCH, width))
            yield spec(None, (BATCH, 16, width))
            for channels in (1, 3):
                side = math.isqrt(width // channels)
                if side > 1 and side * side * channels == width:
                    yield spec(None, (BATCH, channels, side, side))
        case "recurrent":
            width = a.get("input_size") or 1
            if a.get("cell") and width == 1:
                yield spec(None, (BATCH, TOKENS))
            if a.get("batch_first") or a.get("cell"):
                yield spec(None, (BATCH, TOKENS, width))
            yield replace(spec(None, (TOKENS, BATCH, width)), batch_axis=1)
            if a.get("cell"):
                yield spec(None, (BATCH, width))
            else:
                # What a decoder puts before its tokens, and a series of single values.
                yield spec(None, (BATCH, TOKENS if width == 1 else width))
        case "attention":
            width = a.get("embed_dim") or 1
            first = a.get("batch_first")
            yield (
                spec(None, (BATCH, TOKENS, width))
                if first
                else replace(spec(None, (TOKENS, BATCH, width)), batch_axis=1)
            )
        case "normalization":
            width = a.get("num_features")
            shape = a.get("normalized_shape")
            if isinstance(shape, list):
                yield spec(None, (BATCH, *shape))
                yield spec(None, (BATCH, TOKENS, *shape))
            elif width:
                pixels = {"BatchNorm1d": (), "BatchNorm2d": (32, 32), "BatchNorm3d": (16, 16, 16)}
                yield spec(None, (BATCH, width, *pixels.get(type(leaf).__name__, (32, 32))))
