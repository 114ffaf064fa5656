"""Models without a forward, which are called by methods of other names, such as an actor with its critic."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

_CUT = re.compile(r"no_grad|inference_mode|\.detach\(|\.numpy\(|\.item\(|\.backward\(|\.step\(")
"""In methods that act rather than train: their results have no gradient."""
_MEMBER = re.compile(r"\bself\.(\w+)")


def give_forward(model: nn.Module) -> str | None:
    """Let a model without a forward be called as the method that is likeliest trained; what was chosen, or None.

    That is the method that uses most of its parts and cuts no gradient off, else all its parts side by side.
    """
    if "forward" in model.__dict__ or _is_written(type(model).forward):
        return None
    best = max(_methods(type(model)), key=lambda m: _score(model, m), default=None)
    if best is not None and _score(model, best)[0] > 0:
        model.__dict__["forward"] = types.MethodType(getattr(type(model), best), model)
        return f"the model has no forward: its method `{best}` was followed"
    parts = [name for name, part in model.named_children() if _takes_one(part)]
    if not parts:
        return None
    model.__dict__["forward"] = types.MethodType(_side_by_side(parts), model)
    return f"the model has no forward: {', '.join(f'`{p}`' for p in parts)} were followed side by side"


def _side_by_side(parts: list[str]) -> Callable[..., Any]:
    def forward(self: nn.Module, x: Tensor) -> tuple[Any, ...]:
        return tuple(self.get_submodule(part)(x) for part in parts)

    return forward


def _is_written(forward: Callable[..., Any]) -> bool:
    """Whether a forward does more than raise NotImplementedError."""
    if forward is nn.Module.forward:
        return False
    body = [s for s in _body(forward) if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return not body or not all(isinstance(s, ast.Pass) or "NotImplemented" in ast.unparse(s) for s in body)


def _body(function: Callable[..., Any]) -> list[ast.stmt]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return []
    return next((n.body for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))), [])


def _methods(cls: type) -> Iterator[str]:
    """The public methods that take something, in the order of their definition."""
    for owner in cls.__mro__[: cls.__mro__.index(nn.Module)]:
        for name, function in vars(owner).items():
            if isinstance(function, types.FunctionType) and not name.startswith("_") and name != "forward":
                yield name


def _required(function: Callable[..., Any]) -> int:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _score(model: nn.Module, name: str) -> tuple[int, int]:
    """(parts that a method uses, as few arguments as possible); no parts where it cuts gradients or takes nothing."""
    function = getattr(type(model), name)
    required = _required(function)
    text = _source(function)
    if not required or _CUT.search(text):
        return 0, 0
    return len(_parts(model, text, {name})), -required


def _parts(model: nn.Module, text: str, seen: set[str]) -> set[str]:
    """The children that a method calls, itself or through others."""
    children = dict(model.named_children())
    found: set[str] = set()
    for member in _MEMBER.findall(text):
        if member in children:
            found.add(member)
        elif member not in seen and isinstance(getattr(type(model), member, None), types.FunctionType):
            seen.add(member)
            found |= _parts(model, _source(getattr(type(model), member)), seen)
    return found


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def _takes_one(part: nn.Module) -> bool:
    return _is_written(type(part).forward) and _required(type(part).forward) == 1
