"""Calls of torch: what each of its names does with its arguments, decided once a name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradlint.graph.model import InitLaw
from gradlint.source.reader import laws
from gradlint.source.reader.arrays import OTHER_CREATORS
from gradlint.source.reader.creation import CREATORS
from gradlint.source.reader.external_names import SPECTRAL, WRAPPERS
from gradlint.source.reader.layers import CONTAINERS, LAYERS
from gradlint.source.reader.libraries import Libraries
from gradlint.source.reader.values import (
    CHECKPOINT,
    Array,
    Choice,
    Module,
    Native,
    NativeCall,
    Site,
    Tensor,
    Unknown,
    UserClass,
    contains_tensor,
)

VALUELESS = (
    *("torch.optim", "torch.utils.data", "torch.cuda", "torch.distributed", "torch.save"),
    "torch.backends.mps.is_available",
)
"""Parts of torch that compute nothing with tensors, apart from what in them makes one."""


class TorchCalls(Libraries):
    """Calls the classes and functions of torch."""

    def make_torch(
        self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site, cls: UserClass | None = None
    ) -> Module:
        """An instance of a torch.nn class."""
        raise NotImplementedError

    def torch_call(self, name: str) -> NativeCall:
        """What a call of a name in torch does."""
        last = name.rpartition(".")[2]
        is_class = name == f"torch.nn.{last}" and (last[:1].isupper() or last in LAYERS or last in CONTAINERS)
        match name:
            case "torch.nn.Parameter" | "torch.nn.UninitializedParameter":
                return self._parameter
            case "torch.autograd.Variable" | "torch.nn.utils.rnn.pack_padded_sequence":
                return lambda args, kwargs, site: args[0] if args else next(iter(kwargs.values()), Unknown(name))
            case "torch.nn.utils.rnn.pad_packed_sequence":
                return lambda args, kwargs, site: (args[0] if args else Unknown(name), Unknown("lengths", tensor=True))
            case "torch.nn.Embedding.from_pretrained":
                return self._pretrained_embedding
            case "torch.load" | "torch.hub.load_state_dict_from_url":
                return lambda args, kwargs, site: Unknown("a checkpoint", prefix=CHECKPOINT)
            case "torch.hub.load":
                return lambda args, kwargs, site: self.opaque_module(name, args, kwargs, site)
            case "torch.is_grad_enabled":
                return lambda args, kwargs, site: True
            case "torch.is_tensor":
                return self._is_tensor
            case _ if name in WRAPPERS:
                return lambda args, kwargs, site: (
                    args[0] if args else kwargs.get("module", kwargs.get("model", Unknown(name)))
                )
            case _ if is_class:
                return lambda args, kwargs, site: self.make_torch(last, args, kwargs, site)
            case _ if ".init." in name:
                return lambda args, kwargs, site: self._initialise(last, args, kwargs, site)
            case _ if name.startswith(VALUELESS) and last not in CREATORS and last not in OTHER_CREATORS:
                return lambda args, kwargs, site: Unknown(name)
        return self._torch_function(name, last)

    def _torch_function(self, name: str, last: str) -> NativeCall:
        """What a function of torch does: some return their argument or call it, all others compute with tensors."""

        def compute(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            return self._compute(name, last, args, kwargs, site)

        def call_argument(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            match last:
                case "data_parallel" if len(args) > 1:
                    return self.call(args[0], args[1] if isinstance(args[1], list) else [args[1]], {}, site)
                case "checkpoint" if args:
                    return self.call(args[0], args[1:], {}, site)
                case "checkpoint_sequential" if len(args) > 2:
                    return self.call(args[0], args[2:], {}, site)
            return compute(args, kwargs, site)

        def sample(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            if self.operations is None:
                return compute(args, kwargs, site)
            return tuple(v for v in (*args, *kwargs.values()) if isinstance(v, (Tensor, Array)))

        if name.endswith((".data_parallel", "utils.checkpoint.checkpoint", "utils.checkpoint.checkpoint_sequential")):
            return call_argument
        if name in SPECTRAL:
            return lambda args, kwargs, site: _spectrally_normalised(args[0]) if args else compute(args, kwargs, site)
        return sample if name.startswith("torch.distributions.") else compute

    def _compute(self, name: str, last: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """A function over tensors: a node of the graph, a law of an array, a number."""
        creates = last in CREATORS or last in OTHER_CREATORS
        values = [*args, *kwargs.values()] if kwargs else args
        if self.operations is not None:
            if contains_tensor(values):
                return self.operations.function(last, args, kwargs, site)
            given = [a for v in values for a in (v if isinstance(v, (list, tuple)) else [v]) if isinstance(a, Array)]
            if any(self.is_weight(a) for a in given) or (given and not creates):
                return self.operations.function(last, args, kwargs, site)
        elif last == "linspace" and len(args) == 3 and all(laws.number(a) is not None for a in args):
            return self.call_math("math.linspace", last, args, {}, site)
        if creates:
            return self.make_array(last, args, kwargs, site)
        if last in ("sqrt", "exp", "log", "pow") and args and isinstance(args[0], (int, float)):
            return self.call_math(f"math.{last}", last, args, kwargs, site)
        if args and isinstance(args[0], Array):
            method = self.array_method(args[0], last, site)
            return method.call(args[1:], kwargs, site) if isinstance(method, Native) else method
        tensor = any(isinstance(v, Unknown) and v.tensor for v in values)
        return Unknown(f"the value of `{name}(…)`", tensor=tensor)

    def _is_tensor(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        known = args and not isinstance(args[0], (Unknown, Choice))
        return isinstance(args[0], (Tensor, Array)) if known else Unknown("torch.is_tensor")

    def _initialise(self, last: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """A function of torch.nn.init."""
        match last:
            case "calculate_gain":
                gain = laws.gain_of(*(args[:2] if args else [kwargs.get("nonlinearity")]))
                return Unknown("gain", numeric=True) if gain is None else gain
            case "_calculate_fan_in_and_fan_out" if args and isinstance(args[0], Array):
                return tuple(Unknown("fan", numeric=True) if f is None else f for f in laws.fans(args[0].shape))
            case "_calculate_correct_fan" if args and isinstance(args[0], Array):
                fan = laws.fans(args[0].shape)[1 if "fan_out" in args else 0]
                return Unknown("fan", numeric=True) if fan is None else fan
        return self.init_call(last, args, kwargs, site)

    def _pretrained_embedding(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Module:
        made = self.make_torch("Embedding", [], {}, site)
        made.parameters["weight"].law = InitLaw("pretrained", origin="pretrained", location=site.location)
        made.parameters["weight"].trainable = kwargs.get("freeze", True) is False
        return made

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

    def call_math(self, name: str, last: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """A function of math or numpy."""
        raise NotImplementedError


def _spectrally_normalised(module: Any) -> Any:
    """A layer whose weight is divided by its largest singular value."""
    if isinstance(module, Module):
        for name, array in module.parameters.items():
            if name.startswith("weight") and isinstance(array, Array):
                array.law = replace(
                    array.law, distribution="other", std=None, gain_squared=None, scheme="spectral_norm"
                )
    return module
