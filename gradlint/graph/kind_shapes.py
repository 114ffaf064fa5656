"""Operations that move, pick or gather elements, and those that reduce axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gradlint.graph.kind_arguments import attributes
from gradlint.graph.trace_leaves import Kind

RESHAPES: dict[str, tuple[str, ...]] = {
    "view": (),
    "reshape": (),
    "flatten": ("start_dim", "end_dim"),
    "unflatten": ("dim", "sizes"),
    "permute": (),
    "transpose": ("dim0", "dim1"),
    "t": (),
    "movedim": ("source", "destination"),
    "squeeze": ("dim",),
    "unsqueeze": ("dim",),
    "expand": (),
    "repeat": (),
    "tile": (),
    "repeat_interleave": ("repeats", "dim"),
    "chunk": ("chunks", "dim"),
    "split": ("split_size", "dim"),
    "split_with_sizes": ("split_size", "dim"),
    "tensor_split": ("indices_or_sections", "dim"),
    "unbind": ("dim",),
    "narrow": ("dim", "start", "length"),
    "select": ("dim", "index"),
    "slice": ("dim", "start", "length"),
    "getitem": ("index",),
    "index_select": ("dim",),
    "gather": ("dim",),
    "take_along_dim": (),
    "masked_select": (),
    "roll": ("shifts", "dims"),
    "flip": ("dims",),
    "rot90": (),
    "pad": ("pad", "mode", "value"),
    "unfold": ("kernel_size", "dilation", "padding", "stride"),
    "fold": ("output_size", "kernel_size", "dilation", "padding", "stride"),
    "pixel_shuffle": ("upscale_factor",),
    "pixel_unshuffle": ("downscale_factor",),
    "channel_shuffle": ("groups",),
    "contiguous": (),
    "clone": (),
    "detach": (),
    "to": (),
    "type": (),
    "type_as": (),
    "float": (),
    "double": (),
    "half": (),
    "bfloat16": (),
    "cuda": (),
    "cpu": (),
    "requires_grad": (),
    "alias": (),
    "as_strided": (),
    "meshgrid": (),
    "atleast_1d": (),
    "atleast_2d": (),
    "triu": ("diagonal",),
    "tril": ("diagonal",),
    "diagonal": ("offset", "dim1", "dim2"),
    "masked_fill": (),
    "where": (),
    "get_T": (),
    "get_mT": (),
    "get_H": (),
    "get_data": (),
    "get_real": (),
    "pack_padded_sequence": (),
    "pad_packed_sequence": (),
    "nan_to_num": (),
    "sort": ("dim",),
    "grid_sample": ("mode",),
    "roi_align": ("output_size",),
    "copy": (),
    "as_tensor": (),
    "data": (),
}
"""Operations that move elements, or pick some, with the names of their arguments after the first."""

IDENTITIES = frozenset(["to", "type", "type_as", "float", "double", "half", "bfloat16", "cuda", "cpu", "requires_grad"])
IDENTITIES |= frozenset(["contiguous", "clone", "copy", "alias", "identity", "as_tensor", "nan_to_num"])
"""Operations whose output is their input, as far as signal goes."""

REDUCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mean": ("mean", ("dim", "keepdim")),
    "sum": ("sum", ("dim", "keepdim")),
    "nansum": ("sum", ("dim", "keepdim")),
    "amax": ("amax", ("dim", "keepdim")),
    "amin": ("amin", ("dim", "keepdim")),
    "max": ("amax", ("dim", "keepdim")),
    "min": ("amin", ("dim", "keepdim")),
    "var": ("var", ("dim", "unbiased", "keepdim")),
    "std": ("std", ("dim", "unbiased", "keepdim")),
    "norm": ("norm", ("p", "dim", "keepdim")),
    "vector_norm": ("norm", ("ord", "dim", "keepdim")),
    "linalg_norm": ("norm", ("ord", "dim", "keepdim")),
    "linalg_vector_norm": ("norm", ("ord", "dim", "keepdim")),
    "logsumexp": ("logsumexp", ("dim", "keepdim")),
    "cumsum": ("cumsum", ("dim",)),
    "prod": ("prod", ("dim", "keepdim")),
    "median": ("median", ("dim", "keepdim")),
    "topk": ("topk", ("k", "dim")),
}
"""What each reduction is called in a graph, and its arguments."""


def reshape_attributes(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes, axes or indices of an operation of `RESHAPES`."""
    rest = args[1:]
    match op:
        case "view" | "reshape" | "expand" | "repeat" | "tile" | "permute":
            sizes = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
            named = next((kwargs[k] for k in ("shape", "size", "dims", "repeats") if k in kwargs), sizes)
            numbers = [int(s) for s in named if isinstance(s, int)] if isinstance(named, (tuple, list)) else []
            return {"dims" if op == "permute" else "sizes": numbers}
        case "getitem":
            return {"index": _index(rest[0] if rest else None)}
        case "unfold" if len(rest) == 3 and all(isinstance(r, int) for r in rest) and "kernel_size" not in kwargs:
            return {"dim": rest[0], "size": rest[1], "step": rest[2]}
        case _:
            return attributes(RESHAPES[op], args, kwargs)


def _index(index: Any) -> str:
    """An index as its source would be written; tensors as "…tensor"."""
    match index:
        case tuple() | list():
            return ", ".join(_index(i) for i in index)
        case slice():
            ends = [str(e) if isinstance(e, int) else "" for e in (index.start, index.stop)]
            return ":".join(ends) + (f":{index.step}" if isinstance(index.step, int) else "")
        case None:
            return "None"
        case int():
            return str(index)
        case _ if index is Ellipsis:
            return "..."
        case _:
            return "tensor"


def reduction(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind:
    """The kind of an operation of `REDUCTIONS`."""
    ours, names = REDUCTIONS[op]
    if op in ("max", "min") and isinstance(kwargs.get("other", args[1] if len(args) > 1 else None), Tensor):
        return Kind("unknown", "maximum" if op == "max" else "minimum")
    if op in ("std", "var") and len(args) == 2 and isinstance(args[1], bool):
        return Kind("reduce", ours, {"unbiased": args[1]})
    if "axis" in kwargs:
        kwargs = {**kwargs, "dim": kwargs["axis"]}
    return Kind("reduce", ours, attributes(names, args, kwargs))
