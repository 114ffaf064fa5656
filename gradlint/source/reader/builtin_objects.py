"""Python's built-ins over objects: their types, attributes and copies."""

from __future__ import annotations

import builtins
import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

from gradlint.source.eval_text import MAX_TEXT, parsed
from gradlint.source.reader.builtin_sequences import BuiltinSequences
from gradlint.source.reader.class_names import class_text
from gradlint.source.reader.external_names import (
    PLAIN_CALLS,
    TYPES,
)
from gradlint.source.reader.machine import MAX_NAMES
from gradlint.source.reader.values import (
    Array,
    Choice,
    External,
    Frame,
    Function,
    Instance,
    Module,
    NativeCall,
    Site,
    Tensor,
    Unknown,
    UserClass,
    contains_tensor,
    is_plain,
    merge,
)


@lru_cache(MAX_NAMES)
def _builtin(name: str) -> External | None:
    known = name in PLAIN_CALLS or name in TYPES or hasattr(builtins, name)
    return External(name) if known else None


class BuiltinObjects(BuiltinSequences):
    """Built-ins that look into, change and copy objects, and the way to every built-in by its name."""

    def builtin(self, name: str) -> Any:
        """A Python built-in, or Unknown for a name that nothing binds."""
        return _builtin(name) or Unknown(f"`{name}` is not defined in the project")

    def builtin_call(self, name: str) -> NativeCall:
        """What a call of a built-in does."""
        own: NativeCall | None = getattr(self, f"_builtin_{name}", None)
        return own or (lambda args, kwargs, site: self._call_builtin(name, args, kwargs, site))

    def _call_builtin(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
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

    def is_instance(self, value: Any, kind: Any) -> bool | None:
        """isinstance(value, kind), None if it is not known."""
        raise NotImplementedError

    def set_attribute(self, owner: Any, name: str, value: Any, site: Site) -> None:
        """owner.name = value."""
        raise NotImplementedError

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
            return self._with_prefix(args)
        value = self.attribute(args[0], args[1], site)
        if len(args) > 2 and isinstance(value, Unknown) and value.reason.startswith("no attribute"):
            return args[2]
        return value

    def _with_prefix(self, args: list[Any]) -> Any:
        """getattr(module, f"layer{i}") with an unknown i: one of the layers whose names begin so."""
        if len(args) > 1 and isinstance(args[0], Module) and isinstance(args[1], Unknown) and args[1].prefix:
            held = [c for n, c in args[0].children.items() if n.startswith(args[1].prefix)]
            if held:
                return merge(held, "which layer is not known")
        return Unknown("an attribute whose name is not known")

    def _builtin_setattr(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if len(args) != 3:
            return None
        owner, name, value = args
        if isinstance(name, Unknown) and name.prefix and isinstance(owner, Module):
            name = f"{name.prefix}{len(owner.children)}"
        if isinstance(name, str):
            self.set_attribute(owner, name, self.placed(value, owner) if isinstance(value, Module) else value, site)
        return None

    def _builtin_vars(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        value = args[0] if args else None
        return dict(value.attributes) if isinstance(value, Instance) else Unknown("vars")

    def evaluate_text(self, args: list[Any], frame: Frame, site: Site) -> Any:
        """eval(text), with the names of a frame."""
        if not args or not isinstance(args[0], str) or len(args[0]) >= MAX_TEXT:
            return Unknown("eval")
        tree = parsed(args[0], site.node)
        return Unknown("eval") if tree is None else self.evaluate(tree, frame)

    def _builtin_eval(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.evaluate_text(args, self.file_frame(site.file), site)

    def _builtin_str(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        text = class_text(args[0]) if len(args) == 1 else None
        if text is not None:
            return text
        known = all(is_plain(a) for a in (*args, *kwargs.values()))
        return str(*args) if known and len(args) < 2 and not kwargs else Unknown("the value of `str(…)`")

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
