"""Sums, products and powers of tensors as graph nodes."""

from __future__ import annotations

from typing import Any

from gradlint.source.reader import laws, shapes
from gradlint.source.reader.masking import passes_positive, slope_below_zero
from gradlint.source.reader.rearrangement import Rearrangement
from gradlint.source.reader.values import Site, Tensor, Unknown


class TensorArithmetic(Rearrangement):
    """Arithmetic between tensors, and of tensors with numbers."""

    def arithmetic(self, op: str, left: Any, right: Any, site: Site, alpha: Any = 1) -> Any:
        """left OP right with a graph tensor on at least one side."""
        from gradlint.source.reader.normalizing import recognise

        a, b = self.tensor(left, site), self.tensor(right, site)
        if a is not None and b is not None:
            found = recognise(self.builder, op, a, b, site)
            if found is not None:
                return found
            shape = shapes.broadcast(a.shape, b.shape)
            kind = {"add": "add", "sub": "add", "mul": "mul", "div": "mul"}.get(op, "unknown")
            attributes = {"alpha": alpha} if kind == "add" and alpha != 1 else {}
            return self.builder.emit(kind, op, [a, b], site, attributes, shape)
        x, other, swapped = (a, right, False) if a is not None else (b, left, True)
        if x is None:
            return Unknown("arithmetic")
        n = laws.number(other)
        if op == "mul" and passes_positive(site.node):
            return self.builder.emit("activation", "relu", [x], site, {}, x.shape)
        if isinstance(other, Unknown) and other.tensor and op in ("mul", "add", "sub"):
            return self.builder.emit("reshape", "masked_fill", [x], site, {}, x.shape)
        if n is None and not (isinstance(other, Unknown) and other.numeric):
            return self.builder.emit("unknown", op, [x], site, {}, x.shape)
        return self._with_number(op, x, n, swapped, site)

    def _with_number(self, op: str, x: Tensor, n: float | None, swapped: bool, site: Site) -> Tensor:
        if op in ("add", "sub"):
            if op == "sub" and swapped:
                x = self.builder.emit("scale", "scale", [x], site, {"factor": -1.0}, x.shape)
            if n == 0:
                return x
            offset = n if n is None or op == "add" or swapped else -n
            return self.builder.emit("scale", "shift", [x], site, {"offset": offset}, x.shape)
        if op == "mul" or (op == "div" and not swapped):
            factor = n if op == "mul" or n is None else (1 / n if n else None)
            return x if factor == 1 else self.builder.emit("scale", "scale", [x], site, {"factor": factor}, x.shape)
        if op == "div":
            x = self.builder.emit("activation", "reciprocal", [x], site, {}, x.shape)
            return x if n == 1 else self.builder.emit("scale", "scale", [x], site, {"factor": n}, x.shape)
        if op == "pow" and not swapped:
            return self.builder.emit("activation", "pow", [x], site, {"exponent": n}, x.shape)
        return self.builder.emit("unknown", op, [x], site, {}, x.shape)

    def _do_matmul(self, args: list[Any], kwargs: dict[str, Any], site: Site, op: str = "matmul") -> Any:
        pair = self.operands([*args[:2], *(kwargs[k] for k in ("other", "mat2") if k in kwargs)], site)
        if len(pair) < 2:
            return self.unknown(op, args, kwargs, site)
        return self.builder.emit("matmul", op, pair, site, {}, shapes.multiplied(pair[0].shape, pair[1].shape))

    _do_mm = _do_matmul

    def _do_bmm(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_matmul(args, kwargs, site, "bmm")

    def _do_einsum(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.builder.emit("matmul", "einsum", self.operands(args[1:], site), site, {"equation": args[0]})

    def _do_addmm(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.arithmetic("add", args[0], self._do_matmul(args[1:], kwargs, site), site)

    def _do_add(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.arithmetic(
            "add", args[0], args[1] if len(args) > 1 else kwargs.get("other"), site, kwargs.get("alpha", 1)
        )

    def _do_sub(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.arithmetic(
            "sub", args[0], args[1] if len(args) > 1 else kwargs.get("other"), site, kwargs.get("alpha", 1)
        )

    _do_subtract = _do_sub

    def _do_mul(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.arithmetic("mul", args[0], args[1] if len(args) > 1 else kwargs.get("other"), site)

    _do_multiply = _do_mul

    def _do_div(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.arithmetic("div", args[0], args[1] if len(args) > 1 else kwargs.get("other"), site)

    _do_true_divide = _do_divide = _do_div

    def _do_pow(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.arithmetic("pow", args[0], args[1] if len(args) > 1 else kwargs.get("exponent"), site)

    def _do_where(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        chosen = self.operands(args[1:3], site)
        slope = slope_below_zero(site.node)
        if slope is not None and chosen:
            op, attributes = ("leaky_relu", {"negative_slope": slope}) if slope else ("relu", {})
            return self.builder.emit("activation", op, chosen[:1], site, attributes, chosen[0].shape)
        if len(chosen) == 1:
            return self.builder.emit("reshape", "masked_fill", chosen, site, {}, chosen[0].shape)
        return self.unknown("where", args, kwargs, site)

    def _do_masked_fill(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        x = self.operands(args[:1], site)
        return self.builder.emit("reshape", "masked_fill", x, site, {}, x[0].shape if x else None)
