"""Torch functions, tensor methods and torch.nn layers as graph nodes."""

from __future__ import annotations

from typing import Any

from gradlint.graph.written_out import clamp
from gradlint.source.reader.creation import CREATORS
from gradlint.source.reader.layers import bind
from gradlint.source.reader.operation_names import (
    ACTIVATIONS,
    ALIASES,
    IDENTITIES,
    LOSSES,
    NO_GRADIENT,
    REDUCTIONS,
    RESHAPES,
)
from gradlint.source.reader.tensor_arithmetic import TensorArithmetic
from gradlint.source.reader.values import Site, Unknown

CLAMPS = frozenset(["clamp", "clip", "clamp_min", "clamp_max"])


class Operations(TensorArithmetic):
    """Emits the nodes of one model into its builder."""

    def function(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """Call torch.NAME, torch.nn.functional.NAME or tensor.NAME with a graph tensor among the arguments."""
        name = ALIASES.get(name, name)
        in_place = kwargs.get("inplace") is True
        if name.endswith("_") and name[:-1] in ACTIVATIONS:
            name, in_place = name[:-1], True
        method = getattr(self, f"_do_{name}", None)
        if method is not None:
            return method(args, kwargs, site)
        if name in LOSSES or name.endswith("_loss"):
            return self.loss(args, kwargs, site)
        if name in IDENTITIES:
            return args[0] if args else Unknown(name)
        if name in CREATORS:
            return self.create(name, args, kwargs, site)
        first = args[0] if args else kwargs.get("input", kwargs.get("self"))
        x = self.tensor(first, site)
        if x is None:
            return self.unknown(name, args, kwargs, site)
        if name in ACTIVATIONS:
            attributes = bind(ACTIVATIONS[name], args[1:], kwargs)
            if name in CLAMPS:
                name, attributes = clamp(attributes)
            out = self.builder.emit("activation", name, [x], site, attributes, x.shape)
            return x.become(out) if in_place else out
        if name in REDUCTIONS:
            return self._reduce(name, x, args[1:], kwargs, site)
        if name in RESHAPES:
            return self._reshape(name, x, args[1:], kwargs, site)
        if "max_pool" in name or "avg_pool" in name or "lp_pool" in name:
            return self._pool(name, x, args[1:], kwargs, site)
        if "dropout" in name:
            return self._dropout(name, x, args[1:], kwargs, site)
        if name in NO_GRADIENT:
            scalar = name in ("item", "tolist", "numel")
            return Unknown(f"the value of `{site.text}`", numeric=scalar, tensor=not scalar)
        return self.unknown(name, args, kwargs, site)
