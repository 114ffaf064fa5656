"""Calls that leave the project: torch, the standard library, and libraries that make whole models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradlint.graph.model import InitLaw
from gradlint.source import configuration
from gradlint.source.reader import environments, laws
from gradlint.source.reader.arrays import OTHER_CREATORS
from gradlint.source.reader.creation import CREATORS
from gradlint.source.reader.external_names import (
    MATH,
    MODEL_LIBRARIES,
    NOT_MODELS,
    SPECTRAL,
    WRAPPERS,
)
from gradlint.source.reader.layers import CONTAINERS, LAYERS
from gradlint.source.reader.libraries import Libraries
from gradlint.source.reader.torchvision_blocks import CONVOLUTION_BLOCKS, convolution_block
from gradlint.source.reader.values import (
    CHECKPOINT,
    Array,
    Choice,
    External,
    Module,
    Native,
    Site,
    Tensor,
    Unknown,
    UserClass,
    contains_tensor,
    is_plain,
)
from gradlint.source.reader.whole_numbers import whole_numbers


class Externals(Libraries):
    """Calls things that are not written in the project."""

    def make_torch(
        self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site, cls: UserClass | None = None
    ) -> Module:
        """An instance of a torch.nn class."""
        raise NotImplementedError

    def call_external(self, callee: External, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """Call something outside the project."""
        name = callee.name
        first, _, rest = name.partition(".")
        if not rest:
            return self._call_builtin(name, args, kwargs, site)
        if first == "torch":
            return self._call_torch(name, args, kwargs, site)
        if first in ("math", "numpy", "np", "cmath"):
            return self._call_math(callee, args, kwargs, site)
        if name.endswith(configuration.LOADERS):
            return self._configuration(name, args, site)
        if name in ("copy.deepcopy", "copy.copy"):
            return self.copied(args[0], site, deep=name.endswith("deepcopy")) if args else Unknown(name)
        if first in (
            "collections",
            "functools",
            "itertools",
            "argparse",
            "importlib",
            "types",
            "os",
            "operator",
            "easydict",
        ):
            return self._call_library(name, args, kwargs, site)
        if first == "timm" or name.startswith("torchvision.ops"):
            if callee.last in ("DropPath", "StochasticDepth"):
                return self.make_torch(callee.last, args, kwargs, site)
            if callee.last in laws.SIGNATURES:
                return self.init_call(callee.last, args, kwargs, site)
            if callee.last in ("to_2tuple", "to_ntuple", "to_3tuple") and args:
                return args[0] if isinstance(args[0], tuple) else (args[0],) * (3 if "3" in name else 2)
        if first == "torchvision" and callee.last in CONVOLUTION_BLOCKS:
            return convolution_block(self.make_torch, self.call, callee.last, args, kwargs, site)
        if name in environments.MAKERS:
            return environments.made(args[0] if args else kwargs.get("id")) or Unknown(f"the value of `{name}(…)`")
        if ".wrappers." in name and callee.last in environments.SAME_SPACES and args:
            return args[0]
        if name.startswith(MODEL_LIBRARIES) and self._makes_model(name):
            return self.opaque_module(name, args, kwargs, site)
        if self.operations is not None and contains_tensor([*args, *kwargs.values()]):
            return self._foreign(name, args, kwargs, site)
        if callee.last in ("weight_init", "load_pretrained"):
            return Unknown(name)
        return Unknown(f"the value of `{name}(…)`")

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

    def _makes_model(self, name: str) -> bool:
        lower = name.lower()
        if any(part in lower for part in NOT_MODELS):
            return False
        if name.startswith("transformers"):
            return name.endswith((".from_pretrained", ".from_config")) or "Model" in name or "For" in name
        if name.startswith(("timm", "open_clip", "clip")):
            return (
                "create_model" in name
                or ".models." in name
                or name.endswith(("clip.load", "create_model_and_transforms"))
            )
        return True

    def opaque_module(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Module:
        """A model from a library, whose graph cannot be read here."""
        module = Module("Module", None, site, opaque=f"`{name}` is not written in this project", phase=self.phase)
        module.torch = name
        module.inner = self.building > 0
        weights = kwargs.get("weights", kwargs.get("pretrained", False))
        module.pretrained = name.endswith(("from_pretrained", "hub.load")) or (
            weights is not None and weights is not False
        )
        module.attributes["*call*"] = (args, kwargs)
        self.modules.append(module)
        self.events += 1
        return module

    def _call_torch(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        last = name.rpartition(".")[2]
        if last in LAYERS and name == f"torch.nn.{last}":
            return self.make_torch(last, args, kwargs, site)
        if name in ("torch.nn.Parameter", "torch.nn.UninitializedParameter"):
            return self._parameter(args, kwargs, site)
        if name.startswith("torch.nn.init.") or ".init." in name:
            if last == "calculate_gain":
                gain = laws.gain_of(*(args[:2] if args else [kwargs.get("nonlinearity")]))
                return Unknown("gain", numeric=True) if gain is None else gain
            if last == "_calculate_fan_in_and_fan_out" and args and isinstance(args[0], Array):
                return tuple(Unknown("fan", numeric=True) if f is None else f for f in laws.fans(args[0].shape))
            if last == "_calculate_correct_fan" and args and isinstance(args[0], Array):
                fan = laws.fans(args[0].shape)[1 if "fan_out" in args else 0]
                return Unknown("fan", numeric=True) if fan is None else fan
            return self.init_call(last, args, kwargs, site)
        if name in ("torch.autograd.Variable", "torch.nn.utils.rnn.pack_padded_sequence"):
            return args[0] if args else next(iter(kwargs.values()), Unknown(name))
        if name == "torch.nn.utils.rnn.pad_packed_sequence":
            return (args[0] if args else Unknown(name)), Unknown("lengths", tensor=True)
        if name.endswith(".data_parallel") and len(args) > 1:
            return self.call(args[0], args[1] if isinstance(args[1], list) else [args[1]], {}, site)
        if name == "torch.nn.Embedding.from_pretrained":
            made = self.make_torch("Embedding", [], {}, site)
            made.parameters["weight"].law = InitLaw("pretrained", origin="pretrained", location=site.location)
            made.parameters["weight"].trainable = kwargs.get("freeze", True) is False
            return made
        if name in WRAPPERS:
            return args[0] if args else kwargs.get("module", kwargs.get("model", Unknown(name)))
        if name in SPECTRAL and args:
            if isinstance(args[0], Module):
                for key, array in args[0].parameters.items():
                    if key.startswith("weight") and isinstance(array, Array):
                        array.law = replace(
                            array.law, distribution="other", std=None, gain_squared=None, scheme="spectral_norm"
                        )
            return args[0]
        if (
            name.startswith("torch.nn.")
            and name.count(".") == 2
            and (last[:1].isupper() or last in LAYERS or last in CONTAINERS)
        ):
            return self.make_torch(last, args, kwargs, site)
        if name == "torch.load":
            return Unknown("a checkpoint", prefix=CHECKPOINT)
        if name.startswith("torch.distributions.") and self.operations is not None:
            return tuple(v for v in (*args, *kwargs.values()) if isinstance(v, (Tensor, Array)))
        if name == "torch.is_grad_enabled":
            return True
        if name in ("torch.is_tensor",):
            return (
                isinstance(args[0], (Tensor, Array))
                if args and not isinstance(args[0], (Unknown, Choice))
                else Unknown(name)
            )
        if name in ("torch.hub.load", "torch.hub.load_state_dict_from_url"):
            return (
                self.opaque_module(name, args, kwargs, site)
                if last == "load"
                else Unknown("a checkpoint", prefix=CHECKPOINT)
            )
        if name in ("torch.cuda.is_available", "torch.cuda.device_count", "torch.backends.mps.is_available"):
            return Unknown(name)
        creates = last in CREATORS or last in OTHER_CREATORS
        if not creates and name.startswith(
            ("torch.optim", "torch.utils.data", "torch.cuda", "torch.distributed", "torch.save")
        ):
            return Unknown(name)
        if name == "torch.utils.checkpoint.checkpoint" and args:
            return self.call(args[0], args[1:], {}, site)
        if name in ("torch.utils.checkpoint.checkpoint_sequential",) and len(args) > 2:
            return self.call(args[0], args[2:], {}, site)
        values = [*args, *kwargs.values()]
        if self.operations is not None:
            given = [a for v in values for a in (v if isinstance(v, (list, tuple)) else [v])]
            if contains_tensor(values) or any(self.is_weight(a) for a in given):
                return self.operations.function(last, args, kwargs, site)
            if any(isinstance(a, Array) for a in given) and last not in CREATORS and last not in OTHER_CREATORS:
                return self.operations.function(last, args, kwargs, site)
        if (
            last == "linspace"
            and self.operations is None
            and len(args) == 3
            and all(laws.number(a) is not None for a in args)
        ):
            return self._call_math(External("math.linspace"), args, {}, site)
        if last in CREATORS or last in OTHER_CREATORS:
            return self.make_array(last, args, kwargs, site)
        if last in ("sqrt", "exp", "log", "pow", "linspace") and args and isinstance(args[0], (int, float)):
            return self._call_math(External(f"math.{last}"), args, kwargs, site)
        if args and isinstance(args[0], Array):
            method = self.array_method(args[0], last, site)
            return method.call(args[1:], kwargs, site) if isinstance(method, Native) else method
        tensor = any(isinstance(v, Unknown) and v.tensor for v in values)
        return Unknown(f"the value of `{name}(…)`", tensor=tensor)

    def _parameter(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        source = args[0] if args else kwargs.get("data")
        trainable = kwargs.get("requires_grad", args[1] if len(args) > 1 else True)
        if isinstance(source, (int, float)):
            source = self.make_array("tensor", [float(source)], {}, site)
        if isinstance(source, Choice):
            source = next((v for v in source.values if isinstance(v, Array)), None)
        if not isinstance(source, Array):
            source = self.new_array(None, InitLaw("unknown", origin="explicit", location=site.location), site)
        law = laws.for_shape(source.law, source.shape)
        law = replace(law, location=law.location or site.location, origin="explicit")
        made = Array(
            source.shape, law, True, trainable=trainable is not False, site=site, phase=self.phase, level=self.regions
        )
        self.events += 1
        return made

    def _call_math(self, callee: External, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        name, last = callee.name, callee.last
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
            return Unknown(f"the value of `{callee.name}(…)`", numeric=True)
        if last == "pow" and not all(isinstance(a, (int, float)) and abs(a) < 1e4 for a in args):
            return Unknown(last, numeric=True)
        try:
            return function(*args)
        except (TypeError, ValueError, ArithmeticError):
            return Unknown(f"`{callee.name}` fails", numeric=True)
