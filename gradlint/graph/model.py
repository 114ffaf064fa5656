"""The model graph: operations in execution order, edges, shapes, source lines and init laws, as plain data.

Standard library only: the worker's child process builds it beside the user's torch, and sends it as JSON.

## Kinds and their attributes

Every node has one of these kinds. `op` is the precise operation; `attributes` holds plain JSON values
under PyTorch's own argument names. An attribute that is not known (source reader) is absent or None.

| kind | op | attributes | parameters |
|---|---|---|---|
| input | input | dtype ("float32", "int64" …), high (for ids), law ("normal", "uniform01", "ids") | |
| parameter | parameter, buffer | | weight |
| constant | constant | value | |
| linear | linear, bilinear | in_features, out_features, bias | weight, bias |
| conv | conv1d conv2d conv3d | in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias | weight, bias |
| conv_transpose | conv_transpose1d … 3d | the same, output_padding | weight, bias |
| embedding | embedding, embedding_bag | num_embeddings, embedding_dim, padding_idx | weight |
| activation | relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish softplus softsign tanh sigmoid logsigmoid hardtanh hardsigmoid hardswish exp log sqrt square abs neg sin cos reciprocal pow clamp … | negative_slope, alpha, approximate, beta, exponent, min, max, inplace | weight (prelu) |
| normalization | batch_norm layer_norm rms_norm group_norm instance_norm local_response_norm normalize | eps, num_groups, num_features, normalized_shape, affine, training, dim | weight, bias |
| softmax | softmax log_softmax | dim | |
| dropout | dropout, drop_path | p, rate per element or per sample ("unit": "element", "channel", "sample") | |
| add | add, sub | alpha | |
| mul | mul, div | | |
| scale | scale, shift | factor (x·factor), offset (x+offset), both plain numbers | |
| cat | cat, stack | dim | |
| matmul | matmul bmm einsum outer | equation | |
| attention | scaled_dot_product_attention, multi_head_attention | embed_dim, num_heads, head_dim, dropout, causal, scale, batch_first | in_proj, q_proj, k_proj, v_proj, out_proj … |
| recurrent | rnn lstm gru, recurrence (a hand-written loop) | input_size, hidden_size, num_layers, bidirectional, nonlinearity, batch_first, steps, bias, cell (True for RNNCell … called in a loop), dropout | weight_ih_l0, weight_hh_l0, bias_ih_l0 … |
| pool | max_pool avg_pool adaptive_avg_pool adaptive_max_pool lp_pool | kernel_size, stride, padding, output_size | |
| reduce | mean sum amax amin var std norm logsumexp cumsum | dim, keepdim | |
| reshape | view flatten permute transpose squeeze unsqueeze expand repeat chunk slice select gather pad roll flip unfold pixel_shuffle contiguous detach … | dim, dims, sizes, start, length, index, mode | |
| upsample | interpolate, upsample | scale_factor, size, mode | |
| loop | loop | steps | |
| output | output | | |
| unknown | whatever was called | | whatever it owns |

`identity` operations (`.to`, `.cuda`, `contiguous`, `clone`, Identity modules, dropout with p = 0) are kept
only if something refers to them; otherwise the builder joins the edges. `detach` is kept: it stops gradients.

A module that is called k times gives k nodes with the same `module`. A node's `inputs` are its data
operands in argument order: shapes (`x.size(0)`), device and dtype arguments make no edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gradlint.location import Location
from gradlint.quick_init import quick_init

KINDS = frozenset(
    [
        "input",
        "parameter",
        "constant",
        "linear",
        "conv",
        "conv_transpose",
        "embedding",
        "activation",
        "normalization",
        "softmax",
        "dropout",
        "add",
        "mul",
        "scale",
        "cat",
        "matmul",
        "attention",
        "recurrent",
        "pool",
        "reduce",
        "reshape",
        "upsample",
        "loop",
        "output",
        "unknown",
    ]
)

WEIGHTED = frozenset({"linear", "conv", "conv_transpose", "attention", "recurrent"})
"""Kinds that multiply the signal by a weight matrix: what "a layer" means in rules and reports."""

SATURATING = frozenset(["sigmoid", "tanh", "hardsigmoid", "hardtanh", "softsign", "logsigmoid"])
RECTIFIERS = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "rrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "softplus",
        "hardswish",
        "threshold",
    ]
)


@quick_init
@dataclass(frozen=True)
class InitLaw:
    """How the elements of a parameter are drawn before training.

    `distribution`: uniform, normal, truncated_normal, constant, orthogonal, eye, dirac, sparse, pretrained,
    other or unknown. `mean` and `std` are of one element (numbers, or None when unknown).
    `fan_in` and `fan_out` are PyTorch's `_calculate_fan_in_and_fan_out`; None when widths are unknown.
    `gain_squared` is fan_in·(std² + mean²): the factor on the second moment, which is known even where the
    source reader does not know the widths (1/3 for PyTorch's default, 2 for He with fan_in, about 1 for
    Xavier on a square layer).
    `origin`: "default" (the module's own reset_parameters), "explicit" (somebody's init code) or
    "pretrained" (read from a checkpoint; says nothing of the values).
    `scheme`: "kaiming_uniform", "xavier_normal" … as called, or None for hand-made arithmetic.
    `location`: the call that decided it. `draw`: equal for parameters that hold the same sample
    (deepcopy, tied clones). `partial`: only a part of the parameter was written by this law.
    `mode` is "fan_in" or "fan_out" for Kaiming schemes. Of a weight that is computed from the parameter: `per_unit`,
    its std over the parameter's, and `centred`, whether the weights of each output sum to zero.
    """

    distribution: str
    mean: float | None = None
    std: float | None = None
    fan_in: int | None = None
    fan_out: int | None = None
    gain_squared: float | None = None
    origin: str = "default"
    scheme: str | None = None
    mode: str | None = None
    location: Location | None = None
    draw: str | None = None
    partial: bool = False
    per_unit: float = 1.0
    centred: bool = False


@quick_init
@dataclass(frozen=True)
class Parameter:
    """A parameter or buffer of the model.

    `shape` may hold None for unknown sizes. `aliases` are the other names of a tied weight.
    `trainable` is requires_grad; `frozen_by` is where it was switched off.
    """

    name: str
    shape: tuple[int | None, ...]
    law: InitLaw | None = None
    trainable: bool = True
    buffer: bool = False
    aliases: tuple[str, ...] = ()
    frozen_by: Location | None = None


@quick_init
@dataclass(frozen=True)
class Node:
    """One operation.

    `id` is its index in `ModelGraph.nodes`; `inputs` are ids of earlier nodes (a `loop` node aside).
    `name` is unique: the module path ("net.0", "net.0#2" at its second call) or "act3", "add1" for a
    function. `module` is the module path of the innermost user-visible module that made the call ("" is the
    root). `shape` is the output's, batch first where known.
    `feature_axis` is the axis of `shape` that holds features (1 for NCHW, -1 for linear), `batch_axis` the
    axis of samples; None when unknown. `location` is the call in `forward`; `constructor` the line that
    made the module. `parameters` maps the role ("weight") to the parameter's name.
    """

    id: int
    kind: str
    op: str
    name: str
    inputs: tuple[int, ...] = ()
    shape: tuple[int | None, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    module: str = ""
    feature_axis: int | None = None
    batch_axis: int | None = 0
    location: Location | None = None
    constructor: Location | None = None

    @property
    def best_location(self) -> Location | None:
        """The constructor's line if known, else the call's: where a person would change the layer."""
        return self.constructor or self.location


@dataclass(frozen=True)
class Loss:
    """The training loss: `kind` is cross_entropy, bce_with_logits, bce, mse, l1, smooth_l1, nll, kl, ctc,
    other or unknown; `classes` where the class count is known; `inside` where the model's own forward computes it."""

    kind: str = "unknown"
    reduction: str = "mean"
    classes: int | None = None
    location: Location | None = None
    inside: bool = False


