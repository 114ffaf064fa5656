"""Attributes, items and calls of every kind of value."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.source.reader.externals import CONSTANTS
from gradlint.source.reader.layers import CONTAINERS, LAYERS
from gradlint.source.reader.library import LIBRARY_PATH
from gradlint.source.reader.machine import MAX_DEPTH, canonical
from gradlint.source.reader.modules import Modules, absorbing
from gradlint.source.reader.values import (
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
    contains_tensor,
    is_plain,
    merge,
)

CONTAINER_METHODS = frozenset(
    [
        "append",
        "extend",
        "insert",
        "pop",
        "remove",
        "clear",
        "copy",
        "count",
        "index",
        "reverse",
        "update",
        "get",
        "setdefault",
        "keys",
        "values",
        "items",
        "popitem",
        "add",
        "discard",
        "union",
        "intersection",
        "difference",
        "fromkeys",
        "move_to_end",
    ]
)
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


class Objects(Modules):
    """What can be done to values."""

    # -- attributes ----------------------------------------------------------------------------------------------

    def attribute(self, value: Any, name: str, site: Site) -> Any:
        """value.NAME."""
        match value:
            case Module():
                return self.module_attribute(value, name, site)
            case Tensor() | Pieces():
                return self._tensor_attribute(value if isinstance(value, Tensor) else value.tensor, name, site)
            case Array():
                return self.array_method(value, name, site)
            case External():
                return self._external_attribute(value, name, site)
            case Frame():
                return self._file_attribute(value, name)
            case Instance():
                found = self._instance_attribute(value, name, site)
                return found.settled if isinstance(found, Unknown) and found.settled is not None else found
            case UserClass():
                return self._class_attribute(value, name)
            case Super():
                return self._super_attribute(value, name, site)
            case Choice():
                return merge([self.attribute(v, name, site) for v in value.values], f"`{name}` of alternatives")
            case Unknown():
                if name == "backward":
                    self.trained = True
                return self._unknown_attribute(value, name)
            case Function() | Bound():
                function = value.function if isinstance(value, Bound) else value
                return function.name if name in ("__name__", "__qualname__") else Unknown(f"no attribute `{name}`")
            case Native() if name == "apply":
                return value
        return self._python_attribute(value, name)

    def _unknown_attribute(self, value: Unknown, name: str) -> Any:
        if value.prefix is not None and name in ("lower", "upper", "strip"):
            return Native(name, lambda args, kwargs, site: Unknown(value.reason))
        return Unknown(value.reason, tensor=value.tensor)

    def _external_attribute(self, value: External, name: str, site: Site) -> Any:
        dotted = canonical(f"{value.name}.{name}")
        if dotted in CONSTANTS:
            return CONSTANTS[dotted]
        if name in ("__name__", "__qualname__"):
            return value.last
        if value.name.partition(".")[0] not in ("torch", "numpy", "math", "os", "sys"):
            file = self.project.module(dotted, site.file)
            if file is not None:
                return self.file_frame(file)
        return External(dotted)

    def _file_attribute(self, frame: Frame, name: str) -> Any:
        if name == "__dict__":
            return frame
        found = self.in_file(frame, name)
        if found is not None or name in frame.names:
            return found
        file = self.project.module(f"{frame.file.module}.{name}" if frame.file.module else name, frame.file)
        return self.file_frame(file) if file is not None else Unknown(f"no attribute `{name}`")

    def _class_attribute(self, cls: UserClass, name: str) -> Any:
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
            return self._python_attribute(value.attributes, name)
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
        if in_place and isinstance(result, Tensor):
            tensor.node, tensor.shape = result.node, result.shape
            return tensor
        return result

    def _python_attribute(self, value: Any, name: str) -> Any:
        if name in ("__len__", "__name__", "__class__") or name.startswith("__"):
            return Unknown(f"no attribute `{name}`")
        if isinstance(value, (list, dict, set)) and name in CONTAINER_METHODS and hasattr(value, name):
            return Native(name, lambda args, kwargs, site: self._container_call(value, name, args, kwargs, site))
        if isinstance(value, (int, float)) and name in ("item", "detach", "cpu", "numpy"):
            return Native(name, lambda args, kwargs, site: value)
        if isinstance(value, list) and name == "tolist":
            return Native(name, lambda args, kwargs, site: value)
        if isinstance(value, (str, int, float, bytes, tuple, range, frozenset, complex, slice)) and hasattr(
            value, name
        ):
            member = getattr(value, name)
            if not callable(member):
                return member if is_plain(member) else Unknown(name)
            return Native(name, lambda args, kwargs, site: self._plain_call(member, value, name, args, kwargs))
        return Unknown(f"no attribute `{name}`")

    def _plain_call(self, member: Any, value: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if not all(is_plain(a) for a in (*args, *kwargs.values())) or name in (
            "ljust",
            "rjust",
            "zfill",
            "center",
            "expandtabs",
        ):
            if name == "format" and isinstance(value, str):
                return Unknown("a string format", prefix=value.split("{")[0])
            if name in ("count", "index") and isinstance(value, tuple):
                return Unknown(name, numeric=True)
            return Unknown(f"the value of `.{name}()`")
        try:
            if name == "format" and any(isinstance(a, int) and a > 10_000 for a in args) and ":" in value:
                return Unknown("a string format")
            return member(*args, **kwargs)
        except Exception:
            return Unknown(f"`.{name}()` fails")

    def _container_call(self, value: Any, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if self.uncertain and isinstance(value, list) and args and _holds_layers(args):
            if name == "append":
                args = [absorbing(args[0])]
            elif name in ("extend", "insert"):
                args = [[absorbing(v) for v in args[0]]] if isinstance(args[0], (list, tuple)) else args
        if isinstance(value, dict):
            if name in ("keys", "values", "items"):
                return list(getattr(value, name)())
            if name == "get" and args and not is_plain(args[0]):
                return merge([*value.values(), *args[1:]], "a key that is not known") if value else Unknown("get")
            if name == "update" and args and not isinstance(args[0], dict):
                return None
        if name == "extend":
            items = self.items(args[0], site) if args else None
            if items is None:
                value.append(Unknown("elements that are not known"))
                return None
            args = [items]
        if name == "pop" and args and not is_plain(args):
            return Unknown("an element")
        if isinstance(value, list) and len(value) > 100_000:
            return None
        try:
            return getattr(value, name)(*args, **kwargs)
        except Exception:
            return Unknown(f"`.{name}()` fails")

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
                    elif isinstance(value, Unknown) and value.prefix != "checkpoint":
                        self.write_law(owner, Array(None, owner.law).law.__class__("unknown"), site)
            case Tensor() if name == "data" and isinstance(value, Tensor):
                owner.node, owner.shape = value.node, value.shape

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
            self.write(owner.children, name, value)
            return
        if name in owner.parameters:
            if isinstance(value, Array):
                self.write_law(owner.parameters[name], value.law, site)
                return
            owner.parameters.pop(name)
        self.write(owner.attributes, name, value)

    # -- items ---------------------------------------------------------------------------------------------------

    def items(self, value: Any, site: Site) -> list[Any] | None:
        """The elements of an iterable, None if they are not known."""
        match value:
            case list() | tuple():
                return list(value)
            case dict():
                return list(value)
            case set() | frozenset():
                return sorted(value, key=repr)
            case str():
                return list(value)
            case range():
                return list(value) if len(value) <= 100_000 else None
            case Module() if value.opaque is None:
                if value.torch == "ModuleDict":
                    return list(value.children)
                if value.torch in ("ParameterList",):
                    return list(value.parameters.values())
                if value.torch in ("ModuleList", "Sequential"):
                    return list(value.children.values())
            case Pieces() if value.count is not None and self.operations is not None and value.count <= 4096:
                return [self.operations.piece(value, i) for i in range(value.count)]
            case Instance() if value.cls is None and value.attributes and "*arguments*" not in value.attributes:
                return list(value.attributes.values())
            case Instance() if value.cls is not None:
                method = value.cls.find("__iter__")
                if isinstance(method, Function):
                    found = self.call_function(method, [], {}, site, value)
                    return found if isinstance(found, list) else None
        return None

    def get_item(self, value: Any, key: Any, site: Site) -> Any:
        """value[key]."""
        match value:
            case Tensor():
                return self.operations.index(value, key, site) if self.operations else Unknown("an element")
            case Pieces() if self.operations is not None:
                if isinstance(key, int):
                    index = key if key >= 0 or value.count is None else key + value.count
                    return self.operations.piece(value, index)
                return self.operations.piece(value, 0)
            case list() | tuple() | str() | range() | dict():
                return self._element_of(value, key)
            case Array():
                return Array(
                    None,
                    value.law,
                    value.parameter,
                    value.buffer,
                    site=site,
                    view_of=value,
                    phase=value.phase,
                    level=value.level,
                )
            case Module():
                return self._module_item(value, key, site)
            case Frame() if isinstance(key, str):
                return self._file_attribute(value, key)
            case Choice():
                return merge([self.get_item(v, key, site) for v in value.values], "an element of alternatives")
            case Instance():
                if isinstance(key, str) and key in value.attributes:
                    return value.attributes[key]
                method = value.cls.find("__getitem__") if value.cls else None
                if isinstance(method, Function):
                    return self.call_function(method, [key], {}, site, value)
            case UserClass() | External():
                return value
            case Unknown():
                return Unknown(value.reason, numeric=value.numeric, tensor=value.tensor)
        return Unknown("an element of something that is not known")

    def _element_of(self, value: Any, key: Any) -> Any:
        if isinstance(key, slice):
            parts = (key.start, key.stop, key.step)
            if isinstance(value, dict) or not all(p is None or isinstance(p, int) for p in parts):
                return Unknown("a slice that is not known")
            return value[key] if key.step != 0 else Unknown("a slice")
        if isinstance(key, (Unknown, Choice)):
            elements = list(value.values()) if isinstance(value, dict) else list(value)
            return merge(elements, "which element is not known") if elements else Unknown("an element")
        try:
            return value[key]
        except (KeyError, IndexError, TypeError):
            return Unknown("an element that is not there")

    def _module_item(self, module: Module, key: Any, site: Site) -> Any:
        if isinstance(key, slice):
            values = list(module.children.values())
            if not all(p is None or isinstance(p, int) for p in (key.start, key.stop, key.step)):
                return Unknown("a slice that is not known")
            part = Module(module.torch, None, module.site, inner=True, phase=module.phase)
            kept = dict(list(module.children.items())[key])
            part.children = kept if module.torch == "Sequential" else {str(i): v for i, v in enumerate(values[key])}
            part.owned = True
            if not module.variable and not module.owned:
                module.owned, part.owned, part.inner = True, False, module.inner
                self.modules.append(part)
            return part
        if isinstance(key, int):
            table = module.parameters if module.torch == "ParameterList" else module.children
            values = list(table.values())
            return values[key] if -len(values) <= key < len(values) else Unknown("a layer that is not there")
        if isinstance(key, str):
            return module.children.get(key, module.parameters.get(key, Unknown(f"no layer `{key}`")))
        return (
            merge(list(module.children.values()), "which layer is not known") if module.children else Unknown("a layer")
        )

    def set_item(self, owner: Any, key: Any, value: Any, site: Site) -> None:
        """owner[key] = value."""
        match owner:
            case list() if isinstance(key, int) and -len(owner) <= key < len(owner):
                owner[key] = value
            case dict() if is_plain(key):
                try:
                    owner[key] = value
                except TypeError:
                    return
            case Module():
                names = list(owner.children)
                if isinstance(key, int) and -len(names) <= key < len(names):
                    self.register(owner, names[key], value)
                elif isinstance(key, str):
                    self.register(owner, key, value)
            case Array():
                law = value.law if isinstance(value, Array) else owner.law
                whole = isinstance(key, slice) and key == slice(None)
                target = owner if whole else Array(None, owner.law, view_of=owner)
                self.write_law(target, law, site)
            case Tensor() if self.operations is not None:
                part = [value] if contains_tensor([value]) else []
                result = self.operations.unknown("setitem", [owner, *part], {}, site)
                owner.node = result.node
            case Instance() if isinstance(key, str):
                owner.attributes[key] = value

    def delete_item(self, owner: Any, key: Any) -> None:
        """del owner[key]."""
        if isinstance(owner, (list, dict)) and is_plain(key):
            try:
                del owner[key]
            except (KeyError, IndexError, TypeError):
                return
        elif isinstance(owner, Module) and isinstance(key, (int, slice)):
            for name in (
                (list(owner.children)[key],)
                if isinstance(key, int) and -len(owner.children) <= key < len(owner.children)
                else list(owner.children)[key]
                if isinstance(key, slice)
                else ()
            ):
                owner.children.pop(name)

    # -- calls ---------------------------------------------------------------------------------------------------

    def call(self, callee: Any, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """Call a value."""
        self.step()
        match callee:
            case Native():
                return callee.call(args, kwargs, site)
            case External():
                return self.call_external(callee, args, kwargs, self.user_site(site) if self.operations else site)
            case Module():
                return self.call_module(callee, args, kwargs, site)
            case Function():
                return self.call_function(callee, args, kwargs, site, None)
            case Bound():
                return self.call_function(callee.function, args, kwargs, site, callee.receiver)
            case UserClass():
                return self.construct(callee, args, kwargs, site)
            case Instance():
                method = callee.cls.find("__call__") if callee.cls else None
                if isinstance(method, Function):
                    return self.call_function(method, args, kwargs, site, callee)
            case Choice() if self.operations is None:
                results = [self.call(v, args, kwargs, site) for v in callee.values if not isinstance(v, Unknown)]
                return merge(results, "the result of alternatives") if results else Unknown("a call")
            case Choice() if _alike(callee.values):
                self.step()
                assert self.operations is not None
                note = f"`{site.text}` at line {site.location.line} is one of {len(callee.values)} layers of one kind"
                if note not in self.operations.builder.notes:
                    self.operations.builder.notes.append(note)
                return self.call(callee.values[0], args, kwargs, site)
            case None:
                return Unknown("None is called")
        if self.operations is not None and contains_tensor([*args, *kwargs.values()]):
            reason = callee.reason if isinstance(callee, Unknown) else "it depends on a condition that is not known"
            note = f"`{site.text}` at line {site.location.line} is not followed: {reason}"
            if note not in self.operations.builder.notes:
                self.operations.builder.notes.append(note)
            name = site.node.func if isinstance(site.node, ast.Call) else site.node
            return self.operations.unknown(ast.unparse(name)[:40], args, kwargs, site)
        if isinstance(callee, Unknown):
            return Unknown(callee.reason, tensor=callee.tensor, numeric=callee.numeric)
        return Unknown(f"the value of `{site.text}`")

    def construct(self, cls: UserClass, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """cls(*args)."""
        if self.depth > MAX_DEPTH:
            return Unknown("too deep")
        if cls.is_module:
            return self.construct_module(cls, args, kwargs, site)
        cls.instantiated = True
        instance = Instance(cls)
        if cls.is_record and cls.find("__init__") is None:
            self._fill_record(instance, cls, args, kwargs)
            post = cls.find("__post_init__")
            if isinstance(post, Function):
                self.call_function(post, [], {}, site, instance)
            return instance
        init = cls.find("__init__")
        if isinstance(init, Function):
            self.call_function(init, args, kwargs, site, instance)
        elif isinstance(init, Native):
            return instance
        return instance

    def _fill_record(self, instance: Instance, cls: UserClass, args: list[Any], kwargs: dict[str, Any]) -> None:
        fields: list[str] = []
        for base in reversed([c for c in cls.ancestors if isinstance(c, UserClass)]):
            for statement in base.node.body:
                if (
                    isinstance(statement, ast.AnnAssign)
                    and isinstance(statement.target, ast.Name)
                    and statement.target.id not in fields
                ):
                    fields.append(statement.target.id)
        for name in fields:
            default = cls.find(name)
            if isinstance(default, Unknown) and default.reason.startswith("the value of `dataclasses.field"):
                default = self._field_default(cls, name)
            instance.attributes[name] = default
        instance.attributes.update(zip(fields, args, strict=False))
        instance.attributes.update(kwargs)

    def _field_default(self, cls: UserClass, name: str) -> Any:
        for statement in cls.node.body:
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and statement.target.id == name
            ):
                call = statement.value
                for keyword in call.keywords if isinstance(call, ast.Call) else []:
                    value = self.evaluate(keyword.value, cls.frame)
                    if keyword.arg == "default":
                        return value
                    if keyword.arg == "default_factory":
                        return self.call(value, [], {}, Site(cls.frame.file, keyword.value))
        return Unknown(f"the default of `{name}`")

    def make_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, frame: Frame) -> Function:
        """A function with its defaults evaluated."""
        in_class = frame.owner is not None and frame.receiver is None
        closure = frame.outer if in_class and frame.outer is not None else frame
        defaults = [self.evaluate(d, frame) for d in node.args.defaults]
        keyword = [self.evaluate(d, frame) if d is not None else Unknown("no default") for d in node.args.kw_defaults]
        name = node.name if not isinstance(node, ast.Lambda) else "<lambda>"
        made = Function(node, closure, name, defaults, keyword, frame.owner if in_class else None)
        made.is_generator = not isinstance(node, ast.Lambda) and "yield" in frame.file.text and _yields(node.body)
        return made

    def call_function(
        self, function: Function, args: list[Any], kwargs: dict[str, Any], site: Site, receiver: Any
    ) -> Any:
        """Call a function of the project."""
        function.called = True
        if self.depth > MAX_DEPTH:
            return Unknown("calls are nested too deeply")
        frame = Frame(function.frame.file, {}, outer=function.frame, owner=function.owner)
        if receiver is not None and function.role != "staticmethod":
            args = [receiver, *args]
            frame.receiver = receiver
        self._bind(function, args, kwargs, frame)
        if frame.receiver is None and function.owner is not None and args:
            frame.receiver = args[0]
        outside = site.file.path != LIBRARY_PATH and frame.file.path == LIBRARY_PATH
        kept_site, kept_uncertain = self.outer_site, self.uncertain
        if outside:
            self.outer_site = site
        self.depth += 1
        self.uncertain = 0
        try:
            if isinstance(function.node, ast.Lambda):
                return self.evaluate(function.node.body, frame)
            if function.is_generator:
                frame.yields = []
            jump = self.execute(function.node.body, frame)
        finally:
            self.depth -= 1
            self.uncertain = kept_uncertain
            self.outer_site = kept_site
        if frame.yields is not None:
            return frame.yields
        value = jump.value if jump is not None and jump.kind == "return" else None
        if frame.returns:
            falls_off = jump is None and value is None
            return merge(
                frame.returns if falls_off else [*frame.returns, value], f"which `return` of `{function.name}` runs"
            )
        if jump is not None and jump.kind == "raise":
            return Unknown(f"`{function.name}` raises")
        return value

    def _bind(self, function: Function, args: list[Any], kwargs: dict[str, Any], frame: Frame) -> None:
        spec = function.node.args
        names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        values = frame.names
        first_default = len(names) - len(function.defaults)
        for index, name in enumerate(names):
            if index < len(args):
                values[name] = args[index]
            elif name in kwargs:
                values[name] = kwargs[name]
            elif index >= first_default:
                values[name] = function.defaults[index - first_default]
            else:
                values[name] = Unknown(f"the argument `{name}` of `{function.name}` is not known")
        for argument, default in zip(spec.kwonlyargs, function.keyword_defaults, strict=True):
            values[argument.arg] = kwargs.get(argument.arg, default)
        if spec.vararg is not None:
            values[spec.vararg.arg] = tuple(args[len(names) :])
        if spec.kwarg is not None:
            taken = {*names, *(a.arg for a in spec.kwonlyargs)}
            values[spec.kwarg.arg] = {k: v for k, v in kwargs.items() if k not in taken}


def _alike(values: tuple[Any, ...]) -> bool:
    """Whether alternatives are layers of one torch.nn class, so that only their sizes or laws are in doubt."""
    return all(isinstance(v, Module) and v.torch in LAYERS and v.cls is None for v in values) and (
        len({v.torch for v in values}) == 1
    )


def _holds_layers(args: list[Any]) -> bool:
    flat = [v for a in args for v in (a if isinstance(a, (list, tuple)) else [a])]
    return any(isinstance(v, (Module, Choice)) for v in flat)


def _yields(body: list[ast.stmt]) -> bool:
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            pending.extend(ast.iter_child_nodes(node))
    return False
