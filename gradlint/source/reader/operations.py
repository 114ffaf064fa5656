"""Torch functions, tensor methods and torch.nn layers as graph nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradlint.source.reader import laws, shapes
from gradlint.source.reader.building import GraphBuilder
from gradlint.source.reader.creation import CREATORS
from gradlint.source.reader.layers import LAYERS, bind
from gradlint.source.reader.values import Array, Choice, Module, Pieces, Site, Tensor, Unknown, contains_tensor

Call = Callable[[list[Any], dict[str, Any], Site], Any]

ACTIVATIONS = {
    **dict.fromkeys(
        [
            "relu",
            "relu6",
            "selu",
            "silu",
            "mish",
            "softsign",
            "tanh",
            "sigmoid",
            "logsigmoid",
            "hardsigmoid",
            "hardswish",
            "exp",
            "log",
            "log2",
            "log10",
            "log1p",
            "expm1",
            "sqrt",
            "rsqrt",
            "square",
            "abs",
            "neg",
            "sin",
            "cos",
            "tan",
            "erf",
            "reciprocal",
            "sign",
            "floor",
            "round",
            "ceil",
            "tanhshrink",
            "atan",
            "asinh",
            "sinh",
            "cosh",
            "acos",
            "asin",
            "logit",
            "nan_to_num",
            "sinc",
        ],
        "",
    ),
    "leaky_relu": "negative_slope=0.01, inplace=False",
    "elu": "alpha=1.0, inplace=False",
    "celu": "alpha=1.0, inplace=False",
    "gelu": "approximate='none'",
    "rrelu": "lower=0.125, upper=0.3333333333333333, training=False, inplace=False",
    "softplus": "beta=1, threshold=20",
    "hardtanh": "min_val=-1.0, max_val=1.0, inplace=False",
    "threshold": "threshold, value, inplace=False",
    "clamp": "min=None, max=None",
    "clip": "min=None, max=None",
    "softshrink": "lambd=0.5",
    "hardshrink": "lambd=0.5",
}
ALIASES = {"absolute": "abs", "negative": "neg", "swish": "silu", "log_sigmoid": "logsigmoid", "expit": "sigmoid"}

IDENTITIES = frozenset(
    [
        "contiguous",
        "to",
        "cuda",
        "cpu",
        "float",
        "double",
        "half",
        "bfloat16",
        "clone",
        "type",
        "type_as",
        "requires_grad",
        "requires_grad_",
        "alias",
        "view_as_real",
        "pin_memory",
        "retain_grad",
        "dequantize",
        "as_tensor",
        "tensor",
        "from_numpy",
        "squeeze_",
        "detach_",
        "int",
        "long",
    ]
) - {"squeeze_", "detach_"}

RESHAPES = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "repeat",
        "repeat_interleave",
        "select",
        "narrow",
        "gather",
        "index_select",
        "roll",
        "flip",
        "unfold",
        "pixel_shuffle",
        "pixel_unshuffle",
        "swapaxes",
        "movedim",
        "t",
        "detach",
        "pad",
        "unflatten",
        "view_as",
        "reshape_as",
        "tile",
        "flipud",
        "fliplr",
        "rot90",
        "diagonal",
        "ravel",
        "channel_shuffle",
        "take_along_dim",
        "masked_select",
    ]
)
REDUCTIONS = frozenset(["mean", "sum", "amax", "amin", "var", "std", "norm", "logsumexp", "cumsum", "prod", "median"])

NO_GRADIENT = frozenset(
    [
        "argmax",
        "argmin",
        "argsort",
        "eq",
        "ne",
        "lt",
        "gt",
        "le",
        "ge",
        "isnan",
        "isinf",
        "isfinite",
        "bool",
        "any",
        "all",
        "nonzero",
        "topk_indices",
        "bincount",
        "logical_and",
        "logical_or",
        "logical_not",
        "numel",
        "bernoulli",
        "multinomial",
        "item",
        "tolist",
        "numpy",
        "shape_as_tensor",
    ]
)


class Operations:
    """Emits the nodes of one model into its builder."""

    def __init__(self, builder: GraphBuilder, create: Any) -> None:
        self.builder = builder
        self.create = create

    # -- operands ------------------------------------------------------------------------------------------------

    def tensor(self, value: Any, site: Site) -> Tensor | None:
        """A value as a graph operand, or None for what is no tensor."""
        match value:
            case Tensor():
                return value
            case Array():
                return self.builder.of_array(value, site)
            case Pieces():
                return value.tensor
        return None

    def operands(self, values: Any, site: Site, depth: int = 0) -> list[Tensor]:
        """All tensors in (nested) arguments, in order."""
        found: list[Tensor] = []
        for value in values.values() if isinstance(values, dict) else values:
            one = self.tensor(value, site)
            if one is not None:
                found.append(one)
            elif isinstance(value, (list, tuple, dict)) and depth < 3:
                found += self.operands(value, site, depth + 1)
            elif isinstance(value, Choice) and depth < 3:
                found += self.operands(value.values, site, depth + 1)
        return found

    def unknown(self, op: str, args: Any, kwargs: dict[str, Any], site: Site, module: Module | None = None) -> Tensor:
        """A node for something whose meaning is not known: it voids what passes through it."""
        inputs = self.operands(args, site) + self.operands(kwargs, site)
        return self.builder.emit("unknown", op, inputs, site, module=module)

    def learn_input(self, x: Tensor, shape: tuple[int | None, ...], **attributes: Any) -> None:
        """Fill in the shape of an input from the first layer that reads it."""
        node = self.builder.nodes[x.node]
        if node.kind == "input" and x.shape is None:
            axis = 1 if len(shape) > 3 or (len(shape) == 3 and attributes.pop("channels", False)) else -1
            attributes.pop("channels", None)
            x.shape = shape
            known = {**node.attributes, **attributes}
            self.builder.nodes[x.node] = replace(node, shape=shape, attributes=known, feature_axis=axis)

    # -- layers --------------------------------------------------------------------------------------------------

    def layer(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """Call a torch.nn module that has its own forward there."""
        layer = LAYERS.get(module.torch)
        x = self.tensor(args[0], site) if args else self.tensor(kwargs.get("input"), site)
        if layer is not None and layer.kind == "embedding" and x is None:
            arrays = {k: v for k, v in module.parameters.items() if isinstance(v, Array)}
            width = laws.size(module.arguments.get("embedding_dim"))
            return self.builder.emit(
                "embedding", layer.op, [], site, module.arguments, (None, None, width), arrays, module
            )
        if layer is None or x is None:
            return self.unknown(module.class_name, args, kwargs, site, module)
        a = dict(module.arguments)
        a.update({k: v for k, v in module.attributes.items() if k in a})
        arrays = {k: v for k, v in module.parameters.items() if isinstance(v, Array)}
        shape, axis = x.shape, None
        inputs = [x]
        match layer.kind:
            case "linear":
                if layer.op == "bilinear":
                    inputs = self.operands(args, site)
                else:
                    self.learn_input(x, (None, laws.size(a.get("in_features"))))
                shape = (*(x.shape or (None, None))[:-1], laws.size(a.get("out_features")))
                a["bias"], axis = "bias" in arrays, -1
            case "conv" | "conv_transpose":
                d = int(layer.op[-2])
                self.learn_input(x, (None, laws.size(a.get("in_channels")), *([None] * d)), channels=True)
                change = shapes.convolved if layer.kind == "conv" else shapes.unconvolved
                shape = change(x.shape, laws.size(a.get("out_channels")), d, a)
                a["bias"], axis = "bias" in arrays, 1
            case "embedding":
                self.learn_input(x, (None, None), dtype="int64", law="ids", high=laws.size(a.get("num_embeddings")))
                shape = (*(x.shape or (None, None)), laws.size(a.get("embedding_dim")))
                axis = -1
            case "pool":
                shape = self._pooled(layer.op, x.shape, int(module.torch[-2]), a)
            case "dropout":
                if layer.op == "drop_path":
                    a = {"p": a.get("drop_prob", a.get("p")), "unit": "sample"}
                    return (
                        x
                        if a["p"] in (0, None)
                        else self.builder.emit("dropout", "drop_path", [x], site, a, x.shape, module=module)
                    )
                if a.get("p") == 0:
                    return x
                a = {"p": a.get("p"), "unit": "channel" if module.torch[-1] == "d" else "element"}
            case "reshape":
                shape = self._reshaped_layer(layer.op, x.shape, a)
            case "upsample":
                shape = None if x.shape is None else (*x.shape[:2], *([None] * (len(x.shape) - 2)))
            case "recurrent":
                return self._recurrent(module, layer.op, x, args, a, arrays, site)
            case "attention":
                return self._attention(module, args, kwargs, a, arrays, site)
            case "unknown":
                return self.unknown(layer.op, args, kwargs, site, module)
            case "normalization":
                a["training"] = True
        a.pop("device", None)
        return self.builder.emit(layer.kind, layer.op, inputs, site, a, shape, arrays, module, axis)

    def _pooled(self, op: str, shape: shapes.Shape, d: int, a: dict[str, Any]) -> shapes.Shape:
        if shape is None:
            return None
        if op.startswith("adaptive"):
            wanted = shapes.per_axis(a.get("output_size"), d)
            if len(shape) < d:
                return None
            return (
                *shape[:-d],
                *(old if new is None else laws.size(new) for old, new in zip(shape[-d:], wanted, strict=True)),
            )
        return shapes.pooled(shape, d, a)

    def _reshaped_layer(self, op: str, shape: shapes.Shape, a: dict[str, Any]) -> shapes.Shape:
        if op == "flatten":
            return shapes.flattened(shape, a.get("start_dim"), a.get("end_dim"))
        if op == "pad" and shape is not None and len(shape) > 2:
            return (*shape[:2], *([None] * (len(shape) - 2)))
        if op == "unflatten" and shape is not None and a.get("dim") == 1:
            sizes = a.get("unflattened_size")
            return (shape[0], *(laws.size(s) for s in sizes)) if isinstance(sizes, (list, tuple)) else None
        return None if shape is None else (None,) * len(shape)

    def _recurrent(
        self,
        module: Module,
        op: str,
        x: Tensor,
        args: list[Any],
        a: dict[str, Any],
        arrays: dict[str, Array],
        site: Site,
    ) -> Any:
        cell = module.torch.endswith("Cell")
        hidden, width = laws.size(a.get("hidden_size")), laws.size(a.get("input_size"))
        self.learn_input(x, (None, width) if cell else (None, None, width))
        batch_first = a.get("batch_first") is True
        sizes = x.shape if x.shape and len(x.shape) >= 2 else ((None, None) if cell else (None, None, None))
        directions = 2 if a.get("bidirectional") is True else 1
        shape = (*sizes[:-1], hidden * directions if hidden is not None else None)
        steps = None if cell or len(sizes) != 3 else sizes[1 if batch_first else 0]
        attributes = {
            "batch_first": batch_first,
            **a,
            "cell": cell,
            "steps": steps,
            "bias": any("bias" in n for n in arrays),
        }
        if op == "rnn":
            attributes.setdefault("nonlinearity", "tanh")
        inputs = self.operands(args, site)
        out = self.builder.emit("recurrent", op, inputs, site, attributes, shape, arrays, module, -1)
        if cell:
            return (out, Tensor(out.node, out.shape)) if op == "lstm" else out
        layers = laws.size(a.get("num_layers"))
        count = layers * directions if layers is not None else None
        samples = None if len(sizes) != 3 else sizes[0 if batch_first else 1]
        states = (count, samples, laws.size(a.get("proj_size")) or hidden)
        sequence = self._element(out, 0, shape, site)
        if op != "lstm":
            return sequence, self._element(out, 1, states, site, batch_axis=1)
        pair = self._element(out, 1, None, site)
        return sequence, tuple(self._element(pair, i, states, site, batch_axis=1) for i in (0, 1))

    def _element(self, pair: Tensor, index: int, shape: shapes.Shape, site: Site, batch_axis: int = 0) -> Tensor:
        """One element of the tuple that a recurrent layer returns."""
        made = self.builder.emit("reshape", "getitem", [pair], site, {"index": str(index)}, shape, feature_axis=-1)
        self.builder.nodes[made.node] = replace(self.builder.nodes[made.node], batch_axis=batch_axis)
        return made

    def _attention(
        self,
        module: Module,
        args: list[Any],
        kwargs: dict[str, Any],
        a: dict[str, Any],
        arrays: dict[str, Array],
        site: Site,
    ) -> Any:
        qkv = [*args[:3], *(kwargs[k] for k in ("query", "key", "value") if k in kwargs)]
        inputs = self.operands(qkv, site)
        width, heads = laws.size(a.get("embed_dim")), laws.size(a.get("num_heads"))
        attributes = {
            **a,
            "head_dim": width // heads if width and heads else None,
            "causal": kwargs.get("is_causal", False),
        }
        roles = {
            "in_proj_weight": "in_proj",
            "in_proj_bias": "in_proj_bias",
            "out_proj.weight": "out_proj",
            "out_proj.bias": "out_proj_bias",
        }
        parameters = {roles.get(n, n): v for n, v in arrays.items()}
        for name, array in arrays.items():
            path = self.builder.path_of(module, "attention")
            self.builder.register(array, f"{path}.{name}" if path else name)
        shape = inputs[0].shape if inputs else None
        out = self.builder.emit(
            "attention", "multi_head_attention", inputs, site, attributes, shape, parameters, module, -1
        )
        return out, Unknown("attention weights")

    # -- functions -----------------------------------------------------------------------------------------------

    def function(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """Call torch.NAME, torch.nn.functional.NAME or tensor.NAME with a graph tensor among the arguments."""
        name = ALIASES.get(name, name)
        method = getattr(self, f"_do_{name}", None)
        if method is not None:
            return method(args, kwargs, site)
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
            return self.builder.emit("activation", {"clip": "clamp"}.get(name, name), [x], site, attributes, x.shape)
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

    # -- joining and arithmetic ----------------------------------------------------------------------------------

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

    def _do_matmul(self, args: list[Any], kwargs: dict[str, Any], site: Site, op: str = "matmul") -> Any:
        pair = self.operands([*args[:2], *(kwargs[k] for k in ("other", "mat2") if k in kwargs)], site)
        if len(pair) < 2:
            return self.unknown(op, args, kwargs, site)
        return self.builder.emit("matmul", op, pair, site, {}, shapes.multiplied(pair[0].shape, pair[1].shape))

    def _do_bmm(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._do_matmul(args, kwargs, site, "bmm")

    _do_mm = _do_matmul

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

    def _do_where(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        chosen = self.operands(args[1:3], site)
        if len(chosen) == 1:
            return self.builder.emit("reshape", "masked_fill", chosen, site, {}, chosen[0].shape)
        return self.unknown("where", args, kwargs, site)

    def _do_masked_fill(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        x = self.operands(args[:1], site)
        return self.builder.emit("reshape", "masked_fill", x, site, {}, x[0].shape if x else None)

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
