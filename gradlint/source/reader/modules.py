"""nn.Module objects: how they are built, their methods, and what happens when they are called."""

from __future__ import annotations

from typing import Any

from gradlint.graph.model import InitLaw
from gradlint.source.reader import laws
from gradlint.source.reader.externals import Externals
from gradlint.source.reader.layers import CONTAINERS, FAMILIES, LAYERS, bind, make_parameters
from gradlint.source.reader.library import LIBRARY_PATH, library
from gradlint.source.reader.values import (
    Array,
    Bound,
    Choice,
    External,
    Function,
    Instance,
    Module,
    Native,
    Pieces,
    Site,
    Tensor,
    Unknown,
    UserClass,
    is_plain,
)

SELF_RETURNING = frozenset(
    [
        "to",
        "cuda",
        "cpu",
        "train",
        "eval",
        "float",
        "half",
        "double",
        "bfloat16",
        "share_memory",
        "type",
        "to_empty",
        "compile",
        "requires_grad_",
        "xpu",
    ]
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
KERNELS = frozenset(["kernel_size", "stride", "padding", "dilation"])


def absorbing(value: Any) -> Any:
    """A layer that is only there under a condition that is not known."""
    return Choice((value, Unknown("a layer under a condition that is not known")))


class Modules(Externals):
    """Builds and calls modules."""

    def make_torch(
        self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site, cls: UserClass | None = None
    ) -> Module:
        """An instance of torch.nn.NAME."""
        found = library(self.project, name)
        if found is not None and cls is None:
            target = self.in_file(self.file_frame(found), name)
            if isinstance(target, UserClass):
                return self.construct_module(target, args, kwargs, site)
        module = Module(name, cls, self.user_site(site), inner=self.building > 0, phase=self.phase)
        self.modules.append(module)
        self.events += 1
        self.init_torch(module, name, args, kwargs, site)
        return module

    def user_site(self, site: Site) -> Site:
        """The place in the user's code that a place in the bundled torch library stands for."""
        return self.outer_site if site.file.path == LIBRARY_PATH and self.outer_site is not None else site

    outer_site: Site | None = None

    def init_torch(self, module: Module, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> None:
        """The constructor of a torch.nn class on a module that may be an instance of a project class."""
        if name in ("Sequential", "ModuleList", "ModuleDict"):
            self._fill_container(module, name, args, site)
        elif name in ("ParameterList", "ParameterDict"):
            held = args[0] if args else []
            pairs = held.items() if isinstance(held, dict) else enumerate(self.items(held, site) or [])
            module.parameters.update({str(k): v for k, v in pairs})
        elif name in LAYERS:
            module.arguments = bind(LAYERS[name].signature, args, kwargs) if LAYERS[name].signature else dict(kwargs)
            module.parameters.update(self.marked(make_parameters(name, module.arguments, site)))
            reset = module.cls.find("reset_parameters") if module.cls else None
            if isinstance(reset, Function):
                self.call_function(reset, [], {}, site, module)
        elif name not in CONTAINERS and name != "Module":
            module.arguments = dict(kwargs)

    def marked(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """New parameters, marked with when they were made."""
        for array in parameters.values():
            array.phase, array.level = self.phase, self.regions
        return parameters

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
        outside = site.file.path != LIBRARY_PATH
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
            source = library(self.project, name)
            target = self.in_file(self.file_frame(source), name) if source is not None else None
            if isinstance(target, UserClass) and target is not cls:
                cls.bases = [target if b == base else b for b in cls.bases]
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

    # -- attributes and methods ----------------------------------------------------------------------------------

    def module_attribute(self, module: Module, name: str, site: Site) -> Any:
        """module.NAME."""
        for table in (module.attributes, module.children, module.parameters):
            if name in table:
                return table[name]
        member = module.cls.find(name) if module.cls else None
        if member is not None:
            return self.bind_member(member, module, site)
        if module.cls is not None and any(isinstance(c, UserClass) and name in c.members for c in module.cls.ancestors):
            return None
        match name:
            case "training":
                return True
            case "__class__":
                return module.cls or External(f"torch.nn.{module.torch}")
            case "module" | "_orig_mod" if module.cls is None or not module.opaque:
                return module
            case "__dict__":
                return {**module.attributes, **module.children, **module.parameters}
            case "_modules":
                return module.children
            case "_parameters":
                return module.parameters
            case "bias" | "weight" if module.torch in LAYERS:
                return None
            case "running_mean" | "running_var" | "num_batches_tracked":
                return self.new_array(None, laws.constant_default(float(name == "running_var"), None), site)
            case "out_proj" if module.torch == "MultiheadAttention":
                inner = {
                    k.removeprefix("out_proj."): v for k, v in module.parameters.items() if k.startswith("out_proj.")
                }
                return Module("Linear", None, module.site, parameters=inner, inner=True, owned=True, phase=module.phase)
            case "__setattr__":
                return Native(name, lambda args, kwargs, at: self._set_by_name(module, args, at))
            case "__getattr__" | "__getattribute__":
                return Native(name, lambda args, kwargs, at: self._get_by_name(module, args, at))
            case "__call__":
                return Native(name, lambda args, kwargs, at: self.call_module(module, args, kwargs, at))
            case "hparams" | "config" if module.cls is not None:
                return Unknown(f"`{name}` of a base class")
            case "_forward_impl" | "device" | "dtype":
                return Unknown(name)
        if name in module.arguments:
            value = module.arguments[name]
            d = module.torch[-2] if module.torch[-1:] == "d" else ""
            if name in KERNELS and d.isdigit() and isinstance(value, int) and "Pool" not in module.torch:
                return (value,) * int(d)
            return value
        method = getattr(self, f"_module_{name}", None)
        if method is not None:
            return Native(name, lambda args, kwargs, at: method(module, args, kwargs, at))
        if name in SELF_RETURNING:
            return Native(name, lambda args, kwargs, at: self._same(module, name, args, kwargs, at))
        if name == "forward":
            return Native(name, lambda args, kwargs, at: self.call_module(module, args, kwargs, at))
        outside = module.opaque is not None or self._has_foreign_base(module)
        if name.startswith("__") and name.endswith("__"):
            return Native(name, lambda args, kwargs, at: None)
        return Unknown("an attribute of a class that is not in the project" if outside else f"no attribute `{name}`")

    def _set_by_name(self, module: Module, args: list[Any], site: Site) -> None:
        if len(args) == 2 and isinstance(args[0], str):
            self.set_attribute(module, args[0], args[1], site)

    def _get_by_name(self, module: Module, args: list[Any], site: Site) -> Any:
        known = len(args) == 1 and isinstance(args[0], str)
        return self.attribute(module, args[0], site) if known else Unknown("an attribute whose name is not known")

    def _has_foreign_base(self, module: Module) -> bool:
        bases = module.cls.ancestors if module.cls else []
        return any(
            isinstance(b, Unknown) or (isinstance(b, External) and not b.name.startswith("torch.nn.")) for b in bases
        )

    def bind_member(self, member: Any, receiver: Any, site: Site) -> Any:
        """A class member as seen through an instance."""
        if isinstance(member, Function):
            if member.role == "property":
                return self.call_function(member, [], {}, site, receiver)
            if member.role == "staticmethod":
                return member
            if member.role == "classmethod":
                return Bound(member, receiver.cls if hasattr(receiver, "cls") and receiver.cls else receiver)
            return Bound(member, receiver)
        return member

    def _same(self, module: Module, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if name == "requires_grad_":
            flag = args[0] if args else kwargs.get("requires_grad", True)
            for _, array in self.named_parameters(module):
                self.freeze(array, flag, site)
        elif name == "train":
            module.attributes.pop("training", None)
        return module

    def named_parameters(self, module: Module, prefix: str = "") -> list[tuple[str, Array]]:
        """All parameters under their names, each once."""
        seen: set[int] = set()
        found = []
        for path, inner in module.walk(prefix):
            for name, array in inner.parameters.items():
                if isinstance(array, Array) and id(array) not in seen:
                    seen.add(id(array))
                    found.append((f"{path}.{name}" if path else name, array))
        return found

    def _module_parameters(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if module.opaque is not None and not self.named_parameters(module):
            return Unknown("parameters of a model that is not in the project")
        return [a for _, a in self.named_parameters(module)]

    def _module_named_parameters(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return [(n, a) for n, a in self.named_parameters(module)]

    def _module_state_dict(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return dict(self.named_parameters(module)) if module.opaque is None else Unknown("a state dict")

    def _module_modules(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return [m for _, m in module.walk()]

    def _module_named_modules(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return list(module.walk())

    def _module_children(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if module.opaque is not None:
            return Unknown("children of a model that is not in the project")
        return [c for c in module.children.values() if c is not None]

    def _module_named_children(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return [(n, c) for n, c in module.children.items() if c is not None]

    def _module_apply(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if args:
            for _, inner in reversed(list(module.walk())):
                self.call(args[0], [inner], {}, site)
        return module

    def _module_load_state_dict(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        source = args[0] if args else None
        copies = isinstance(source, dict) and source and all(isinstance(v, Array) for v in source.values())
        if not self.trained and not self.regions and not copies and module.phase == self.phase:
            module.pretrained = True
            for _, array in self.named_parameters(module):
                array.law = InitLaw("pretrained", origin="pretrained", location=site.location)
        return Unknown("the result of load_state_dict")

    def _module_add_module(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        name, value = (
            (*args, kwargs.get("name"), kwargs.get("module"))[:2] if len(args) != 1 else (args[0], kwargs.get("module"))
        )
        if isinstance(name, (str, int)):
            self.register(module, str(name), absorbing(value) if self.uncertain else value)
        elif isinstance(name, Unknown):
            module.opaque = "a child's name is not known"
        return None

    _module_register_module = _module_add_module

    def _module_register_parameter(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if len(args) > 1 and isinstance(args[0], str):
            self.set_attribute(module, args[0], args[1], site)
        return None

    def _module_register_buffer(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        value = args[1] if len(args) > 1 else kwargs.get("tensor")
        if args and isinstance(args[0], str):
            if isinstance(value, Array):
                value.buffer = True
            module.attributes[args[0]] = value
        return None

    def _module_append(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if args:
            names = module.parameters if module.torch == "ParameterList" else module.children
            if module.torch == "ParameterList":
                module.parameters[str(len(names))] = args[0]
            else:
                self.register(module, str(len(names)), absorbing(args[0]) if self.uncertain else args[0])
        return module

    def _module_extend(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else None
        if items is None:
            module.opaque = "how many layers it holds is not known"
        for value in items or []:
            self._module_append(module, [value], {}, site)
        return module

    def _module_insert(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if len(args) == 2 and isinstance(args[0], int):
            values = list(module.children.values())
            values.insert(args[0], args[1])
            module.children.clear()
            for value in values:
                self.register(module, str(len(module.children)), value)
        return None

    def _module_items(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return [(n, c) for n, c in (module.children or module.parameters).items()]

    def _module_keys(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return list(module.children or module.parameters)

    def _module_values(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return list((module.children or module.parameters).values())

    def _module_update(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        for key, value in (args[0] if args and isinstance(args[0], dict) else {}).items():
            self.register(module, str(key), value)
        return None

    def _module_get_submodule(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        value: Any = module
        for part in args[0].split(".") if args and isinstance(args[0], str) else []:
            value = self.attribute(value, part, site)
        return value

    def _module_reset_parameters(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if module.torch in LAYERS:
            for name, fresh in make_parameters(module.torch, module.arguments, module.site).items():
                array = module.parameters.get(name)
                if isinstance(array, Array) and array.phase == self.phase:
                    array.law = fresh.law
        return None

    def _module_register_forward_hook(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return Unknown("a hook")

    def _module_zero_grad(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return None

    def _module_init_weights(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """transformers' PreTrainedModel.init_weights and post_init apply the class's own `_init_weights`."""
        own = module.cls.find("_init_weights") if module.cls else None
        if isinstance(own, Function) and self._has_foreign_base(module):
            self._module_apply(module, [Bound(own, module)], {}, site)
        return None

    _module_post_init = _module_init_weights

    def _module_save_hyperparameters(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return None

    # -- calls ---------------------------------------------------------------------------------------------------

    def call_module(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """module(*args): its forward, if a graph is being made."""
        if self.operations is None:
            return Unknown("the output of a model")
        forward = module.cls.find("forward") if module.cls else None
        if not isinstance(forward, Function):
            return self.call_torch_module(module, args, kwargs, self.graph_site(site))
        builder = self.operations.builder
        outside = site.file.path != LIBRARY_PATH
        kept = self.outer_site
        if outside:
            self.outer_site = site
        builder.stack.append((builder.path_of(module, module.class_name.lower()), module.class_name))
        self.building += 1
        try:
            return self.call_function(forward, args, kwargs, site, module)
        finally:
            self.building -= 1
            builder.stack.pop()
            self.outer_site = kept

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
            for name, child in list(module.children.items()):
                value = self.call(child, [value], {}, self._child_site(module, name, child, site))
            return value
        if module.torch == "Identity":
            return first
        if module.torch in LAYERS:
            return self.operations.layer(module, args, kwargs, site)
        if module.torch.endswith("Loss"):
            return Unknown("a loss")
        return self.operations.unknown(module.class_name, args, kwargs, site, module)

    def _child_site(self, module: Module, name: str, child: Any, site: Site) -> Site:
        return site


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
