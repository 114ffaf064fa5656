"""Finds inputs on which a model runs: candidates from its layers and signature, corrected by its own errors."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from gradlint.graph.inputs import InputSpec, ModelInput
from gradlint.graph.kinds import base_kind, module_kind

BATCH = 2
"""Samples in a traced batch: BatchNorm in training mode refuses one."""
TOKENS = 32
"""Length of an invented sequence."""
MAX_LEAVES = 12
"""Layers, in the order of registration, whose operand may be the model's input."""
MAX_ATTEMPTS = 80
"""Runs on meta tensors before the search gives up."""

_IMAGENET_CLASSES = (1000, 1001, 21841, 21843)
"""Of ImageNet-1k and ImageNet-21k, with and without a class for the background."""

_IDS = ("ids", "token", "src", "tgt", "trg", "text", "word", "source", "target", "sentence", "seq", "idx", "index")
_STATES = ("hidden", "state", "h0", "hx", "h_0", "memory_state", "hc", "prev_h", "carry")
_LABELS = ("label", "y", "cls", "class_labels", "c", "classes", "labels")
_TIMES = ("t", "time", "timestep", "timesteps", "times", "noise_level", "sigma", "step")


@dataclass
class Facts:
    """What a model's modules and signature say of its input."""

    leaves: list[tuple[str, nn.Module, str, dict[str, Any]]] = field(default_factory=list)
    required: list[inspect.Parameter] = field(default_factory=list)
    optional: list[inspect.Parameter] = field(default_factory=list)
    variadic: bool = False


def facts_of(module: nn.Module) -> Facts:
    """Read the weighted leaves in the order in which they were registered, and the forward's parameters."""
    facts = Facts()
    for path, m in module.named_modules():
        kind = module_kind(m) or base_kind(m)
        if kind is not None and kind.kind in (
            "linear", "conv", "conv_transpose", "embedding", "recurrent", "attention", "normalization",
        ):  # fmt: skip
            facts.leaves.append((path, m, kind.kind, {**kind.attributes, "op": kind.op}))
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):
        return facts
    for p in signature.parameters.values():
        if p.kind is inspect.Parameter.VAR_POSITIONAL:
            facts.variadic = True
        elif p.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        elif p.default is inspect.Parameter.empty:
            facts.required.append(p)
        else:
            facts.optional.append(p)
    return facts


# ---- candidates ------------------------------------------------------------------------------------------------


def candidates(module: nn.Module, sample: Sequence[int] | None = None) -> Iterator[ModelInput]:
    """Inputs to try, the likeliest first. `sample` is the shape of one sample of the script's data set."""
    facts = facts_of(module)
    yield from _from_config(module)
    yield from _from_timm(module)
    parameters = facts.required or facts.optional[:1]
    if not parameters:
        yield ModelInput((_spec(None, (BATCH, 3, 32, 32)),)) if facts.variadic else ModelInput(())
        return
    choices = [list(_choices(p, k, facts, module, sample)) for k, p in enumerate(parameters)]
    longest = max(len(c) for c in choices)
    seen = set()
    for n in range(longest):
        picked = tuple(_named(p, c[min(n, len(c) - 1)]) for p, c in zip(parameters, choices, strict=True))
        if picked not in seen:
            seen.add(picked)
            yield ModelInput(picked)
    masks = [k for k, p in enumerate(parameters) if "mask" in p.name.lower()]
    first = tuple(_named(p, c[0]) for p, c in zip(parameters, choices, strict=True))
    for k in masks:
        for choice in choices[k]:
            yield ModelInput((*first[:k], _named(parameters[k], choice), *first[k + 1 :]))
    if len(parameters) == 1:
        yield from (ModelInput((c,), as_list=True) for c in choices[0][:2])
        yield ModelInput(tuple(_dictionary(choices[0][0])), nested=True)


def _dictionary(choice: InputSpec) -> Iterator[InputSpec]:
    if choice.law == "ids":
        yield replace(choice, name="input_ids")
        yield InputSpec(choice.shape, "int64", "attention_mask", None, "ones")
    else:
        yield replace(choice, name="x")


