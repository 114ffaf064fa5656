"""Functions that reduce, rearrange, join and cut tensors, as graph nodes."""

from __future__ import annotations

from typing import Any

from gradlint.source.reader import laws, shapes
from gradlint.source.reader.functional import Functional
from gradlint.source.reader.layers import bind
from gradlint.source.reader.values import Array, Pieces, Site, Tensor, Unknown, contains_tensor


class Rearrangement(Functional):
    """Reductions, reshapes, joins, pieces and subscripts."""

    def _reduce(self, op: str, x: Tensor, args: list[Any], kwargs: dict[str, Any], site: Site) -> Tensor:
        if op == "norm":
            a = bind("p='fro', dim=None, keepdim=False", args, kwargs)
        elif op in ("std", "var") and args and isinstance(args[0], bool):
            a = {"dim": None, "keepdim": False}
        else:
            a = bind("dim=None, keepdim=False", args, kwargs)
        if "axis" in kwargs:
            a["dim"] = kwargs["axis"]
        shape = (
            x.shape
            if op == "cumsum"
            else shapes.reduced(x.shape, a.get("dim"), a.get("keepdim", kwargs.get("keepdims")))
        )
        if op in ("prod", "median"):
            return self.builder.emit("unknown", op, [x], site, a, shape)
        return self.builder.emit("reduce", op, [x], site, a, shape)

    def _do_max(self, args: list[Any], kwargs: dict[str, Any], site: Site, op: str = "amax") -> Any:
        tensors = self.operands(args[:2], site)
        if len(tensors) == 2:
            return self.builder.emit("unknown", "maximum", tensors, site, {}, tensors[0].shape)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if not tensors:
            return Unknown(op)
        shape = shapes.reduced(tensors[0].shape, dim, args[2] if len(args) > 2 else kwargs.get("keepdim"))
        out = self.builder.emit("reduce", op, tensors, site, {"dim": dim}, shape)
        return out if dim is None else (out, Unknown("indices", numeric=True))

    def _do_min(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_max(args, kwargs, site, "amin")

    def _do_topk(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.unknown("topk", args[:1], {}, site), Unknown("indices", numeric=True)

    _do_sort = _do_topk

    def _reshape(self, op: str, x: Tensor, args: list[Any], kwargs: dict[str, Any], site: Site) -> Tensor:
        if len(args) == 1 and isinstance(args[0], (list, tuple)):
            args = list(args[0])
        attributes: dict[str, Any] = {}
        shape: shapes.Shape = None
        rank = len(x.shape) if x.shape is not None else None
        match op:
            case "view" | "reshape":
                sizes = args or list(kwargs.get("shape", kwargs.get("size", ())))
                shape, attributes = (
                    shapes.viewed(x.shape, sizes),
                    {"sizes": [laws.size(s) if s != -1 else -1 for s in sizes]},
                )
            case "flatten" | "ravel":
                a = bind("start_dim=0, end_dim=-1", args, kwargs)
                shape, attributes, op = shapes.flattened(x.shape, a["start_dim"], a["end_dim"]), a, "flatten"
            case "permute" | "movedim":
                dims = args or list(kwargs.get("dims", ()))
                shape, attributes = (shapes.permuted(x.shape, dims) if op == "permute" else None), {"dims": dims}
            case "transpose" | "swapaxes" | "t":
                pair = [0, 1] if op == "t" else [*args, kwargs.get("dim0"), kwargs.get("dim1")][:2]
                shape, attributes, op = shapes.transposed(x.shape, *pair), {"dims": pair}, "transpose"
            case "squeeze" | "unsqueeze":
                dim = args[0] if args else kwargs.get("dim")
                attributes = {"dim": dim}
                if op == "unsqueeze" and x.shape is not None and rank is not None and isinstance(dim, int):
                    at = dim % (rank + 1)
                    shape = (*x.shape[:at], 1, *x.shape[at:])
                elif op == "squeeze" and x.shape and isinstance(dim, int) and rank:
                    shape = tuple(s for i, s in enumerate(x.shape) if i != dim % rank or s not in (1, None))
            case "expand" | "repeat" | "tile":
                sizes = [laws.size(s) for s in args]
                shape = (
                    tuple(sizes) if op == "expand" and None not in sizes else ((None,) * len(sizes) if sizes else None)
                )
            case "select" | "index_select" | "narrow" | "gather":
                dim = args[0] if args else kwargs.get("dim")
                index = args[1] if len(args) > 1 else kwargs.get("index")
                attributes = {"dim": dim, "index": index} if op == "select" else {"dim": dim}
                if op == "select" and x.shape is not None and isinstance(dim, int) and rank:
                    shape = tuple(s for i, s in enumerate(x.shape) if i != dim % rank)
                elif rank:
                    shape = (None,) * rank
            case "pad" if x.shape is not None and len(x.shape) > 2:
                shape = (*x.shape[:2], *([None] * (len(x.shape) - 2)))
            case "roll" | "flip" | "detach":
                shape = x.shape
        return self.builder.emit("reshape", op, [x], site, attributes, shape)

    def _do_cat(self, args: list[Any], kwargs: dict[str, Any], site: Site, op: str = "cat") -> Any:
        a = bind("tensors, dim=0", args, {("dim" if k == "axis" else k): v for k, v in kwargs.items()})
        pieces = a["tensors"]
        if not isinstance(pieces, (list, tuple)):
            return self.unknown(op, args, kwargs, site)
        inputs = self.operands(pieces, site)
        if len(inputs) < len(pieces):
            return self.unknown(op, [pieces], {}, site)
        shape = shapes.joined([t.shape for t in inputs], a["dim"]) if op == "cat" else None
        if op == "stack" and inputs and inputs[0].shape is not None and isinstance(a["dim"], int):
            at = a["dim"] % (len(inputs[0].shape) + 1)
            shape = (*inputs[0].shape[:at], len(inputs), *inputs[0].shape[at:])
        if len(inputs) == 1 and op == "cat":
            return inputs[0]
        return self.builder.emit("cat", op, inputs, site, {"dim": a["dim"]}, shape)

    _do_concat = _do_concatenate = _do_cat

    def _do_stack(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_cat(args, kwargs, site, "stack")

    def _do_chunk(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        a = bind("input, chunks, dim=0", args, kwargs)
        x = self.tensor(a["input"], site)
        return Unknown("chunk") if x is None else Pieces(x, "chunk", a["dim"], laws.size(a["chunks"]), site)

    _do_tensor_split = _do_chunk

    def _do_split(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        a = bind(
            "input, split_size_or_sections, dim=0",
            args,
            {("split_size_or_sections" if "split" in k else k): v for k, v in kwargs.items()},
        )
        x, sizes = self.tensor(a["input"], site), a["split_size_or_sections"]
        if x is None:
            return Unknown("split")
        count = len(sizes) if isinstance(sizes, (list, tuple)) else None
        if count is None and isinstance(a["dim"], int) and x.shape and laws.size(sizes):
            total = x.shape[a["dim"] % len(x.shape)]
            count = -(-total // sizes) if total is not None else None
        return Pieces(x, "chunk", a["dim"], count, site)

    def _do_unbind(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        a = bind("input, dim=0", args, kwargs)
        x = self.tensor(a["input"], site)
        if x is None:
            return Unknown("unbind")
        count = x.shape[a["dim"] % len(x.shape)] if x.shape and isinstance(a["dim"], int) else None
        return Pieces(x, "select", a["dim"], count, site, rank_change=-1)

    def piece(self, pieces: Pieces, index: int) -> Tensor:
        """One slice of a chunked tensor."""
        x = pieces.tensor
        shape: shapes.Shape = None
        if x.shape is not None and isinstance(pieces.dim, int) and x.shape:
            axis = pieces.dim % len(x.shape)
            total = x.shape[axis]
            part = total // pieces.count if total is not None and pieces.count else None
            middle = () if pieces.rank_change else (part,)
            shape = (*x.shape[:axis], *middle, *x.shape[axis + 1 :])
        return self.builder.emit("reshape", pieces.op, [x], pieces.site, {"dim": pieces.dim, "index": index}, shape)

    def index(self, x: Tensor, key: Any, site: Site) -> Any:
        """x[key]."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if contains_tensor(keys) or any(isinstance(k, Array) for k in keys):
            return self.builder.emit("reshape", "gather", [x], site, {})
        attributes = {"index": ", ".join(map(_index_text, keys))}
        shape: shapes.Shape = None
        if x.shape is not None and Ellipsis not in keys and len([k for k in keys if k is not None]) <= len(x.shape):
            sizes: list[int | None] = []
            rest = list(x.shape)
            for k in keys:
                if k is None:
                    sizes.append(1)
                    continue
                s = rest.pop(0)
                if isinstance(k, slice):
                    whole = k.start is None and k.stop is None and k.step is None
                    sizes.append(s if whole else None)
                elif isinstance(k, (list, tuple)):
                    sizes.append(len(k))
                elif isinstance(k, Unknown) and not k.numeric:
                    return self.builder.emit("reshape", "select", [x], site, attributes)
            shape = (*sizes, *rest)
        whole_only = all(k is None or k is Ellipsis or (isinstance(k, slice) and k == slice(None)) for k in keys)
        if whole_only and None not in keys:
            return x
        op = "unsqueeze" if whole_only else "slice" if any(isinstance(k, slice) for k in keys) else "select"
        return self.builder.emit("reshape", op, [x], site, attributes, shape)


def _index_text(key: Any) -> str:
    """One part of a subscript as it is written: a number, `a:b`, `None`, `...`; `?` for what is not known."""
    match key:
        case slice():
            parts = ["" if p is None else _index_text(p) for p in (key.start, key.stop, key.step)]
            return ":".join(parts if key.step is not None else parts[:2])
        case None:
            return "None"
        case int():
            return str(key)
    return "..." if key is Ellipsis else "?"
