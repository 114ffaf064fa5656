"""Attributes of every kind of value."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gradlint.source.reader.by_type import ByType
from gradlint.source.reader.containers import Containers
from gradlint.source.reader.external_names import CONSTANTS
from gradlint.source.reader.layers import CONTAINERS, LAYERS
from gradlint.source.reader.machine import MAX_NAMES, canonical
from gradlint.source.reader.registries import is_look_up, look_up
from gradlint.source.reader.values import (
    CHECKPOINT,
    Array,
    Bound,
    Choice,
    External,
    Frame,
    Function,
    Instance,
    Module,
    Native,
    Pieces,
    Site,
    Super,
    Tensor,
    Unknown,
    UserClass,
    merge,
)
from gradlint.source.registrations import LOOK_UPS

TENSOR_FACTS = frozenset(["device", "dtype", "grad", "grad_fn", "names", "layout", "is_leaf", "requires_grad"])


SHAPELESS = frozenset(
    [
        "size",
        "dim",
        "ndimension",
        "numel",
        "nelement",
        "get_device",
        "is_contiguous",
        "is_floating_point",
        "element_size",
    ]
)


INSTALLED = frozenset(["torch", "numpy", "math", "os", "sys"])
"""Packages that no project has a folder of its own for."""


@lru_cache(MAX_NAMES)
def _outside(owner: str, name: str) -> tuple[Any, bool]:
    """`owner.name` of something outside the project: a number, the name itself, or what it is called in full.

    With it, whether no file of the project can mean something else by that name.
    """
    if name in ("__name__", "__qualname__"):
        return owner.rpartition(".")[2], True
    dotted = canonical(f"{owner}.{name}")
    return CONSTANTS.get(dotted, External(dotted)), dotted in CONSTANTS or owner.partition(".")[0] in INSTALLED


class Members(Containers):
    """Reads and sets attributes."""

    def attribute(self, value: Any, name: str, site: Site) -> Any:
        """value.NAME."""
        return _READ[type(value)](self, value, name, site)

    def _array_attribute(self, value: Array, name: str, site: Site) -> Any:
        if name == "backward":
            self.trained = True
        return self.array_method(value, name, site)

    def _choice_attribute(self, value: Choice, name: str, site: Site) -> Any:
        return merge([self.attribute(v, name, site) for v in value.values], f"`{name}` of alternatives")

    def _function_attribute(self, value: Function | Bound, name: str, site: Site) -> Any:
        function = value.function if isinstance(value, Bound) else value
        return function.name if name in ("__name__", "__qualname__") else Unknown(f"no attribute `{name}`")

    def _native_attribute(self, value: Native, name: str, site: Site) -> Any:
        return value if name == "apply" else self._python_attribute(value, name, site)

    def _unknown_attribute(self, value: Unknown, name: str, site: Site) -> Any:
        if name == "backward":
            self.trained = True
        if value.prefix is not None and name in ("lower", "upper", "strip"):
            return Native(name, lambda args, kwargs, site: Unknown(value.reason))
        return Unknown(value.reason, tensor=value.tensor)

    def _external_attribute(self, value: External, name: str, site: Site) -> Any:
        found, settled = _outside(value.name, name)
        if settled:
            return found
        file = self.project.module(found.name, site.file)
        return self.file_frame(file) if file is not None else self.outside(found.name)

    def _class_attribute(self, cls: UserClass, name: str, site: Site) -> Any:
        if name in ("__name__", "__qualname__"):
            return cls.name
        member = cls.find(name)
        if isinstance(member, Function) and member.role == "classmethod":
            return Bound(member, cls)
        if member is None:
            if name == "from_pretrained" and cls.is_module:
                return Native(name, lambda args, kwargs, site: self._pretrained(cls, args, kwargs, site))
            if name in cls.members:
                return None
            base = next((b for b in cls.ancestors if isinstance(b, External)), None)
            return External(f"{base.name}.{name}") if base is not None else Unknown(f"no attribute `{name}`")
        return member

    def _pretrained(self, cls: UserClass, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        module = self.construct_module(cls, [Unknown("the checkpoint's configuration")], {}, site)
        module.pretrained = True
        return module

    def _instance_attribute(self, value: Instance, name: str, site: Site) -> Any:
        found = self._instance_member(value, name, site)
        if name in LOOK_UPS and is_look_up(value, name):
            return look_up(self, value, name, found)
        return found.settled if isinstance(found, Unknown) and found.settled is not None else found

    def _instance_member(self, value: Instance, name: str, site: Site) -> Any:
        if name in value.attributes:
            return value.attributes[name]
        if "*arguments*" in value.attributes:
            return self.parser_method(value, name)
        member = value.cls.find(name) if value.cls else None
        if member is not None:
            return self.bind_member(member, value, site)
        if value.cls is not None and any(isinstance(c, UserClass) and name in c.members for c in value.cls.ancestors):
            return None
        if name == "__dict__":
            return dict(value.attributes)
        if name == "__class__" and value.cls is not None:
            return value.cls
        getter = value.cls.find("__getattr__") if value.cls else None
        if isinstance(getter, Function):
            return self.call_function(getter, [name], {}, site, value)
        if value.cls is None and name in ("get", "items", "keys", "values", "update", "pop"):
            return self._python_attribute(value.attributes, name, site)
        foreign = value.open or (
            value.cls is not None and any(isinstance(b, (External, Unknown)) for b in value.cls.ancestors)
        )
        return Unknown(f"`{name}` is set elsewhere" if foreign else f"no attribute `{name}`")

    def _super_attribute(self, value: Super, name: str, site: Site) -> Any:
        receiver = value.receiver
        cls = receiver if isinstance(receiver, UserClass) else getattr(receiver, "cls", None)
        if cls is None:
            return Unknown("super of something that is not known")
        member = cls.find(name, after=value.owner)
        if member is not None:
            return self.bind_member(member, receiver, site)
        if isinstance(receiver, Module):
            if name == "__init__":
                torch = cls.torch_base or "Module"
                return Native(name, lambda args, kwargs, at: self._base_init(receiver, torch, args, kwargs, at))
            if name in ("forward", "__call__"):
                return Native(name, lambda args, kwargs, at: self._base_forward(receiver, args, kwargs, at))
            if name == "__setattr__":
                return Native(
                    name,
                    lambda args, kwargs, at: (
                        self.set_attribute(receiver, args[0], args[1], at) if len(args) > 1 else None
                    ),
                )
            bare = Module(
                receiver.torch,
                None,
                receiver.site,
                receiver.arguments,
                receiver.attributes,
                receiver.children,
                receiver.parameters,
                inner=True,
                owned=True,
                phase=receiver.phase,
            )
            return self.module_attribute(bare, name, site)
        return Native(name, lambda args, kwargs, at: None)

    def _base_init(self, module: Module, torch: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> None:
        if torch in LAYERS or torch in CONTAINERS:
            self.init_torch(module, torch, args, kwargs, site)

    def _base_forward(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return (
            self.call_torch_module(module, args, kwargs, site) if self.operations is not None else Unknown("an output")
        )

    def _pieces_attribute(self, pieces: Pieces, name: str, site: Site) -> Any:
        return self._tensor_attribute(pieces.tensor, name, site)

    def _tensor_attribute(self, tensor: Tensor, name: str, site: Site) -> Any:
        match name:
            case "shape":
                return self.visible_shape(tensor.shape)
            case "ndim":
                return len(tensor.shape) if tensor.shape is not None else Unknown("a rank", numeric=True)
            case "data" | "real":
                return tensor
            case "T" | "mT" | "H":
                assert self.operations is not None
                return self.operations.function("transpose", [tensor, -2, -1], {}, site)
            case "is_cuda" | "is_xpu" | "is_mps" | "is_meta" | "is_sparse" | "is_quantized" | "is_nested":
                return False
        if name in TENSOR_FACTS:
            return Unknown(f"the {name} of a tensor")
        return Native(name, lambda args, kwargs, at: self._tensor_call(tensor, name, args, kwargs, at))

    def _tensor_call(self, tensor: Tensor, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if self.operations is None:
            return Unknown("a tensor")
        site = self.user_site(site)
        if name == "size":
            shape = self.visible_shape(tensor.shape)
            if not args:
                return shape
            known = isinstance(shape, tuple) and isinstance(args[0], int) and -len(shape) <= args[0] < len(shape)
            return shape[args[0]] if known else Unknown("a size", numeric=True)
        if name in ("dim", "ndimension"):
            return len(tensor.shape) if tensor.shape is not None else Unknown("a rank", numeric=True)
        if name in SHAPELESS:
            return Unknown(name, numeric=True)
        if name == "new":
            return self.make_array("empty", args, kwargs, site)
        if name in ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"):
            return self.make_array(name.removeprefix("new_"), args, kwargs, site)
        if name in ("backward", "retain_grad", "register_hook"):
            return None
        in_place = name.endswith("_") and not name.startswith("_") and name not in ("requires_grad_",)
        plain = name.rstrip("_") if in_place else name
        result = self.operations.function(plain, [tensor, *args], kwargs, site)
        return tensor.become(result) if in_place and isinstance(result, Tensor) else result

    def set_attribute(self, owner: Any, name: str, value: Any, site: Site) -> None:
        """owner.NAME = value."""
        match owner:
            case Module():
                self._set_on_module(owner, name, value, site)
            case Instance():
                self.write(owner.attributes, name, value)
            case UserClass():
                owner.members[name] = value
            case Frame():
                owner.names[name] = value
            case Choice():
                for one in owner.values:
                    self.set_attribute(one, name, value, site)
            case Array():
                if name == "requires_grad":
                    self.freeze(owner, value, site)
                elif name == "data":
                    if isinstance(value, Array):
                        self.write_law(owner, value.law, site)
                    elif isinstance(value, Unknown) and value.prefix != CHECKPOINT:
                        self.write_law(owner, Array(None, owner.law).law.__class__("unknown"), site)
            case Tensor() if name == "data" and isinstance(value, Tensor):
                owner.node, owner.shape = value.node, value.shape

    def _is_checkpoint_of(self, held: Any, value: Any) -> bool:
        """Whether a part is replaced by what it was saved as: the same architecture, with trained weights."""
        if not (isinstance(held, Module) and isinstance(value, Unknown) and value.prefix == CHECKPOINT):
            return False
        if not self.trained and not self.regions:
            held.pretrained = True
        return True

    def _set_on_module(self, owner: Module, name: str, value: Any, site: Site) -> None:
        held = value.values if isinstance(value, Choice) else (value,)
        if any(isinstance(v, Module) for v in held):
            for table in (owner.attributes, owner.parameters):
                if name in table:
                    table.pop(name)
            self.register(owner, name, value)
            for one in held:
                if isinstance(one, Module) and self.building == 0 and not one.variable:
                    one.variable = name
            return
        if isinstance(value, Array) and value.parameter:
            if owner.phase != self.phase and owner.phase >= 0:
                return
            self.events += 1
            self.write(owner.parameters, name, value)
            return
        if name in owner.children:
            if not self._is_checkpoint_of(owner.children[name], value):
                self.write(owner.children, name, value)
            return
        if name in owner.parameters:
            if isinstance(value, Array):
                self.write_law(owner.parameters[name], value.law, site)
                return
            owner.parameters.pop(name)
        self.write(owner.attributes, name, value)


_READ = ByType(
    {
        Module: Members.module_attribute,
        Tensor: Members._tensor_attribute,
        Pieces: Members._pieces_attribute,
        Array: Members._array_attribute,
        External: Members._external_attribute,
        Frame: Members._file_attribute,
        Instance: Members._instance_attribute,
        UserClass: Members._class_attribute,
        Super: Members._super_attribute,
        Choice: Members._choice_attribute,
        Unknown: Members._unknown_attribute,
        Function: Members._function_attribute,
        Bound: Members._function_attribute,
        Native: Members._native_attribute,
    },
    Members._python_attribute,
)
"""How an attribute of each type of value is read."""