def _named(parameter: inspect.Parameter, spec: InputSpec) -> InputSpec:
    return replace(spec, name=parameter.name) if parameter.kind is inspect.Parameter.KEYWORD_ONLY else spec


def _spec(dtype: str | None, shape: Sequence[int], high: int | None = None, law: str | None = None) -> InputSpec:
    dtype = dtype or ("int64" if high else "float32")
    return InputSpec(tuple(shape), dtype, None, high, law or ("ids" if high else "normal"))


def _choices(
    parameter: inspect.Parameter, position: int, facts: Facts, module: nn.Module, sample: Sequence[int] | None
) -> Iterator[InputSpec]:
    name = parameter.name.lower()
    annotation = parameter.annotation
    plain = {bool: False, int: 1, float: 0.5, str: ""}
    if isinstance(annotation, str):
        annotation = {"bool": bool, "int": int, "float": float, "str": str}.get(annotation, annotation)
    if annotation in plain:
        yield InputSpec((), law="value", value=plain[annotation], batch_axis=None)
        return
    if "mask" in name:
        yield from _masks()
    elif "len" in name:
        yield InputSpec((BATCH,), "int64", None, TOKENS, "lengths")
    elif any(s in name for s in _STATES):
        yield from _states(facts)
    elif name in ("edge_index", "edges", "adj_t"):
        yield InputSpec((2, 64), "int64", None, 32, "ids", None)
    elif name in ("adj", "adjacency"):
        yield InputSpec((32, 32), "float32", None, None, "uniform01", None)
    elif position and name in _TIMES:
        yield _spec("int64", (BATCH,), 1000)
        yield _spec(None, (BATCH,))
        yield _spec(None, (BATCH, 1))
    elif position and name in _LABELS and not any(k == "linear" and position == 1 for _, _, k, _ in facts.leaves[:1]):
        embeddings = [a for _, _, k, a in facts.leaves if k == "embedding"]
        yield _spec("int64", (BATCH,), (embeddings[-1].get("num_embeddings") if embeddings else None) or 10)
        yield from _signals(facts, position, module, None)
    else:
        yield from _signals(facts, position, module, sample if position == 0 else None, name)


def _masks() -> Iterator[InputSpec]:
    yield InputSpec((), law="value", value=None, batch_axis=None)
    yield InputSpec((BATCH, TOKENS), "bool", law="ones")
    yield InputSpec((BATCH, 1, 1, TOKENS), "bool", law="ones")
    yield InputSpec((TOKENS, TOKENS), "float32", law="zeros", batch_axis=None)
    yield InputSpec((BATCH, TOKENS), "float32", law="ones")


def _states(facts: Facts) -> Iterator[InputSpec]:
    layer = next((a for _, _, k, a in facts.leaves if k == "recurrent"), None)
    none = InputSpec((), law="value", value=None, batch_axis=None)
    if layer is None:
        widths = [int(a["out_features"]) for _, _, k, a in facts.leaves if k == "linear" and a.get("out_features")]
        for width in widths[:3]:
            yield InputSpec((BATCH, width), law="zeros")
        yield none
        return
    directions = 2 if layer.get("bidirectional") else 1
    hidden = layer.get("hidden_size") or 1
    shape = (BATCH, hidden) if layer.get("cell") else ((layer.get("num_layers") or 1) * directions, BATCH, hidden)
    copies = 2 if layer["op"] == "lstm" else 0
    yield InputSpec(shape, law="zeros", batch_axis=len(shape) - 2, copies=copies)
    yield none
    yield InputSpec(shape, law="zeros", batch_axis=len(shape) - 2, copies=0 if copies else 2)


def _signals(
    facts: Facts, position: int, module: nn.Module, sample: Sequence[int] | None, name: str = ""
) -> Iterator[InputSpec]:
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
        yield from (_spec(None, s) for s in ((BATCH, 3, 32, 32), (BATCH, 16), (BATCH, 16, 16)))
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
    yield _spec("int64", (BATCH, tokens), high)
    if longest != tokens:
        yield _spec("int64", (BATCH, longest), high)
    yield replace(_spec("int64", (tokens, BATCH), high), batch_axis=1)
    yield _spec("int64", (BATCH,), high)
    yield _spec("int64", (BATCH, 1), high)
    yield _spec("int64", (BATCH, 16), high)
    yield _spec("int64", (BATCH, 8), high)


