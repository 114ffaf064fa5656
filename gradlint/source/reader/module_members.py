"""What every torch module offers: its members, its parameters and children, `apply`, the methods of containers."""

from __future__ import annotations

from typing import Any

from gradlint.graph.model import InitLaw
from gradlint.source.reader import laws
from gradlint.source.reader.layers import LAYERS
from gradlint.source.reader.modules import Modules
from gradlint.source.reader.parameters import parameters_of
from gradlint.source.reader.values import (
    Array,
    Bound,
    External,
    Function,
    Module,
    Native,
    Site,
    Unknown,
    UserClass,
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


KERNELS = frozenset(["kernel_size", "stride", "padding", "dilation"])


class ModuleMembers(Modules):
    """Attributes and methods of nn.Module, Sequential, ModuleList and ModuleDict."""

    def module_attribute(self, module: Module, name: str, site: Site) -> Any:
        """module.NAME."""
        if name in module.attributes:
            return module.attributes[name]
        if name in module.children:
            return module.children[name]
        if name in module.parameters:
            return module.parameters[name]
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

    def _set_by_name(self, module: Module, args: list[Any], site: Site) -> None:
        if len(args) == 2 and isinstance(args[0], str):
            self.set_attribute(module, args[0], args[1], site)

    def _get_by_name(self, module: Module, args: list[Any], site: Site) -> Any:
        known = len(args) == 1 and isinstance(args[0], str)
        return self.attribute(module, args[0], site) if known else Unknown("an attribute whose name is not known")

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
        if not self.trained and not copies and module.phase == self.phase:
            if self.regions or self.attempts:
                self.resumed.append((module, site, self.attempts))
            else:
                self.take_checkpoint(module, site)
        return Unknown("the result of load_state_dict")

    def take_checkpoint(self, module: Module, site: Site) -> None:
        """Every parameter gets its value from a file."""
        module.pretrained = True
        for _, array in self.named_parameters(module):
            array.law = InitLaw("pretrained", origin="pretrained", location=site.location)

    def _module_add_module(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        name, value = (
            (*args, kwargs.get("name"), kwargs.get("module"))[:2] if len(args) != 1 else (args[0], kwargs.get("module"))
        )
        if isinstance(name, (str, int)):
            self.register(module, str(name), self.placed(value, module))
        elif isinstance(name, Unknown):
            self.register(module, f"{name.prefix or ''}{len(module.children)}", self.placed(value, module))
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
                self.register(module, str(len(names)), self.placed(args[0], module))
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
            for name, (_, law) in parameters_of(module.torch, module.arguments).items():
                array = module.parameters.get(name)
                if isinstance(array, Array) and array.phase == self.phase:
                    array.law = law
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
