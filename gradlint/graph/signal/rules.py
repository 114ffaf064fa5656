"""The table of transfer rules, by kind of operation."""

from __future__ import annotations

from gradlint.graph.signal.activation import ACTIVATION
from gradlint.graph.signal.add import ADD, SCALE
from gradlint.graph.signal.attention import ATTENTION
from gradlint.graph.signal.concat import CAT
from gradlint.graph.signal.dropout import DROPOUT, OUTPUT
from gradlint.graph.signal.embedding import EMBEDDING
from gradlint.graph.signal.linear import LINEAR
from gradlint.graph.signal.matmul import MATMUL
from gradlint.graph.signal.multiply import MUL
from gradlint.graph.signal.normalization import NORMALIZATION
from gradlint.graph.signal.pooling import POOL
from gradlint.graph.signal.recurrent import RECURRENT
from gradlint.graph.signal.reduction import REDUCE
from gradlint.graph.signal.reshape import RESHAPE
from gradlint.graph.signal.softmax import SOFTMAX
from gradlint.graph.signal.sources import CONSTANT, INPUT, PARAMETER
from gradlint.graph.signal.transfer import Transfer
from gradlint.graph.signal.upsample import UPSAMPLE

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
