"""Calls that leave the project: torch, the standard library, and libraries that make whole models."""

from __future__ import annotations

from typing import Any

from gradlint.source import configuration
from gradlint.source.hydra_configuration import MAKERS
from gradlint.source.model_names import is_timm_helper
from gradlint.source.project import Project
from gradlint.source.reader import environments, instantiate, laws, registries
from gradlint.source.reader.external_names import MATH, MODEL_LIBRARIES, NOT_MODELS
from gradlint.source.reader.torch_calls import TorchCalls
from gradlint.source.reader.torchvision_blocks import CONVOLUTION_BLOCKS, convolution_block
from gradlint.source.reader.values import (
    Array,
    NativeCall,
    Site,
    Unknown,
    contains_tensor,
    is_plain,
)
from gradlint.source.reader.whole_numbers import whole_numbers
from gradlint.source.registrations import TIMM_MAKERS, is_registry

STANDARD_LIBRARY = frozenset(
    ["collections", "functools", "itertools", "argparse", "importlib", "types", "os", "operator", "easydict"]
)
"""Packages, some of them beside the standard library, of which a few functions are followed."""


class _CallsByName(dict[str, NativeCall]):
    """What a call of each name outside the project does, found out once a name."""

    def __init__(self, externals: Externals) -> None:
        super().__init__()
        self._externals = externals

    def __missing__(self, name: str) -> NativeCall:
        found = self[name] = self._externals.outside_call(name)
        return found


class Externals(TorchCalls):
    """Calls things that are not written in the project."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.outside_calls = _CallsByName(self)

    def outside_call(self, name: str) -> NativeCall:
        """What a call of something outside the project does."""
        first, _, rest = name.partition(".")
        last = name.rpartition(".")[2]
        if not rest:
            return self.builtin_call(name)
        if first == "torch":
            return self.torch_call(name)
        if first in ("math", "numpy", "np", "cmath"):
            return lambda args, kwargs, site: self.call_math(name, last, args, kwargs, site)
        if name.endswith(configuration.LOADERS):
            return lambda args, kwargs, site: self._configuration(name, args, site)
        if name in MAKERS:
            return lambda args, kwargs, site: instantiate.instantiated(self, args, kwargs, site)
        if name in ("copy.deepcopy", "copy.copy"):
            deep = last == "deepcopy"
            return lambda args, kwargs, site: self.copied(args[0], site, deep) if args else Unknown(name)
        if first in STANDARD_LIBRARY:
            return lambda args, kwargs, site: self._call_library(name, args, kwargs, site)
        if name in TIMM_MAKERS:
            return lambda args, kwargs, site: self._created_by_timm(name, args, kwargs, site)
        if first == "timm" or name.startswith("torchvision.ops"):
            if last in ("DropPath", "StochasticDepth"):
                return lambda args, kwargs, site: self.make_torch(last, args, kwargs, site)
            if last in laws.SIGNATURES:
                return lambda args, kwargs, site: self.init_call(last, args, kwargs, site)
        if first == "torchvision" and last in CONVOLUTION_BLOCKS:
            return lambda args, kwargs, site: convolution_block(self.make_torch, self.call, last, args, kwargs, site)
        if name in environments.MAKERS:
            return lambda args, kwargs, site: (
                environments.made(args[0] if args else kwargs.get("id")) or Unknown(f"the value of `{name}(…)`")
            )
        return self._foreign_call(name, first, last)

    def _foreign_call(self, name: str, first: str, last: str) -> NativeCall:
        """What a call of a library that is not known in particular does."""
        if is_registry(last):
            return lambda args, kwargs, site: registries.outside_registry(site.file)
        repeats = first == "timm" or name.startswith("torchvision.ops")
        copies = {"to_2tuple": 2, "to_ntuple": 2, "to_3tuple": 3}.get(last) if repeats else None
        passes_on = ".wrappers." in name and last in environments.SAME_SPACES
        makes_model = name.startswith(MODEL_LIBRARIES) and _makes_model(name)

        def called(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            if args and copies is not None:
                return args[0] if isinstance(args[0], tuple) else (args[0],) * copies
            if args and passes_on:
                return args[0]
            if makes_model:
                return self.opaque_module(name, args, kwargs, site)
            if self.operations is not None and contains_tensor([*args, *kwargs.values()]):
                return self._foreign(name, args, kwargs, site)
            return Unknown(name if last in ("weight_init", "load_pretrained") else f"the value of `{name}(…)`")

        return called

    def _created_by_timm(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        made = registries.created_by_timm(self, args, kwargs, site)
        return made if made is not None else self.opaque_module(name, args, kwargs, site)

    def _foreign(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        assert self.operations is not None
        last = name.rpartition(".")[2]
        if name.startswith("einops"):
            if last == "einsum":
                return self.operations.builder.emit("matmul", "einsum", self.operations.operands(args, site), site)
            op = {"rearrange": "permute", "repeat": "repeat"}.get(last)
            if op:
                return self.operations.builder.emit("reshape", op, self.operations.operands(args[:1], site), site)
        if name.endswith("checkpoint.checkpoint") and args:
            return self.call(args[0], args[1:], {}, site)
        if last in ("trunc_normal_", "print", "info", "debug", "add_scalar"):
            return Unknown(name)
        return self.operations.unknown(last, args, kwargs, site)

    def call_math(self, name: str, last: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """A function of math or numpy."""
        if name.startswith(("numpy.random", "np.random")):
            if last in ("randn", "standard_normal"):
                return self.make_array("randn", args, kwargs, site)
            if last in ("rand", "random", "random_sample"):
                return self.make_array("rand", args, kwargs, site)
            if last == "normal":
                return self.make_array(
                    "normal",
                    args,
                    {("mean" if k == "loc" else "std" if k == "scale" else k): v for k, v in kwargs.items()},
                    site,
                )
            return Unknown(name, numeric=True)
        if last in ("zeros", "ones", "empty", "eye", "full"):
            return self.make_array(last, args, kwargs, site)
        if self.operations is not None and contains_tensor(args):
            return self.operations.function(last, args, kwargs, site)
        function = MATH.get(last)
        if last in ("array", "asarray") and args and (found := whole_numbers(args[0])) is not None:
            return found
        if (
            last == "linspace"
            and all(isinstance(a, (int, float)) for a in args)
            and len(args) == 3
            and 1 < args[2] <= 1000
        ):
            low, high, count = args
            return [low + (high - low) * i / (count - 1) for i in range(int(count))]
        if function is None or not all(is_plain(a) for a in args):
            if args and isinstance(args[0], Array):
                return self.new_array(args[0].shape, laws.changed(args[0].law, site.location), site)
            return Unknown(f"the value of `{name}(…)`", numeric=True)
        if last == "pow" and not all(isinstance(a, (int, float)) and abs(a) < 1e4 for a in args):
            return Unknown(last, numeric=True)
        try:
            return function(*args)
        except (TypeError, ValueError, ArithmeticError):
            return Unknown(f"`{name}` fails", numeric=True)


def _makes_model(name: str) -> bool:
    """Whether a function of a library of models makes one."""
    lower = name.lower()
    if any(part in lower for part in NOT_MODELS):
        return False
    if name.startswith("transformers"):
        return name.endswith((".from_pretrained", ".from_config")) or "Model" in name or "For" in name
    if name.startswith(("timm", "open_clip", "clip")):
        return not is_timm_helper(name) and (
            "create_model" in name or ".models." in name or name.endswith(("clip.load", "create_model_and_transforms"))
        )
    return True
