"""What `str(type(module))` says: init functions look for "Linear" or "BatchNorm" in it."""

from __future__ import annotations

import re
from typing import Any

from gradlint.source.reader.layers import LAYERS
from gradlint.source.reader.values import External, UserClass

_FILES = (
    ("linear", r"(Lazy)?Linear|Bilinear|Identity"),
    ("conv", r"(Lazy)?Conv(Transpose)?[123]d"),
    ("batchnorm", r"(Lazy)?BatchNorm[123]d|SyncBatchNorm"),
    ("instancenorm", r"(Lazy)?InstanceNorm[123]d"),
    ("normalization", r"LayerNorm|GroupNorm|RMSNorm|LocalResponseNorm"),
    ("dropout", r"(Feature)?(Alpha)?Dropout[123]?d?"),
    ("sparse", r"Embedding(Bag)?"),
    ("rnn", r"(RNN|LSTM|GRU)(Cell)?"),
    ("container", r"Sequential|ModuleList|ModuleDict"),
    ("pooling", r"(Adaptive)?(Max|Avg)Pool[123]d"),
)
"""The files of torch/nn/modules by the classes that they define."""


def class_text(value: Any) -> str | None:
    """str(class) for a module class, None for every other value."""
    match value:
        case UserClass():
            return f"<class '{value.frame.names.get('__name__', '__main__')}.{value.name}'>"
        case External() if value.name == f"torch.nn.{value.last}":
            file = next((f for f, names in _FILES if re.fullmatch(names, value.last)), None)
            if file is None and value.last in LAYERS and LAYERS[value.last].kind == "activation":
                file = "activation"
            return f"<class 'torch.nn.modules.{file}.{value.last}'>" if file else None
    return None
