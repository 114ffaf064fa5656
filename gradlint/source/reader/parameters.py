"""The parameters of torch.nn layers: their shapes, and the laws that `reset_parameters` draws them from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from gradlint.graph.model import InitLaw
from gradlint.source.reader import laws
from gradlint.source.reader.layers import LAYERS, REQUIRED, bind, parse_signature

Drawn = tuple[tuple[int | None, ...], InitLaw]
"""The shape of a parameter and the law of its elements."""

MAX_LAYERS = 1_024
"""Layers whose parameters are kept: the hundredth block of a stack has the arguments of the first."""

_SCALARS = frozenset([bool, int, float, str, type(None)])


def built(name: str, args: list[Any], kwargs: dict[str, Any]) -> tuple[dict[str, Any], Mapping[str, Drawn]]:
    """The arguments of torch.nn.NAME by their names, in a dictionary of the caller's own, and its parameters."""
    signature = LAYERS[name].signature
    values = (*args, *kwargs.values())
    if signature and _SCALARS.issuperset(map(type, values)):
        known = _built_from_scalars(name, tuple(kwargs), *values)
        if known is not None:
            return dict(known[0]), known[1]
    arguments = bind(signature, args, kwargs) if signature else dict(kwargs)
    return arguments, parameters_of(name, arguments)


@lru_cache(MAX_LAYERS, typed=True)
def _built_from_scalars(
    name: str, names: tuple[str, ...], *values: Any
) -> tuple[dict[str, Any], Mapping[str, Drawn]] | None:
    """`built` for numbers, texts and flags (1 is not True here), None where an argument is missing.

    The last values are those of the named arguments.
    """
    count = len(values) - len(names)
    signature = LAYERS[name].signature
    given = {*list(parse_signature(signature))[:count], *names}
    if any(default is REQUIRED and n not in given for n, default in parse_signature(signature).items()):
        return None
    arguments = bind(signature, list(values[:count]), dict(zip(names, values[count:], strict=True)))
    return arguments, MappingProxyType(parameters_of(name, arguments))


def spread(value: Any, dimensions: int) -> tuple[int | None, ...]:
    """A kernel size as one number per axis."""
    if isinstance(value, (tuple, list)):
        sizes = tuple(laws.size(v) for v in value)
        return sizes if len(sizes) == dimensions else (None,) * dimensions
    return (laws.size(value),) * dimensions


def flag(value: Any) -> bool:
    """Whether an optional part exists; an unknown flag counts as PyTorch's default, True."""
    return bool(value) if isinstance(value, (bool, int, float, str, type(None))) else True


def parameters_of(name: str, arguments: dict[str, Any]) -> dict[str, Drawn]:
    """The parameters of a torch.nn layer under their names, with PyTorch's reset_parameters laws."""
    layer = LAYERS.get(name)
    if layer is None:
        return {}
    get = arguments.get
    made: dict[str, Drawn] = {}
    match layer.kind:
        case "linear":
            shape: tuple[int | None, ...]
            if layer.op == "bilinear":
                shape = (laws.size(get("out_features")), laws.size(get("in1_features")), laws.size(get("in2_features")))
            else:
                shape = (laws.size(get("out_features")), laws.size(get("in_features")))
            made["weight"] = (shape, laws.default_law(shape))
            if flag(get("bias", True)):
                made["bias"] = (shape[:1], laws.default_bias(shape))
        case "conv" | "conv_transpose":
            dimensions = int(layer.op[-2])
            kernel = spread(get("kernel_size"), dimensions)
            inner, outer, groups = (laws.size(get(k)) for k in ("in_channels", "out_channels", "groups"))
            transposed = layer.kind == "conv_transpose"
            first, second = (inner, outer) if transposed else (outer, inner)
            grouped = second // groups if second is not None and groups else None
            shape = (first, grouped, *kernel)
            made["weight"] = (shape, laws.default_law(shape))
            if flag(get("bias", True)):
                made["bias"] = ((outer,), laws.default_bias(shape))
        case "embedding":
            shape = (laws.size(get("num_embeddings")), laws.size(get("embedding_dim")))
            law = laws.plain_law("normal", 0.0, 1.0, shape, scheme="normal", origin="default")
            made["weight"] = (shape, law)
        case "normalization":
            affine = flag(get("affine", get("elementwise_affine", True)))
            if affine and layer.op != "local_response_norm":
                normalized = get("normalized_shape", get("num_features", get("num_channels")))
                dims = normalized if isinstance(normalized, (tuple, list)) else (normalized,)
                shape = tuple(laws.size(d) for d in dims)
                made["weight"] = (shape, laws.constant_default(1.0, shape))
                if layer.op != "rms_norm" and flag(get("bias", True)):
                    made["bias"] = (shape, laws.constant_default(0.0, shape))
        case "activation" if name == "PReLU":
            shape = (laws.size(get("num_parameters")),)
            start = laws.number(get("init"))
            made["weight"] = (shape, laws.constant_default(0.25 if start is None else start, shape))
        case "recurrent":
            made = _recurrent_parameters(name, arguments)
        case "attention":
            made = _attention_parameters(arguments)
    return made


def _recurrent_parameters(name: str, arguments: dict[str, Any]) -> dict[str, Drawn]:
    gates = {"LSTM": 4, "GRU": 3}.get(name.removesuffix("Cell"), 1)
    width, hidden = laws.size(arguments.get("input_size")), laws.size(arguments.get("hidden_size"))
    layers = laws.size(arguments.get("num_layers", 1)) or 1
    directions = 2 if arguments.get("bidirectional") is True else 1
    bound = 1 / hidden if hidden else None
    rows = gates * hidden if hidden is not None else None
    made: dict[str, Drawn] = {}
    for index in range(min(layers, 32)):
        inner = width if index == 0 else (hidden * directions if hidden is not None else None)
        for direction in range(directions):
            suffix = "" if name.endswith("Cell") else f"_l{index}" + ("_reverse" if direction else "")
            for role, shape in (("ih", (rows, inner)), ("hh", (rows, hidden))):
                law = laws.uniform_default(bound, shape, square=role == "hh" or (index > 0 and directions == 1))
                made[f"weight_{role}{suffix}"] = (shape, law)
            if flag(arguments.get("bias", True)):
                for role in ("ih", "hh"):
                    made[f"bias_{role}{suffix}"] = ((rows,), laws.uniform_default(bound, (rows,)))
    return made


def _attention_parameters(arguments: dict[str, Any]) -> dict[str, Drawn]:
    width = laws.size(arguments.get("embed_dim"))
    shape = (3 * width if width is not None else None, width)
    law = laws.scaled_law("uniform", "xavier_uniform", 1.0, shape, "average", None, origin="default")
    if width is None:
        law = replace(law, gain_squared=0.5)
    made: dict[str, Drawn] = {"in_proj_weight": (shape, law)}
    if flag(arguments.get("bias", True)):
        made["in_proj_bias"] = (shape[:1], laws.constant_default(0.0, shape[:1]))
    square = (width, width)
    made["out_proj.weight"] = (square, laws.default_law(square))
    if flag(arguments.get("bias", True)):
        made["out_proj.bias"] = ((width,), laws.constant_default(0.0, (width,)))
    return made