@dataclass(frozen=True)
class ModelGraph:
    """A model as gradlint sees it.

    `name` is the class or variable as the user knows it; `location` where it is constructed, or the class
    statement when no construction was found. `traced_by`: "torch.fx", "recording", "recording (cpu)",
    "recording (guessed)" or "source". `confidence`: high, medium or low, with the reasons in `notes`.
    `placeholders` name values that the slice had to invent (vocabulary sizes …). `input` is the input spec
    ("1x3x224x224"). `pretrained` is True when parameters come from a checkpoint. `stopped_at` is where a
    source reader could not follow; what comes after is not in the graph. `assumed` says in words which conditions
    the source does not tell and this graph takes for granted; another graph of the model assumes otherwise.
    """

    name: str
    nodes: tuple[Node, ...]
    parameters: tuple[Parameter, ...] = ()
    location: Location | None = None
    class_name: str = ""
    traced_by: str = "torch.fx"
    confidence: str = "high"
    notes: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    input: str | None = None
    batch_size: int | None = None
    pretrained: bool = False
    loss: Loss = field(default_factory=Loss)
    stopped_at: tuple[Location, str] | None = None
    assumed: tuple[str, ...] = ()

    @cached_property
    def parameter(self) -> dict[str, Parameter]:
        """Parameters by name, aliases included."""
        table = {p.name: p for p in self.parameters}
        for p in self.parameters:
            for alias in p.aliases:
                table.setdefault(alias, p)
        return table

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For each node id, the ids of the nodes that read its output, in order."""
        users: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for i in node.inputs:
                if not users[i] or users[i][-1] != node.id:
                    users[i].append(node.id)
        return tuple(tuple(u) for u in users)

    def weight_law(self, node: Node, role: str = "weight") -> InitLaw | None:
        """The init law of a node's parameter, or None."""
        name = node.parameters.get(role)
        parameter = self.parameter.get(name) if name else None
        return parameter.law if parameter else None

    def of_kind(self, *kinds: str) -> Iterator[Node]:
        """The nodes of these kinds, in order."""
        return (node for node in self.nodes if node.kind in kinds)
