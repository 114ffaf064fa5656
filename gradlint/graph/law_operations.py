"""What operations make of the numbers in a tensor: which draw, which compute, which copy, which mix."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gradlint.graph.law_formulas import law_of_call
from gradlint.graph.model import InitLaw

ELEMENTWISE = frozenset(
    [
        "add",
        "sub",
        "subtract",
        "mul",
        "multiply",
        "div",
        "divide",
        "true_divide",
        "neg",
        "abs",
        "sqrt",
        "rsqrt",
        "pow",
        "exp",
        "log",
        "sin",
        "cos",
        "tanh",
        "sigmoid",
        "clamp",
        "clip",
        "clamp_min",
        "clamp_max",
        "erf",
        "erfinv",
        "sign",
        "square",
        "reciprocal",
        "relu",
        "floor",
        "round",
        "fmod",
        "remainder",
        "lerp",
        "log1p",
        "expm1",
        "rsub",
        "radd",
        "rmul",
        "rtruediv",
        "rpow",
        "truediv",
        "iadd",
        "isub",
        "imul",
        "itruediv",
        "where",
        "addcmul",
    ]
)
COPIES = frozenset(
    [
        "clone",
        "contiguous",
        "to",
        "float",
        "half",
        "double",
        "bfloat16",
        "type",
        "type_as",
        "cpu",
        "cuda",
        "repeat",
        "detach",
        "deepcopy",
        "expand",
        "tile",
        "repeat_interleave",
        "flip",
        "roll",
        "index_select",
    ]
)
MIXTURES = frozenset(["cat", "concat", "concatenate", "stack", "vstack", "hstack"])

_CREATED = {
    "zeros": InitLaw("constant", 0.0, 0.0),
    "zeros_like": InitLaw("constant", 0.0, 0.0),
    "new_zeros": InitLaw("constant", 0.0, 0.0),
    "ones": InitLaw("constant", 1.0, 0.0),
    "ones_like": InitLaw("constant", 1.0, 0.0),
    "new_ones": InitLaw("constant", 1.0, 0.0),
    "rand": InitLaw("uniform", 0.5, 12**-0.5),
    "rand_like": InitLaw("uniform", 0.5, 12**-0.5),
    "randn": InitLaw("normal", 0.0, 1.0),
    "randn_like": InitLaw("normal", 0.0, 1.0),
}


def law_drawn(name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> InitLaw | None:
    """The law of an in-place fill (`normal_`, `uniform_`, `fill_`, `zero_`), or None."""
    if name == "zero_":
        return InitLaw("constant", 0.0, 0.0)
    if name == "fill_":
        value = args[1] if len(args) > 1 else keywords.get("value")
        return InitLaw("constant", float(value), 0.0)  # type: ignore[arg-type]
    names = {"normal_": ("mean", "std"), "uniform_": ("from", "to")}.get(name)
    if names is None:
        return None
    given = dict(zip(names, args[1:], strict=False)) | {k: v for k, v in keywords.items() if k in names}
    first, second = float(given.get(names[0], 0.0)), float(given.get(names[1], 1.0))
    if name == "normal_":
        return InitLaw("normal", first, second)
    return InitLaw("uniform", (first + second) / 2, (second - first) / math.sqrt(12))


def law_created(name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> InitLaw | None:
    """The law of a tensor that a function makes (`randn`, `full`, `eye`), or None."""
    if name in ("full", "full_like", "new_full"):
        value = keywords.get("fill_value", args[-1] if args else None)
        return InitLaw("constant", float(value), 0.0)  # type: ignore[arg-type]
    if name == "normal" and args and not any(isinstance(a, Tensor) for a in args[:2]):
        values = [float(a) for a in args[:2] if isinstance(a, (int, float))]
        mean = values[0] if values else float(keywords.get("mean", 0.0))
        return InitLaw("normal", mean, values[1] if len(values) > 1 else float(keywords.get("std", 1.0)))
    if name == "eye" and args:
        rows = int(args[0])
        columns = int(args[1]) if len(args) > 1 and isinstance(args[1], int) else rows
        return law_of_call("eye_", (rows, columns), (), {})
    return _CREATED.get(name)
