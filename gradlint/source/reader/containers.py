"""The elements of containers and modules, and the methods of Python's own containers."""

from __future__ import annotations

from typing import Any

from gradlint.source.reader.module_members import ModuleMembers
from gradlint.source.reader.values import (
    Array,
    Choice,
    External,
    Frame,
    Function,
    Instance,
    Module,
    Native,
    Pieces,
    Site,
    Tensor,
    Unknown,
    UserClass,
    contains_tensor,
    is_plain,
    is_repeated,
    merge,
)
from gradlint.source.reader.whole_numbers import WholeNumbers

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


class Containers(ModuleMembers):
    """Iteration, subscription and container methods."""

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

    def _file_attribute(self, frame: Frame, name: str, site: Site) -> Any:
        if name == "__dict__":
            return frame
        found = self.in_file(frame, name)
        if found is not None or name in frame.names:
            return found
        file = self.project.module(f"{frame.file.module}.{name}" if frame.file.module else name, frame.file)
        return self.file_frame(file) if file is not None else Unknown(f"no attribute `{name}`")

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
                return self._module_item(value, key)
            case Frame() if isinstance(key, str):
                return self._file_attribute(value, key, site)
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
            if is_repeated(value) and isinstance(value, (list, tuple)):
                return value
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

    def _module_item(self, module: Module, key: Any) -> Any:
        if isinstance(key, slice):
            if is_repeated(list(module.children.values())):
                return module
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
            names = list(owner.children)
            inside = isinstance(key, slice) or -len(names) <= key < len(names)
            for name in (names[key] if isinstance(key, slice) else [names[key]]) if inside else []:
                del owner.children[name]
            if owner.torch in ("Sequential", "ModuleList"):  # What is left is counted anew.
                owner.children = {str(i): child for i, child in enumerate(owner.children.values())}
        elif isinstance(owner, Module) and isinstance(key, str):
            owner.children.pop(key, None)

    def _module_pop(self, module: Module, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if not args:
            return Unknown("a layer")
        found = self._module_item(module, args[0])
        self.delete_item(module, args[0])
        return found

    def _python_attribute(self, value: Any, name: str, site: Site) -> Any:
        if name in ("__len__", "__name__", "__class__") or name.startswith("__"):
            return Unknown(f"no attribute `{name}`")
        if isinstance(value, (list, dict, set)) and name in CONTAINER_METHODS and hasattr(value, name):
            return Native(name, lambda args, kwargs, at: self._container_call(value, name, args, kwargs, at))
        if isinstance(value, (int, float)) and name in ("item", "detach", "cpu", "numpy"):
            return Native(name, lambda args, kwargs, site: value)
        if isinstance(value, list) and name in ("tolist", "astype", "flatten"):
            return Native(name, lambda args, kwargs, site: value)
        if isinstance(value, WholeNumbers) and name in ("shape", "size"):
            return value.shape if name == "shape" else len(value)
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
        if isinstance(value, list) and args and _holds_layers(args):
            if name == "append":
                args = [self.placed(args[0], value)]
            elif name in ("extend", "insert"):
                args = [[self.placed(v, value) for v in args[0]]] if isinstance(args[0], (list, tuple)) else args
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


def _holds_layers(args: list[Any]) -> bool:
    flat = [v for a in args for v in (a if isinstance(a, (list, tuple)) else [a])]
    return any(isinstance(v, (Module, Choice)) for v in flat)
