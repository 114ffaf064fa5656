"""Calls of torch.nn layers as graph nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradlint.source.reader import laws, shapes
from gradlint.source.reader.layers import LAYERS
from gradlint.source.reader.operands import Operands
from gradlint.source.reader.values import Array, Module, Site, Tensor, Unknown


class LayerCalls(Operands):
    """Calls modules that have a forward of their own in torch."""

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
        if module.attributes:
            a.update({k: v for k, v in module.attributes.items() if k in a})
        arrays = {k: v for k, v in module.parameters.items() if isinstance(v, Array)}
        shape, axis = x.shape, None
        inputs = [x]
        match layer.kind:
            case "linear":
                if layer.op == "bilinear":
                    inputs = self.operands(args, site)
                elif x.shape is None:
                    self.learn_input(x, (None, laws.size(a.get("in_features"))))
                shape = (*(x.shape or (None, None))[:-1], laws.size(a.get("out_features")))
                a["bias"], axis = "bias" in arrays, -1
            case "conv" | "conv_transpose":
                d = int(layer.op[-2])
                if x.shape is None:
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
