"""Names from outside the project: what makes models, what wraps them, what is plain arithmetic."""

from __future__ import annotations

import math
import operator
from typing import Any

MODEL_LIBRARIES = (
    "torchvision.models",
    "timm",
    "transformers",
    "torch.hub.load",
    "efficientnet_pytorch",
    "segmentation_models_pytorch",
    "pretrainedmodels",
    "open_clip",
    "clip",
    "monai.networks",
    "torchaudio.models",
    "torchaudio.pipelines",
    "ultralytics",
    "diffusers",
    "sentence_transformers",
    "peft",
    "unsloth",
    "torch_geometric.nn",
    "dgl.nn",
)
"""Where ready-made models come from; their layers cannot be read from the project's source."""


NOT_MODELS = (
    "token",
    "processor",
    "config",
    "feature_extractor",
    "featureextractor",
    "transforms",
    "weights",
    "dataset",
    "collator",
    "scheduler",
    "arguments",
    "trainer",
    "callback",
    "pipeline",
    "list_models",
    "data",
    "utils",
    "set_seed",
    "logging",
    "streamer",
    "schedule",
)


WRAPPERS = frozenset(
    [
        "torch.nn.DataParallel",
        "torch.nn.parallel.DataParallel",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.compile",
        "torch.jit.script",
        "torch.jit.trace",
        "torch.nn.utils.weight_norm",
        "torch.nn.utils.parametrizations.weight_norm",
        "torch.nn.utils.remove_weight_norm",
        "torch.nn.SyncBatchNorm.convert_sync_batchnorm",
        "torch.jit.script_method",
        "torch.nn.Buffer",
    ]
)


SPECTRAL = frozenset(
    [
        "torch.nn.utils.spectral_norm",
        "torch.nn.utils.parametrizations.spectral_norm",
        "torch.nn.utils.parametrizations.orthogonal",
    ]
)


MATH: dict[str, Any] = {
    **{
        n: getattr(math, n)
        for n in [
            "sqrt",
            "exp",
            "log",
            "log2",
            "log10",
            "floor",
            "ceil",
            "pow",
            "prod",
            "tanh",
            "sin",
            "cos",
            "fabs",
            "gcd",
            "hypot",
        ]
    },
    "erf": math.erf,
    "floor_divide": operator.floordiv,
    "power": operator.pow,
    "abs": abs,
    "maximum": max,
    "minimum": min,
    "int64": int,
    "float32": float,
    "square": lambda x: x * x,
    "round": round,
    "sum": sum,
    "max": max,
    "min": min,
}


CONSTANTS = {
    "math.pi": math.pi,
    "math.e": math.e,
    "math.inf": math.inf,
    "numpy.pi": math.pi,
    "torch.pi": math.pi,
    "math.tau": math.tau,
    "numpy.inf": math.inf,
    "torch.inf": math.inf,
}


TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "set": (set, frozenset),
}


PLAIN_CALLS: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "abs": abs, "round": round, "divmod": divmod, "ord": ord,
    "chr": chr, "pow": pow, "repr": repr, "bytes": bytes, "complex": complex, "bin": bin, "hex": hex,
    "frozenset": frozenset,
}  # fmt: skip
