"""Calls of every kind of value: functions of the project, classes, modules."""

from __future__ import annotations

import ast
from typing import Any

from gradlint.source.reader.assumptions import Pick
from gradlint.source.reader.by_type import ByType
from gradlint.source.reader.layers import LAYERS
from gradlint.source.reader.library import LIBRARY_PATHS
from gradlint.source.reader.machine import MAX_DEPTH
from gradlint.source.reader.members import Members
from gradlint.source.reader.signatures import signature_of
from gradlint.source.reader.values import (
    Bound,
    Choice,
    External,
    Frame,
    Function,
    Instance,
    Module,
    Native,
    OutOfStepsError,
    ReadingStoppedError,
    Site,
    Unknown,
    UserClass,
    contains_tensor,
    merge,
    site_of,
)
from gradlint.source.walking import child_nodes


class Calls(Members):
    """Calls functions and constructs instances."""

    def call(self, callee: Any, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """Call a value."""
        self.steps += 1
        if self.steps > self.limit:
            raise OutOfStepsError
        return _CALLED[type(callee)](self, callee, args, kwargs, site)

    def _call_native(self, callee: Native, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return callee.call(args, kwargs, site)

    def _call_outside(self, callee: External, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """Call something outside the project."""
        call = self.outside_calls[callee.name]
        return call(args, kwargs, self.user_site(site) if self.operations is not None else site)

    def _call_bound(self, callee: Bound, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self.call_function(callee.function, args, kwargs, site, callee.receiver)

    def _call_instance(self, callee: Instance, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        method = callee.cls.find("__call__") if callee.cls else None
        if isinstance(method, Function):
            return self.call_function(method, args, kwargs, site, callee)
        return self._call_unfollowed(callee, args, kwargs, site)

    def _call_choice(self, callee: Choice, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if self.operations is None:
            results = [self.call(v, args, kwargs, site) for v in callee.values if not isinstance(v, Unknown)]
            return merge(results, "the result of alternatives") if results else Unknown("a call")
        taken = self._taken(callee, site)
        if taken is not None:
            return self.call(taken, args, kwargs, site)
        return self._call_unfollowed(callee, args, kwargs, site)

    def _call_none(self, callee: None, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return Unknown("None is called")

    def _call_unfollowed(self, callee: Any, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """Call something that the source does not tell, or that is no function."""
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

    def _taken(self, choice: Choice, site: Site) -> Any:
        """Which of the alternatives is called in this reading of the graph; None if that cannot be asked."""
        assert self.operations is not None
        real = [v for v in choice.values if v is not None and not isinstance(v, Unknown)]
        doubtful = any(isinstance(v, Unknown) for v in choice.values)
        if _alike(choice.values):
            note = f"`{site.text}` at line {site.location.line} is one of {len(real)} layers of one kind"
            if note not in self.operations.builder.notes:
                self.operations.builder.notes.append(note)
            return real[0]
        if len(real) == 1:
            return real[0] if not doubtful or self.is_there(choice, site) else None
        if doubtful or not real:
            return None
        key = tuple(_described(v) for v in real)
        pick = self.assumptions.picks.get(key)
        if pick is None:
            names = tuple(_name_of(v) for v in real)
            reason = f"which of {', '.join(names)} `{site.text}` calls is not known"
            raise ReadingStoppedError(site, reason, Pick(key, names))
        return real[pick]

    def is_there(self, choice: Choice, site: Site) -> bool:
        """Whether a layer that stands under a condition is there in this reading of the graph."""
        layer = choice.values[0]
        if isinstance(layer, Module) and layer.torch in LAYERS and LAYERS[layer.torch].kind == "dropout":
            return True
        if choice.condition is None:
            return False
        truth = self.assumptions.truth(choice.condition)
        if truth is None:
            text = ast.unparse(choice.condition)
            raise ReadingStoppedError(site, f"whether there is a layer depends on `{text}`", choice.condition)
        return truth is choice.holds

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
                        return self.call(value, [], {}, site_of(cls.frame.file, keyword.value))
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
        self, function: Function, args: list[Any], kwargs: dict[str, Any], site: Site, receiver: Any = None
    ) -> Any:
        """Call a function of the project."""
        function.called = True
        if self.depth > MAX_DEPTH:
            return Unknown("calls are nested too deeply")
        outer = self.running.get(function.node)
        if outer is not None and self.regions > outer:
            return self._endless(function, args, kwargs, site, receiver)
        frame = Frame(function.frame.file, {}, outer=function.frame, owner=function.owner)
        if receiver is not None and function.role != "staticmethod":
            args = [receiver, *args]
            frame.receiver = receiver
        self._bind(function, args, kwargs, frame)
        if frame.receiver is None and function.owner is not None and args:
            frame.receiver = args[0]
        outside = frame.file.path in LIBRARY_PATHS and site.file.path not in LIBRARY_PATHS
        kept_site, kept = self.outer_site, (self.uncertain, self.rounds)
        if outside:
            self.outer_site = site
        self.depth += 1
        self.uncertain = self.rounds = 0
        self.running[function.node] = self.regions
        try:
            if isinstance(function.node, ast.Lambda):
                return self.evaluate(function.node.body, frame)
            if function.is_generator:
                frame.yields = []
            jump = self.execute(function.node.body, frame)
        finally:
            self.depth -= 1
            self.uncertain, self.rounds = kept
            if outer is None:
                del self.running[function.node]
            else:
                self.running[function.node] = outer
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

    def _endless(self, function: Function, args: list[Any], kwargs: dict[str, Any], site: Site, receiver: Any) -> Any:
        """A function that calls itself under a condition that is not known: following it would double at every turn."""
        reason = f"`{function.name}` calls itself, and when that ends is not known"
        if isinstance(receiver, Module) and function.name == "__init__":
            receiver.opaque = reason
        if self.operations is not None and contains_tensor([*args, *kwargs.values()]):
            return self.operations.unknown(function.name, args, kwargs, site)
        return Unknown(reason)

    def _bind(self, function: Function, args: list[Any], kwargs: dict[str, Any], frame: Frame) -> None:
        signature = signature_of(function.node)
        names, values = signature.positional, frame.names
        values.update(zip(names, args, strict=False))
        first_default = len(names) - len(function.defaults)
        for index in range(len(args), len(names)):
            name = names[index]
            if name in kwargs:
                values[name] = kwargs[name]
            elif index >= first_default:
                values[name] = function.defaults[index - first_default]
            else:
                values[name] = Unknown(f"the argument `{name}` of `{function.name}` is not known")
        for name, default in zip(signature.keyword_only, function.keyword_defaults, strict=True):
            values[name] = kwargs.get(name, default)
        if signature.rest is not None:
            values[signature.rest] = tuple(args[len(names) :])
        if signature.keywords is not None:
            taken = {*names, *signature.keyword_only}
            values[signature.keywords] = {k: v for k, v in kwargs.items() if k not in taken}


_CALLED = ByType(
    {
        Native: Calls._call_native,
        External: Calls._call_outside,
        Module: Calls.call_module,
        Function: Calls.call_function,
        Bound: Calls._call_bound,
        UserClass: Calls.construct,
        Instance: Calls._call_instance,
        Choice: Calls._call_choice,
        type(None): Calls._call_none,
    },
    Calls._call_unfollowed,
)
"""What is done with a callee of each type."""


def _name_of(value: Any) -> str:
    return value.class_name if isinstance(value, Module) else str(getattr(value, "name", type(value).__name__))


def _described(value: Any) -> str:
    """A text that is equal for what is made at one place, and differs between the alternatives."""
    if isinstance(value, Module):
        return f"{value.class_name}:{value.site.file.path}:{getattr(value.site.node, 'lineno', 0)}"
    return _name_of(value)


def _alike(values: tuple[Any, ...]) -> bool:
    """Whether alternatives are layers of one torch.nn class, so that only their sizes or laws are in doubt."""
    return all(isinstance(v, Module) and v.torch in LAYERS and v.cls is None for v in values) and (
        len({v.torch for v in values}) == 1
    )


def _yields(body: list[ast.stmt]) -> bool:
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            pending.extend(child_nodes(node))
    return False