def _of_sample(facts: Facts, sample: Sequence[int]) -> Iterator[InputSpec]:
    """One sample of the data set as the model may want it: as it is, flat, or as rows."""
    shape = tuple(sample)
    first = next((k for _, _, k, _ in facts.leaves if k != "normalization"), None)
    whole = _spec(None, (BATCH, *shape))
    flat = _spec(None, (BATCH, math.prod(shape)))
    rows = [_spec(None, (BATCH, *shape[-2:]))] if len(shape) == 3 and shape[0] == 1 else []
    order = [whole, flat, *rows] if first in ("conv", None) else [*rows, whole, flat]
    if first == "linear":
        order = [whole, flat, *rows]
    yield from order


def _image_sizes(leaf: nn.Module, module: nn.Module) -> list[int]:
    for owner in (module, getattr(module, "config", None), getattr(module, "patch_embed", None)):
        for key in ("image_size", "img_size", "input_size", "resolution"):
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
        return [224, 299, 256, 64, 32]
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
                yield from (_spec(None, (BATCH, 3, 16, side, side)) for side in (112, 224))
            for size in sizes:
                yield _spec(None, (BATCH, channels, *[size] * rank))
            if not a.get("in_channels") and rank == 2:
                yield _spec(None, (BATCH, 1, 28, 28))
            if rank == 1:
                yield _spec(None, (BATCH, 128, channels))
                yield _spec(None, (BATCH, 128))
            if rank == 2 and channels == 1:
                yield _spec(None, (BATCH, 28, 28))
        case "linear":
            width = a.get("in_features") or 64
            yield _spec(None, (BATCH, width))
            yield _spec(None, (BATCH, 16, width))
            for channels in (1, 3):
                side = math.isqrt(width // channels)
                if side > 1 and side * side * channels == width:
                    yield _spec(None, (BATCH, channels, side, side))
        case "recurrent":
            width = a.get("input_size") or 1
            if a.get("cell") and width == 1:
                yield _spec(None, (BATCH, TOKENS))
            if a.get("batch_first") or a.get("cell"):
                yield _spec(None, (BATCH, TOKENS, width))
            yield replace(_spec(None, (TOKENS, BATCH, width)), batch_axis=1)
            if a.get("cell"):
                yield _spec(None, (BATCH, width))
            elif width == 1:
                yield _spec(None, (BATCH, TOKENS))
        case "attention":
            width = a.get("embed_dim") or 1
            first = a.get("batch_first")
            yield (
                _spec(None, (BATCH, TOKENS, width))
                if first
                else replace(_spec(None, (TOKENS, BATCH, width)), batch_axis=1)
            )
        case "normalization":
            width = a.get("num_features")
            shape = a.get("normalized_shape")
            if isinstance(shape, list):
                yield _spec(None, (BATCH, *shape))
                yield _spec(None, (BATCH, TOKENS, *shape))
            elif width:
                pixels = {"BatchNorm1d": (), "BatchNorm2d": (32, 32), "BatchNorm3d": (16, 16, 16)}
                yield _spec(None, (BATCH, width, *pixels.get(type(leaf).__name__, (32, 32))))


def _from_config(module: nn.Module) -> Iterator[ModelInput]:
    """Inputs of a transformers model, after its `main_input_name` and configuration."""
    config, main = getattr(module, "config", None), getattr(module, "main_input_name", None)
    if config is None or not isinstance(main, str):
        return
    text = getattr(config, "text_config", None) or config
    vision = getattr(config, "vision_config", None) or config

    def size(*names: str, of: Any = config) -> int | None:
        values = (getattr(of, n, None) for n in names)
        return next((v[-1] if isinstance(v, (list, tuple)) else v for v in values if v), None)

    vocabulary = size("vocab_size", of=text) or size("vocab_size")
    longest = size("max_position_embeddings", "n_positions", of=text) or TOKENS
    tokens = _spec("int64", (BATCH, min(TOKENS, longest)), vocabulary or 100)
    image = size("image_size", "img_size", of=vision) or 224
    pixels = _spec(None, (BATCH, size("num_channels", of=vision) or 3, image, image))
    audio = _spec(None, (BATCH, size("num_mel_bins", "feature_size") or 80, 2 * (size("max_source_positions") or 1500)))
    frames = _spec(None, (BATCH, 16, pixels.shape[1], image, image))
    table: dict[str, list[InputSpec]] = {
        "input_ids": [tokens],
        "pixel_values": [pixels, frames],
        "pixel_values_videos": [frames],
        "input_values": [_spec(None, (BATCH, 16000)), _spec(None, (BATCH, 1024, 128)), _spec(None, (BATCH, 1, 16000))],
        "input_features": [audio, replace(audio, shape=(BATCH, 1024, 80)), replace(audio, shape=(BATCH, 160, 80))],
    }
    extras: list[list[InputSpec]] = [[]]
    decoder = replace(tokens, name="decoder_input_ids")
    if getattr(config, "is_encoder_decoder", False):
        extras = [[decoder], []]
    if hasattr(config, "text_config") and hasattr(config, "vision_config"):
        extras = [[replace(pixels, name="pixel_values")], *extras]
    for choice in table.get(main, [tokens]):
        for extra in extras:
            kept = [e for e in extra if e.name != main]
            yield ModelInput((replace(choice, name=main), *kept))
    yield ModelInput((replace(tokens, name="input_ids"),))


def _from_timm(module: nn.Module) -> Iterator[ModelInput]:
    """The input of a timm model, after the configuration that it carries."""
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    if isinstance(size, (tuple, list)) and len(size) == 3 and all(isinstance(s, int) for s in size):
        yield ModelInput((_spec(None, (BATCH, *size)),))


# ---- corrections -----------------------------------------------------------------------------------------------

_Correct = Callable[[re.Match[str], InputSpec], list[tuple[int, ...]]]


def corrections(error: Exception, tried: ModelInput) -> Iterator[ModelInput]:
    """Inputs that an error message asks for, the nearest first."""
    text = " ".join(str(error).split())
    for pattern, correct in _CORRECTIONS:
        found = re.search(pattern, text)
        if found is None:
            continue
        for k, item in enumerate(tried.items):
            if item.law == "value" or item.dtype == "bool":
                continue
            for shape in correct(found, item):
                if shape != item.shape and all(s > 0 for s in shape) and math.prod(shape) < 1 << 28:
                    changed = replace(item, shape=shape)
                    yield replace(tried, items=(*tried.items[:k], changed, *tried.items[k + 1 :]))
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
    """`x.view(-1, n)` failed: so many features a sample are wanted."""
    wanted, got = int(found["want"]), int(found["got"])
    if item.dtype.startswith("int"):
        return []
    own = got // max(item.shape[0], 1) if item.shape else 0
    return ([(item.shape[0], wanted)] if len(item.shape) == 2 else []) + (
        _resized(item.shape, wanted / own) if own else []
    )


_CORRECTIONS: list[tuple[str, _Correct]] = [
    (r"cannot be multiplied \(\d+x(?P<got>\d+) and (?P<want>\d+)x\d+\)", _features),
    (r"same reduction dim, but got \[\d+, (?P<got>\d+)\] X \[(?P<want>\d+), \d+\]", _features),
    (r"to have (?P<want>\d+) channels, but got \d+ channels", _channels),
    (r"Invalid channel dimensions", _coloured),
    (r"running_mean should contain \d+ elements not (?P<want>\d+)", _channels),
    (r"must be equal to input_size\. Expected (?P<want>\d+), got \d+", _last),
    (r"input has inconsistent input_size: got \d+,? expected (?P<want>\d+)", _last),
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
    (r"shape '\[[-\d, ]*?(?P<want>\d+)\]' is invalid for input of size (?P<got>\d+)", _view),
]
