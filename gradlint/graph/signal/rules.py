"""The table of transfer rules, by kind of operation."""

from __future__ import annotations

from gradlint.graph.signal.activation import ACTIVATION
from gradlint.graph.signal.attention import ATTENTION, MATMUL, SOFTMAX
from gradlint.graph.signal.embedding import DROPOUT, EMBEDDING, INPUT, OUTPUT
from gradlint.graph.signal.linear import LINEAR
from gradlint.graph.signal.merge import ADD, CAT, CONSTANT, MUL, PARAMETER, SCALE
from gradlint.graph.signal.normalization import NORMALIZATION
from gradlint.graph.signal.pooling import POOL, REDUCE, RESHAPE, UPSAMPLE
from gradlint.graph.signal.recurrent import RECURRENT
from gradlint.graph.signal.transfer import Transfer

RULES: dict[str, Transfer] = {
    "input": INPUT,
    "parameter": PARAMETER,
    "constant": CONSTANT,
    "linear": LINEAR,
    "conv": LINEAR,
    "conv_transpose": LINEAR,
    "embedding": EMBEDDING,
    "activation": ACTIVATION,
    "normalization": NORMALIZATION,
    "dropout": DROPOUT,
    "add": ADD,
    "mul": MUL,
    "scale": SCALE,
    "cat": CAT,
    "pool": POOL,
    "reduce": REDUCE,
    "reshape": RESHAPE,
    "upsample": UPSAMPLE,
    "recurrent": RECURRENT,
    "attention": ATTENTION,
    "softmax": SOFTMAX,
    "matmul": MATMUL,
    "output": OUTPUT,
}
"""Kinds that are not here void the verdict on their path."""
