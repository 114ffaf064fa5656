"""The layers of torch.nn.functional as graph nodes."""

from __future__ import annotations

from typing import Any

from gradlint.source.reader import shapes
from gradlint.source.reader.layer_calls import LayerCalls
from gradlint.source.reader.layers import bind
from gradlint.source.reader.values import Array, Site, Tensor, Unknown


class Functional(LayerCalls):
    """Weighted functions, normalisation, pooling and softmax, their weights given as arguments."""

    def _pool(self, name: str, x: Tensor, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        op, d = (name[:-2], int(name[-2])) if name[-1] == "d" and name[-2].isdigit() else (name, 2)
        pair = op.endswith("_with_indices")
        op = op.removesuffix("_with_indices")
        if op.startswith("adaptive"):
            a = bind("output_size", args, kwargs)
        elif op == "max_pool":
            a = bind(
                "kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False", args, kwargs
            )
        elif op == "lp_pool":
            a = bind("norm_type, kernel_size, stride=None", args, kwargs)
        else:
            a = bind("kernel_size, stride=None, padding=0", args, kwargs)
        out = self.builder.emit("pool", op, [x], site, a, self._pooled(op, x.shape, d, a))
        return (out, Unknown("indices")) if pair or a.get("return_indices") is True else out

    def _dropout(self, name: str, x: Tensor, args: list[Any], kwargs: dict[str, Any], site: Site) -> Tensor:
        a = bind("p=0.5, training=True, inplace=False", args, kwargs)
        if a["training"] is False or a["p"] == 0:
            return x
        unit = "channel" if name.rstrip("_")[-1] == "d" else "element"
        return self.builder.emit("dropout", "dropout", [x], site, {"p": a["p"], "unit": unit}, x.shape)

    def _do_softmax(self, args: list[Any], kwargs: dict[str, Any], site: Site, op: str = "softmax") -> Any:
        x = self.operands(args[:1] or [kwargs.get("input")], site)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        return self.builder.emit("softmax", op, x, site, {"dim": dim}, x[0].shape if x else None)

    def _do_log_softmax(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_softmax(args, kwargs, site, "log_softmax")

    def _do_prelu(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        x = self.operands(args[:1], site)
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        arrays = {"weight": weight} if isinstance(weight, Array) else {}
        return self.builder.emit("activation", "prelu", x, site, {}, x[0].shape if x else None, arrays)

    def _do_batch_norm(self, args: list[Any], kwargs: dict[str, Any], site: Site, op: str = "batch_norm") -> Any:
        x = self.operands(args[:1] or [kwargs.get("input")], site)
        given = [*args[1:], *kwargs.values()]
        arrays = [v for v in given if isinstance(v, Array) and v.parameter]
        roles = dict(zip(("weight", "bias"), arrays, strict=False))
        extra: dict[str, Any] = {"eps": kwargs.get("eps", 1e-5), "training": True}
        if op == "group_norm":
            extra["num_groups"] = args[1] if len(args) > 1 else kwargs.get("num_groups")
        elif op in ("layer_norm", "rms_norm"):
            extra["normalized_shape"] = args[1] if len(args) > 1 else kwargs.get("normalized_shape")
        elif op == "normalize":
            extra = {"dim": kwargs.get("dim", args[2] if len(args) > 2 else 1), "eps": kwargs.get("eps", 1e-12)}
        return self.builder.emit("normalization", op, x, site, extra, x[0].shape if x else None, roles)

    def _do_layer_norm(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_batch_norm(args, kwargs, site, "layer_norm")

    def _do_rms_norm(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_batch_norm(args, kwargs, site, "rms_norm")

    def _do_group_norm(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_batch_norm(args, kwargs, site, "group_norm")

    def _do_instance_norm(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_batch_norm(args, kwargs, site, "instance_norm")

    def _do_local_response_norm(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_batch_norm(args, kwargs, site, "local_response_norm")

    def _do_normalize(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_batch_norm(args, kwargs, site, "normalize")

    def _do_interpolate(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        x = self.operands(args[:1] or [kwargs.get("input")], site)
        a = bind(
            "size=None, scale_factor=None, mode='nearest'", args[1:], {k: v for k, v in kwargs.items() if k != "input"}
        )
        shape = None if not x or x[0].shape is None else (*x[0].shape[:2], *([None] * (len(x[0].shape) - 2)))
        return self.builder.emit("upsample", "interpolate", x[:1], site, a, shape)

    _do_upsample = _do_upsample_nearest = _do_upsample_bilinear = _do_interpolate

    def _do_linear(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        a = bind("input, weight, bias=None", args, kwargs)
        return self._weighted("linear", "linear", a, {}, site)

    def _convolution(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        transposed = "transpose" in name
        order = "output_padding=0, groups=1, dilation=1" if transposed else "dilation=1, groups=1"
        a = bind(f"input, weight, bias=None, stride=1, padding=0, {order}", args, kwargs)
        rest = {k: v for k, v in a.items() if k not in ("input", "weight", "bias")}
        return self._weighted("conv_transpose" if transposed else "conv", name, a, rest, site)

    def _do_conv1d(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._convolution("conv1d", args, kwargs, site)

    def _do_conv2d(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._convolution("conv2d", args, kwargs, site)

    def _do_conv3d(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._convolution("conv3d", args, kwargs, site)

    def _do_conv_transpose2d(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._convolution("conv_transpose2d", args, kwargs, site)

    def _do_conv_transpose1d(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._convolution("conv_transpose1d", args, kwargs, site)

    def _weighted(self, kind: str, op: str, a: dict[str, Any], extra: dict[str, Any], site: Site) -> Any:
        x, weight, bias = a["input"], a["weight"], a["bias"]
        inputs = self.operands([x], site)
        arrays: dict[str, Array] = {}
        for role, value in (("weight", weight), ("bias", bias)):
            if isinstance(value, Array) and value.parameter and value.view_of is None:
                arrays[role] = value
            elif value is not None:
                inputs += self.operands([value], site)
        if not inputs or ("weight" not in arrays and not isinstance(weight, (Tensor, Array))):
            return self.unknown(op, list(a.values()), {}, site)
        sizes = weight.shape if isinstance(weight, (Array, Tensor)) else None
        out = sizes[0] if sizes else None
        shape: shapes.Shape
        if kind == "linear":
            shape = (*(inputs[0].shape or (None, None))[:-1], out)
            extra = {"in_features": sizes[1] if sizes and len(sizes) > 1 else None, "out_features": out}
        else:
            d = int(op[-2])
            kernel = sizes[2:] if sizes else None
            shape = (
                shapes.convolved(inputs[0].shape, out, d, {**extra, "kernel_size": kernel}) if kind == "conv" else None
            )
            extra = {**extra, "kernel_size": list(kernel) if kernel else None, "out_channels": out}
            if sizes and len(sizes) > 1 and isinstance(extra.get("groups"), int) and sizes[1] is not None:
                extra["in_channels"] = sizes[1] * extra["groups"]
        extra["bias"] = bias is not None
        return self.builder.emit(kind, op, inputs, site, extra, shape, arrays)

    def _do_embedding(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        a = bind("input, weight, padding_idx=None", args, kwargs)
        weight = a["weight"]
        arrays = {"weight": weight} if isinstance(weight, Array) and weight.parameter else {}
        inputs = self.operands([a["input"]] + ([] if arrays else [weight]), site)
        return self.builder.emit("embedding", "embedding", inputs, site, {}, None, arrays)

    def _do_scaled_dot_product_attention(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        qkv = self.operands([*args[:3], *(kwargs[k] for k in ("query", "key", "value") if k in kwargs)], site)
        a = {
            "dropout": kwargs.get("dropout_p", 0.0),
            "causal": kwargs.get("is_causal", False),
            "scale": kwargs.get("scale"),
        }
        shape = qkv[0].shape if qkv else None
        if shape:
            a["head_dim"] = shape[-1]
        return self.builder.emit("attention", "scaled_dot_product_attention", qkv, site, a, shape)
