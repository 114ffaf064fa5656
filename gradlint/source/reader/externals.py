"""Calls that leave the project: torch, the standard library, and libraries that make whole models."""

from __future__ import annotations

import builtins
import copy
import math
import operator
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from gradlint.graph.model import InitLaw
from gradlint.source.reader import environments, laws
from gradlint.source.reader.arrays import OTHER_CREATORS, Arrays
from gradlint.source.reader.creation import CREATORS
from gradlint.source.reader.layers import CONTAINERS, LAYERS
from gradlint.source.reader.values import (
    Array,
    Choice,
    External,
    Function,
    Instance,
    Module,
    Native,
    Site,
    Tensor,
    Unknown,
    UserClass,
    contains_tensor,
    is_plain,
)

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

MAX_RANGE = 100_000


class Externals(Arrays):
    """Calls things that are not written in the project."""

    def make_torch(
        self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site, cls: UserClass | None = None
    ) -> Module:
        """An instance of a torch.nn class."""
        raise NotImplementedError

    def builtin(self, name: str) -> Any:
        """A Python built-in, or Unknown for a name that nothing binds."""
        if name in PLAIN_CALLS or name in TYPES or hasattr(builtins, name):
            return External(name)
        return Unknown(f"`{name}` is not defined in the project")

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

    # -- torch ---------------------------------------------------------------------------------------------------

    def _call_torch(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        last = name.rpartition(".")[2]
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
            return Unknown("a checkpoint", prefix="checkpoint")
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
                else Unknown("a checkpoint", prefix="checkpoint")
            )
        if name in ("torch.cuda.is_available", "torch.cuda.device_count", "torch.backends.mps.is_available"):
            return Unknown(name)
        if name.startswith(("torch.optim", "torch.utils.data", "torch.cuda", "torch.distributed", "torch.save")):
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

    # -- the standard library ------------------------------------------------------------------------------------

    def _call_library(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        match name:
            case "collections.OrderedDict":
                return self._dict(args, kwargs, site)
            case "collections.defaultdict":
                return {}
            case "collections.namedtuple" if len(args) > 1:
                fields = args[1].replace(",", " ").split() if isinstance(args[1], str) else args[1]
                if isinstance(fields, (list, tuple)) and all(isinstance(f, str) for f in fields):
                    defaults = dict(zip(reversed(fields), reversed(kwargs.get("defaults") or []), strict=False))
                    return Native(
                        "namedtuple",
                        lambda a, k, s: Instance(None, {**defaults, **dict(zip(fields, a, strict=False)), **k}),
                    )
            case "functools.partial" if args:
                return Native("partial", lambda a, k, s: self.call(args[0], [*args[1:], *a], {**kwargs, **k}, s))
            case "functools.reduce" if len(args) > 1:
                items = self.items(args[1], site)
                if items:
                    total = args[2] if len(args) > 2 else items.pop(0)
                    for item in items:
                        total = self.call(args[0], [total, item], {}, site)
                    return total
            case "itertools.chain" | "itertools.chain.from_iterable":
                parts = args if name.endswith("chain") else (self.items(args[0], site) or []) if args else []
                lists = [self.items(p, site) for p in parts]
                if all(x is not None for x in lists):
                    return [v for x in lists if x is not None for v in x]
            case "itertools.product" if args and not kwargs:
                lists = [self.items(p, site) for p in args]
                if all(x is not None for x in lists) and math.prod(len(x) for x in lists if x is not None) < MAX_RANGE:
                    import itertools

                    return [tuple(p) for p in itertools.product(*[x for x in lists if x is not None])]
            case "importlib.import_module" if args:
                return self._imported(args[0], site)
            case "types.SimpleNamespace":
                return Instance(None, dict(kwargs))
            case "easydict.EasyDict":
                return Instance(None, {**(args[0] if args and isinstance(args[0], dict) else {}), **kwargs}, open=True)
            case "argparse.ArgumentParser":
                return Instance(None, {"*arguments*": {}})
            case "argparse.Namespace":
                return Instance(None, dict(kwargs))
            case "operator.mul" | "operator.add" if len(args) == 2 and all(isinstance(a, (int, float)) for a in args):
                return args[0] * args[1] if name.endswith("mul") else args[0] + args[1]
            case "os.path.join" if args and all(isinstance(a, str) for a in args):
                return "/".join(args)
            case "os.path.dirname" | "os.path.abspath" | "os.getcwd":
                return Unknown(name)
        return Unknown(f"the value of `{name}(…)`")

    def _imported(self, name: Any, site: Site) -> Any:
        frame = self.file_frame(site.file)
        if isinstance(name, str):
            return self.import_module(name.lstrip("."), frame)
        if not isinstance(name, Unknown) or not name.prefix:
            return Unknown("a module whose name is not known")
        found = self.submodules(name.prefix, frame)
        if name.choices:
            found = [f for f in found if f.rpartition(".")[2] in name.choices] or found
        if not found:
            return Unknown("a module whose name is not known")
        key = (site.file.path, getattr(site.node, "lineno", 0))
        self.forks[key] = len(found)
        chosen = found[min(self.decisions.get(key, 0), len(found) - 1)]
        if name.source is not None:
            name.source.settled = chosen.removeprefix(name.prefix)
        return self.import_module(chosen, frame)

    def parser_method(self, parser: Instance, name: str) -> Any:
        """Methods of argparse.ArgumentParser."""
        arguments: dict[str, Any] = parser.attributes["*arguments*"]

        def add(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            flags = [a for a in args if isinstance(a, str)]
            if flags:
                longest = next((f for f in flags if f.startswith("--")), flags[0])
                key = kwargs.get("dest") or longest.lstrip("-").replace("-", "_")
                arguments[key] = _default_argument(longest, kwargs)
            return Unknown("argument")

        def parse(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            return Instance(None, dict(arguments), open=True)

        def group(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            return parser

        def defaults(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            arguments.update(kwargs)
            return None

        if name == "add_argument":
            return Native(name, add)
        if name in ("parse_args", "parse_intermixed_args"):
            return Native(name, parse)
        if name == "parse_known_args":
            return Native(name, lambda a, k, s: (parse(a, k, s), []))
        if name in ("add_argument_group", "add_mutually_exclusive_group"):
            return Native(name, group)
        if name == "set_defaults":
            return Native(name, defaults)
        return Native(name, lambda a, k, s: Unknown(name))

    def _dict(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        table: Any = OrderedDict()
        if args:
            if isinstance(args[0], dict):
                table.update(args[0])
            else:
                for pair in self.items(args[0], site) or []:
                    parts = self.items(pair, site) if not isinstance(pair, str) else None
                    if parts is not None and len(parts) == 2 and is_plain(parts[0]):
                        try:
                            table[parts[0]] = parts[1]
                        except TypeError:
                            continue
        table.update(kwargs)
        return table

    def _call_builtin(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        method = getattr(self, f"_builtin_{name}", None)
        if method is not None:
            return method(args, kwargs, site)
        if name in PLAIN_CALLS:
            if name in ("int", "float", "abs", "round") and args and isinstance(args[0], Tensor):
                return (
                    self.operations.function("abs", args, {}, site)
                    if name == "abs" and self.operations
                    else Unknown(name, numeric=True)
                )
            if all(is_plain(a) for a in (*args, *kwargs.values())):
                if name == "pow" and not all(isinstance(a, (int, float)) and abs(a) < 1e4 for a in args):
                    return Unknown(name, numeric=True)
                if name == "bytes":
                    return Unknown(name)
                try:
                    return PLAIN_CALLS[name](*args, **kwargs)
                except Exception:
                    return Unknown(f"`{name}` fails")
            return Unknown(f"the value of `{name}(…)`", numeric=name in ("int", "float", "abs", "round"))
        if self.operations is not None and name not in ("print", "id", "repr") and contains_tensor(args):
            return self.operations.unknown(name, args, kwargs, site)
        return Unknown(f"the value of `{name}(…)`")

    def _builtin_print(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return None

    def _builtin_len(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        value = args[0] if args else None
        if isinstance(value, (str, list, tuple, dict, set, range)):
            return len(value)
        if isinstance(value, Module):
            return len(value.children or value.parameters)
        if isinstance(value, (Tensor, Array)) and value.shape and value.shape[0] is not None:
            return value.shape[0]
        return Unknown("a length", numeric=True)

    def _builtin_range(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if args and all(isinstance(a, int) for a in args):
            try:
                return range(*args)
            except (TypeError, ValueError):
                return Unknown("range")
        return Unknown("a range of unknown length", numeric=True)

    def _builtin_list(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else []
        if items is None and args and isinstance(args[0], Unknown):
            return args[0]
        return list(items) if items is not None else Unknown("a list")

    def _builtin_tuple(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else []
        return tuple(items) if items is not None else Unknown("a tuple")

    def _builtin_set(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else []
        return (
            set(items)
            if items is not None and all(isinstance(i, (str, int, float)) for i in items)
            else Unknown("a set")
        )

    def _builtin_dict(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return dict(self._dict(args, kwargs, site))

    def _builtin_iter(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return args[0] if args else Unknown("iter")

    def _builtin_next(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else None
        return items[0] if items and isinstance(args[0], (list, tuple)) else Unknown("the next element")

    def _builtin_enumerate(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else None
        start = kwargs.get("start", args[1] if len(args) > 1 else 0)
        if items is None or not isinstance(start, int):
            return Unknown("an enumeration")
        return [(i + start, v) for i, v in enumerate(items)]

    def _builtin_zip(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        lists = [self.items(a, site) for a in args]
        if any(x is None for x in lists):
            return Unknown("a zip")
        return [tuple(p) for p in zip(*[x for x in lists if x is not None], strict=False)]

    def _builtin_reversed(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else None
        return Unknown("reversed") if items is None else items[::-1]

    def _builtin_sorted(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else None
        if items is None or not all(is_plain(i) for i in items) or "key" in kwargs:
            return Unknown("sorted")
        try:
            return sorted(items, reverse=kwargs.get("reverse") is True)
        except TypeError:
            return Unknown("sorted")

    def _builtin_map(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        lists = [self.items(a, site) for a in args[1:]]
        if not lists or any(x is None for x in lists):
            return Unknown("a map")
        return [self.call(args[0], list(p), {}, site) for p in zip(*[x for x in lists if x is not None], strict=False)]

    def _builtin_filter(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[1], site) if len(args) > 1 else None
        if items is None:
            return Unknown("a filter")
        kept = []
        for item in items:
            truth = self.truth(item if args[0] is None else self.call(args[0], [item], {}, site))
            if truth is None:
                return Unknown("a filter")
            if truth:
                kept.append(item)
        return kept

    def _reduce(self, args: list[Any], kwargs: dict[str, Any], site: Site, name: str) -> Any:
        if self.operations is not None and contains_tensor(args):
            if name == "sum":
                items = self.items(args[0], site)
                total: Any = args[1] if len(args) > 1 else 0
                for item in items or []:
                    total = (
                        self.operations.arithmetic("add", total, item, site) if contains_tensor([total, item]) else item
                    )
                if items:
                    return total
            return self.operations.function(name, args, {}, site)
        values = self.items(args[0], site) if len(args) == 1 else args
        if values and all(isinstance(v, (int, float)) for v in values):
            start = kwargs.get("start", 0)
            return MATH[name](values) + (start if name == "sum" and is_plain(start) else 0)
        return (
            kwargs["default"]
            if values == [] and "default" in kwargs
            else 0
            if values == [] and name == "sum"
            else Unknown(name, numeric=True)
        )

    def _builtin_sum(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if len(args) == 2 and isinstance(args[1], list):
            lists = self.items(args[0], site)
            if lists is not None and all(isinstance(x, list) for x in lists):
                return [v for x in lists for v in x]
        return self._reduce(args, kwargs, site, "sum")

    def _builtin_max(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._reduce(args, kwargs, site, "max")

    def _builtin_min(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._reduce(args, kwargs, site, "min")

    def _quantify(self, args: list[Any], site: Site, wanted: bool) -> Any:
        items = self.items(args[0], site) if args else None
        if items is None:
            return Unknown("a condition that is not known")
        truths = [self.truth(i) for i in items]
        if wanted in truths:
            return wanted
        return Unknown("a condition that is not known") if None in truths else not wanted

    def _builtin_any(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._quantify(args, site, True)

    def _builtin_all(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._quantify(args, site, False)

    def _builtin_callable(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if args and isinstance(args[0], (Unknown, Choice)):
            return Unknown("callable")
        return bool(args) and not is_plain(args[0])

    def _builtin_isinstance(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        known = self.is_instance(args[0], args[1]) if len(args) == 2 else None
        return Unknown("a type that is not known") if known is None else known

    def _builtin_issubclass(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if len(args) == 2 and isinstance(args[0], UserClass):
            return args[1] in args[0].ancestors
        return Unknown("issubclass")

    def is_instance(self, value: Any, kind: Any) -> bool | None:
        """isinstance(value, kind), None if it is not known."""
        raise NotImplementedError

    def _builtin_type(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        value = args[0] if len(args) == 1 else None
        match value:
            case Module(cls=None):
                return External(f"torch.nn.{value.torch}" if value.opaque is None else value.torch)
            case Module(cls=cls) | Instance(cls=cls) if cls is not None:
                return cls
            case bool() | int() | float() | str() | list() | tuple() | dict() | set():
                return External(type(value).__name__)
        return Unknown("a type")

    def _builtin_hasattr(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if len(args) != 2 or not isinstance(args[1], str) or isinstance(args[0], (Unknown, Choice)):
            return Unknown("hasattr")
        value = self.attribute(args[0], args[1], site)
        if isinstance(value, Unknown):
            return False if value.reason.startswith("no attribute") else Unknown("hasattr")
        return True

    def _builtin_getattr(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if len(args) < 2 or not isinstance(args[1], str):
            return Unknown("an attribute whose name is not known")
        value = self.attribute(args[0], args[1], site)
        if len(args) > 2 and isinstance(value, Unknown) and value.reason.startswith("no attribute"):
            return args[2]
        return value

    def _builtin_setattr(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if len(args) == 3 and isinstance(args[1], str):
            self.set_attribute(args[0], args[1], args[2], site)
        return None

    def set_attribute(self, owner: Any, name: str, value: Any, site: Site) -> None:
        """owner.name = value."""
        raise NotImplementedError

    def _builtin_vars(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        value = args[0] if args else None
        return dict(value.attributes) if isinstance(value, Instance) else Unknown("vars")

    def _builtin_eval(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        import ast

        if args and isinstance(args[0], str) and len(args[0]) < 500:
            try:
                tree = ast.parse(args[0].strip(), mode="eval")
            except (SyntaxError, ValueError):
                return Unknown("eval")
            for node in ast.walk(tree.body):
                ast.copy_location(node, site.node)
            return self.evaluate(tree.body, self.file_frame(site.file))
        return Unknown("eval")

    def _builtin_isfunction(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return bool(args) and isinstance(args[0], Function)

    def copied(self, value: Any, site: Site, deep: bool) -> Any:
        """copy.copy or copy.deepcopy."""
        if isinstance(value, Module):
            memo: dict[int, Any] = {}
            value.owned |= self.building > 0
            return self._copy_module(value, memo)
        if isinstance(value, Instance):
            return Instance(value.cls, dict(value.attributes), value.open)
        if isinstance(value, (list, dict, tuple, set)):
            if deep and not is_plain(value):
                if isinstance(value, dict):
                    return {k: self.copied(v, site, deep) for k, v in value.items()}
                return type(value)(self.copied(v, site, deep) for v in value)
            return copy.deepcopy(value) if deep else copy.copy(value)
        return value

    def _copy_module(self, module: Module, memo: dict[int, Any]) -> Module:
        if id(module) in memo:
            found: Module = memo[id(module)]
            return found
        made = copy.copy(module)
        memo[id(module)] = made
        made.owned = False

        made.variable = ""
        made.inner = module.inner or self.building > 0
        self.modules.append(made)
        self.events += 1

        def part(value: Any) -> Any:
            if isinstance(value, Module):
                child = self._copy_module(value, memo)
                child.owned = child.owned or value.owned
                return child
            if isinstance(value, Array):
                if id(value) not in memo:
                    law = value.law
                    if law.distribution != "constant":
                        value.law = law = replace(law, draw=law.draw or f"draw{len(self.modules)}-{len(memo)}")
                    memo[id(value)] = replace(value, law=law)
                return memo[id(value)]
            if isinstance(value, list):
                return [part(v) for v in value]
            return value

        made.parameters = {k: part(v) for k, v in module.parameters.items()}
        made.children = {k: part(v) for k, v in module.children.items()}
        made.attributes = {k: part(v) for k, v in module.attributes.items()}
        made.arguments = dict(module.arguments)
        return made


def _default_argument(flag: str, kwargs: dict[str, Any]) -> Any:
    action = kwargs.get("action")
    choices = tuple(kwargs["choices"]) if isinstance(kwargs.get("choices"), (list, tuple)) else ()
    if "default" in kwargs:
        default = kwargs["default"]
        kind = kwargs.get("type")
        if isinstance(default, str) and isinstance(kind, External) and kind.name in ("int", "float"):
            try:
                return int(default) if kind.name == "int" else float(default)
            except ValueError:
                return Unknown(f"the default of {flag}")
        return default
    if action == "store_true":
        return False
    if action == "store_false":
        return True
    if kwargs.get("required") is True or not flag.startswith("-"):
        return Unknown(f"the argument {flag}", choices=choices)
    return None
