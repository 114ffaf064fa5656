"""Torch modules: how they are made, what they hold, what calling them does."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from gradlint.source.reader.entrances import forward_of
from gradlint.source.reader.externals import Externals
from gradlint.source.reader.layers import CONTAINERS, FAMILIES, LAYERS
from gradlint.source.reader.library import LIBRARY_PATHS, library
from gradlint.source.reader.parameters import built
from gradlint.source.reader.values import (
    Array,
    Choice,
    External,
    Function,
    Instance,
    Module,
    Pieces,
    Site,
    Tensor,
    Unknown,
    UserClass,
    is_plain,
    is_repeated,
)

MODULE_BASES = frozenset(
    [
        "Module",
        "LightningModule",
        "PreTrainedModel",
        "ModelMixin",
        "BaseModule",
        "PyTorchModelHubMixin",
        "FairseqEncoder",
        "FairseqDecoder",
        "MessagePassing",
    ]
)


TYPES_BY_NAME: dict[str, Any] = {
    "int": int,
    "float": (float,),
    "str": str,
    "bool": bool,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "set": (set, frozenset),
    "collections.OrderedDict": dict,
}


class Modules(Externals):
    """Makes and calls modules."""

    outer_site: Site | None = None

    def make_torch(
        self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site, cls: UserClass | None = None
    ) -> Module:
        """An instance of torch.nn.NAME."""
        found = library(name)
        if found is not None and cls is None:
            target = self.in_file(self.file_frame(found), name)
            if isinstance(target, UserClass):
                return self.construct_module(target, args, kwargs, site)
        module = Module(name, cls, self.user_site(site), inner=self.building > 0, phase=self.phase)
        self.modules.append(self.made(module))
        self.events += 1
        self.init_torch(module, name, args, kwargs, site)
        return module

    def user_site(self, site: Site) -> Site:
        """The place in the user's code that a place in the bundled torch library stands for."""
        return self.outer_site if site.file.path in LIBRARY_PATHS and self.outer_site is not None else site

    def init_torch(self, module: Module, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> None:
        """The constructor of a torch.nn class on a module that may be an instance of a project class."""
        if name in ("Sequential", "ModuleList", "ModuleDict"):
            self._fill_container(module, name, args, site)
        elif name in ("ParameterList", "ParameterDict"):
            held = args[0] if args else []
            pairs = held.items() if isinstance(held, dict) else enumerate(self.items(held, site) or [])
            module.parameters.update({str(k): v for k, v in pairs})
        elif name in LAYERS:
            module.arguments, parameters = built(name, args, kwargs)
            for role, (shape, law) in parameters.items():
                module.parameters[role] = Array(shape, law, True, site=site, phase=self.phase, level=self.regions)
            reset = module.cls.find("reset_parameters") if module.cls else None
            if isinstance(reset, Function):
                self.call_function(reset, [], {}, site, module)
        elif name not in CONTAINERS and name != "Module":
            module.arguments = dict(kwargs)

    def _fill_container(self, module: Module, name: str, args: list[Any], site: Site) -> None:
        if not args:
            return
        if len(args) == 1 and isinstance(args[0], dict):
            for key, value in args[0].items():
                self.register(module, str(key), value)
            return
        parts = list(args) if name == "Sequential" else self.items(args[0], site)
        if name == "ModuleDict" and parts is not None:
            for pair in parts:
                if isinstance(pair, (tuple, list)) and len(pair) == 2:
                    self.register(module, str(pair[0]), pair[1])
            return
        if parts is None:
            module.opaque = "how many layers it holds is not known"
            return
        for value in parts:
            self.register(module, str(len(module.children)), value)

    def register(self, owner: Module, name: str, value: Any) -> None:
        """Make a value the child `name` of a module."""
        if isinstance(value, Choice):
            for one in value.values:
                if isinstance(one, Module):
                    one.owned = True
        if isinstance(value, Module):
            value.owned = True
        self.write(owner.children, name, value)
        self.events += 1

    def construct_module(self, cls: UserClass, args: list[Any], kwargs: dict[str, Any], site: Site) -> Module:
        """An instance of a project class that is an nn.Module."""
        outside = site.file.path not in LIBRARY_PATHS
        kept = self.outer_site
        if outside:
            self.outer_site = site
        module = Module(
            cls.torch_base or "Module", cls, self.user_site(site), inner=self.building > 0, phase=self.phase
        )
        cls.instantiated = True
        self.modules.append(module)
        self.events += 1
        init = cls.find("__init__")
        self.building += 1
        try:
            if isinstance(init, Function):
                self.call_function(init, args, kwargs, site, module)
            elif cls.torch_base:
                self.init_torch(module, cls.torch_base, args, kwargs, site)
            self._adopt_class_members(module, cls)
        finally:
            self.building -= 1
            self.outer_site = kept
        return module

    def _adopt_class_members(self, module: Module, cls: UserClass) -> None:
        for base in cls.ancestors:
            if isinstance(base, External) and not self.is_module_base(base):
                continue
        post = cls.find("__post_init__")
        if isinstance(post, Function):
            self.call_function(post, [], {}, module.site, module)

    def is_module_base(self, base: External) -> bool:
        """Whether a class outside the project is an nn.Module."""
        if base.name.startswith("torch.nn.") or base.name.startswith("torch.jit.ScriptModule"):
            return base.name.count(".") == 2
        return base.last in MODULE_BASES or base.last.endswith("PreTrainedModel")

    def inherit(self, cls: UserClass, base: External) -> None:
        """Take over what a base class outside the project gives."""
        if self.is_module_base(base):
            cls.is_module = True
            name = base.last if base.name.startswith("torch.nn.") else "Module"
            source = library(name)
            target = self.in_file(self.file_frame(source), name) if source is not None else None
            if isinstance(target, UserClass) and target is not cls:
                cls.rebase(base, target)
                cls.torch_base = "Module"
            else:
                cls.torch_base = cls.torch_base or (name if name in LAYERS or name in CONTAINERS else "Module")
        elif "forward" in cls.members and not cls.is_module and base.last not in ("Function", "object", "ABC"):
            cls.is_module, cls.torch_base = True, cls.torch_base or "Module"
        elif base.last == "NamedTuple":
            cls.is_record = True

    def is_instance(self, value: Any, kind: Any) -> bool | None:
        """isinstance(value, kind), None if it is not known."""
        if isinstance(kind, (tuple, list)):
            results = [self.is_instance(value, k) for k in kind]
            return True if True in results else None if None in results else False
        if isinstance(value, (Unknown, Choice)) or isinstance(kind, (Unknown, Choice)):
            return None
        if isinstance(kind, UserClass):
            return isinstance(value, (Module, Instance)) and value.cls is not None and kind in value.cls.ancestors
        if not isinstance(kind, External):
            return None
        if kind.name in TYPES_BY_NAME:
            return isinstance(value, TYPES_BY_NAME[kind.name])
        if isinstance(value, Module):
            if kind.name == "torch.nn.Module":
                return True
            if value.opaque is not None and value.cls is None:
                return None
            names = (value.torch,)
            if value.cls is not None and any(isinstance(b, External) and b == kind for b in value.cls.ancestors):
                return True
            if kind.name.startswith("torch.nn."):
                return kind.last in names or value.torch in FAMILIES.get(kind.last, ())
            return False
        if kind.name in ("torch.Tensor", "torch.FloatTensor"):
            return isinstance(value, (Tensor, Array, Pieces))
        if kind.name == "torch.nn.Parameter":
            return isinstance(value, Array) and value.parameter
        if is_plain(value) or isinstance(value, (Function, Instance, UserClass)):
            return None if kind.last in ("Iterable", "Sequence", "Callable", "Number", "Mapping", "Integral") else False
        return None

    def call_module(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """module(*args): its forward, if a graph is being made."""
        if self.operations is None:
            return Unknown("the output of a model")
        forward = forward_of(module.cls)
        if forward is None:
            return self.call_torch_module(module, args, kwargs, self.graph_site(site))
        builder = self.operations.builder
        outside = site.file.path not in LIBRARY_PATHS
        kept = self.outer_site
        if outside:
            self.outer_site = site
        builder.stack.append(builder.path_of(module))
        self.building += 1
        try:
            return self.call_function(forward, args, kwargs, site, module)
        finally:
            self.building -= 1
            builder.stack.pop()
            self.outer_site = kept

    def is_there(self, choice: Choice, site: Site) -> bool:
        """Whether a layer that stands under a condition is there in this reading of the graph."""
        raise NotImplementedError

    def graph_site(self, site: Site) -> Site:
        """Where a node is made, in the user's code."""
        return self.user_site(site)

    def call_torch_module(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """The forward of a torch.nn class."""
        assert self.operations is not None
        first = args[0] if args else next(iter(kwargs.values()), Unknown("no input"))
        if module.opaque is not None:
            return self.operations.unknown(module.torch, args, kwargs, site, module)
        if module.torch == "Sequential":
            value: Any = first
            children = list(module.children.values())
            for child, after in zip_longest(children, children[1:]):
                if isinstance(child, Choice) and child.condition is not None and not self.is_there(child, site):
                    continue
                value = self.call(child, [value], {}, site)
                if is_repeated(child) and not is_repeated(after) and isinstance(value, Tensor):
                    value = self.operations.builder.emit("loop", "loop", [value], site, {"steps": None}, value.shape)
            return value
        if module.torch == "Identity":
            return first
        if module.torch in LAYERS:
            return self.operations.layer(module, args, kwargs, site)
        if module.torch.endswith("Loss"):
            return self.operations.loss(args, kwargs, site)
        return self.operations.unknown(module.class_name, args, kwargs, site, module)
