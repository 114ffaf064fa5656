"""Runs a model's own forward and meets each of its operations in execution order, under a fixed name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradlint.graph.frames import user_location
from gradlint.graph.kinds import (
    Kind,
    function_kind,
    module_kind,
    operation_name,
    parameter_arguments,
    role,
)
from gradlint.graph.naming import Namer, is_sharded
from gradlint.graph.trace_custom import Faithful, handlers, intercept, plain_forward
from gradlint.location import Location

VALUES = frozenset(["__bool__", "item", "tolist", "__int__", "__float__", "__index__", "numpy", "__complex__"])
"""Functions that ask a tensor for its value."""


@dataclass
class OperationCall:
    """One operation of a run.

    `name` is the same in every run of the model; `kind`, `op` and `attributes` are as in
    `gradlint.graph.model`. `module` is the torch.nn leaf that is called, or None for a function; `path` is
    the leaf's own, or that of the module whose forward called the function.
    `parameters` maps roles ("weight") to names of the module's parameters. `location` is the user's line, where
    the walk looks for it.
    """

    name: str
    kind: str
    op: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None
    path: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    location: Location | None = None
    inplace: bool = False

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, in order."""
        return list(tensors_in((self.args, self.kwargs)))


class OperationWalk(TorchFunctionMode):
    """A context in which calling `module` hands each operation to `operation`.

    An operation is one call of a torch.nn leaf of known kind taken as a whole, or a call of a function or method on
    tensors outside of one. Containers and the user's own modules are entered. What happens outside of a call of
    `module` (a loss, an optimizer) passes untouched. Use one walk a run; entering it again starts the names anew.

    `root` is the project root (see `is_user_file`); `locate` asks for the user's line of each operation.
    """

    def __init__(self, module: nn.Module, root: str = "", *, locate: bool = False) -> None:
        super().__init__()
        self.model = module
        self.root = root
        self.locate = locate
        self.namer = Namer(module)
        self._stack: list[nn.Module] = []
        self._paths: list[str] = []
        self._inside = 0
        self._faithful = Faithful()
        self._restore: list[Callable[[], None]] = []

    # ---- what subclasses override ---------------------------------------------------------------------------

    def operation(self, call: OperationCall, run: Callable[..., Any]) -> Any:
        """Do one operation and return its result.

        `run()` makes the call as it is, `run(*args, **kwargs)` with other arguments.
        """
        return run()

    def value(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a question for a tensor's value (`bool(x)`, `x.item()`)."""
        return func(*args, **kwargs)

    def passed_on(self, given: Any, received: Any) -> None:
        """An engine's hooks made `received` of the arguments, or of the output, of a module that were `given`."""

    # ---- the context ----------------------------------------------------------------------------------------

    def __enter__(self) -> OperationWalk:
        """Patch module calls and custom autograd functions, and begin the names anew."""
        self.namer.restart()
        self._stack, self._paths, self._inside = [], [], 0
        self._patch()
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        """Take the patches back."""
        super().__exit__(*exc)
        while self._restore:
            self._restore.pop()()

    def _patch(self) -> None:
        call = nn.Module.__call__
        walk = self

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return walk._module_call(call, module, args, kwargs)

        nn.Module.__call__ = called
        self._restore.append(lambda: setattr(nn.Module, "__call__", call))
        self._restore.append(intercept())
        handlers.append(self._custom_function)
        self._restore.append(lambda: handlers.remove(self._custom_function))
        backend = getattr(torch.backends, "mha", None)
        if backend is not None:
            # The fused encoder layer would hide its own operations.
            before = backend.get_fastpath_enabled()
            backend.set_fastpath_enabled(False)
            self._restore.append(lambda: backend.set_fastpath_enabled(before))

    # ---- modules --------------------------------------------------------------------------------------------

    def _module_call(
        self, original: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._inside or not (self._stack or module is self.model):
            return original(module, *args, **kwargs)
        compiled = module.__dict__.get("_modules", {}).get("_orig_mod")
        if compiled is not None:
            return self._entered(compiled, module, args, kwargs)
        _materialize(module, args, kwargs)
        kind = module_kind(module)
        path = self.namer.path(module, self._paths[-1] if self._paths else "")
        if kind is None:
            whole = self._sharded(original, module) if is_sharded(module) else partial(original, module)
            return self._entered(whole, module, args, kwargs)
        call = OperationCall(
            self.namer.module_call(path),
            kind.kind,
            kind.op,
            module,
            args,
            kwargs,
            attributes=dict(kind.attributes),
            module=module,
            path=path,
            parameters=self._parameters_of(module, path),
            location=user_location(self.root, 2) if self.locate else None,
            inplace=bool(getattr(module, "inplace", False)),
        )
        return self._run(call, lambda *a, **k: original(module, *a, **k))

    def _entered(
        self, forward: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.namer.path(module, self._paths[-1] if self._paths else "")
        self._stack.append(module)
        self._paths.append(path)
        try:
            return forward(*args, **kwargs)
        finally:
            self._stack.pop()
            self._paths.pop()

    def _sharded(self, original: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
        """The call of a module that FSDP2 manages: what its hooks do to gather parameters is none of the model's."""
        forward = module.forward

        given: list[Any] = []

        def own(*args: Any, **kwargs: Any) -> Any:
            self.passed_on(given.pop(), (args, kwargs))
            self._inside -= 1
            try:
                given.append(forward(*args, **kwargs))
            finally:
                self._inside += 1
            return given[-1]

        def run(*args: Any, **kwargs: Any) -> Any:
            given.append((args, kwargs))
            held = module.__dict__.get("forward")
            module.__dict__["forward"] = own
            self._inside += 1
            try:
                output = original(module, *args, **kwargs)
                self.passed_on(given.pop(), output)
            finally:
                self._inside -= 1
                module.__dict__.pop("forward")
                if held is not None:
                    module.__dict__["forward"] = held
            return output

        return run

    def _parameters_of(self, module: nn.Module, path: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for own, parameter in module.named_parameters(remove_duplicate=False):
            name = self.namer.parameter(parameter) or self.namer.held_by(path, own)
            if name is not None:
                found.setdefault(role(own), name)
        return found

    # ---- functions ------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Meet a function or method call."""
        known = dict(kwargs or {})
        if self._inside or not self._stack:
            return func(*args, **known)
        name = getattr(func, "__name__", "")
        if name == "cuda" and args and not torch.cuda.is_available():
            return args[0]
        if name in VALUES:
            return self.value(func, args, known)
        if name in _SILENT or (name == "__get__" and operation_name(func) not in _DATA_ATTRIBUTES):
            return func(*args, **known)
        return self._function_call(func, args, known)

    def _function_call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        op = operation_name(func)
        kind, parameters = self._function_kind(op, args, kwargs)
        name = getattr(func, "__name__", "")
        call = OperationCall(
            self.namer.function_call(op.removeprefix("get_")),
            kind.kind,
            kind.op,
            func,
            args,
            kwargs,
            attributes=dict(kind.attributes),
            path=self._paths[-1],
            parameters=parameters,
            location=user_location(self.root, 3) if self.locate else None,
            inplace=(name.endswith("_") and not name.endswith("__"))
            or (name.startswith("__i") and name not in ("__invert__", "__index__", "__int__"))
            or name == "__setitem__"
            or kwargs.get("inplace") is True,
        )
        return self._run(call, func)

    def _function_kind(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Kind, dict[str, str]]:
        with torch._C.DisableTorchFunction():
            product = self._weight_product(op, args)
            if product is not None:
                return product
            kind = function_kind(op, args, kwargs)
            named = {r: self.namer.parameter(t) for r, t in parameter_arguments(op, args, kwargs).items()}
        return kind, {r: n for r, n in named.items() if n is not None}

    def _weight_product(self, op: str, args: tuple[Any, ...]) -> tuple[Kind, dict[str, str]] | None:
        """`x @ W` and `addmm(b, x, W)` with a parameter W are linear layers."""
        bias: Any = None
        match op, args:
            case (("matmul" | "mm"), (_, weight)):
                pass
            case "addmm", (bias, _, weight):
                pass
            case _:
                return None
        name = self.weight_name(weight) if isinstance(weight, Tensor) and weight.dim() == 2 else None
        if name is None:
            return None
        transposed = self.namer.parameter(weight) is not None
        roles = {"weight": name}
        bias_name = self.namer.parameter(bias) if isinstance(bias, Tensor) else None
        if bias_name is not None:
            roles["bias"] = bias_name
        sizes = {"in_features": int(weight.shape[0]), "out_features": int(weight.shape[1])}
        return Kind("linear", "linear", {**sizes, "bias": bias is not None, "transposed": transposed}), roles

    def weight_name(self, weight: Tensor) -> str | None:
        """The name of a parameter, or of that of which a matrix is the transpose (`W.T`)."""
        base = weight._base
        if base is not None and _is_transposed(weight, base):
            return self.namer.parameter(base)
        return self.namer.parameter(weight)

    def _custom_function(
        self,
        original: Callable[..., Any],
        cls: type[torch.autograd.Function],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._inside or not self._stack:
            return original(*args, **kwargs)
        if cls.__module__ == "torch.utils.checkpoint" and args and callable(args[0]):
            # Recomputation hides the operations inside; without it the result is the same.
            return args[0](*args[2:])
        self._inside += 1
        try:
            derived = self._faithful(cls, original, args)
        finally:
            self._inside -= 1
        if derived:
            return plain_forward(cls)(*args, **kwargs)
        op = cls.__name__
        call = OperationCall(
            self.namer.function_call(op.lower()),
            "unknown",
            op,
            original,
            args,
            kwargs,
            path=self._paths[-1],
            location=user_location(self.root, 3) if self.locate else None,
        )
        return self._run(call, original)

    def _run(self, call: OperationCall, function: Callable[..., Any]) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            self._inside += 1
            try:
                if args or kwargs:
                    return function(*args, **kwargs)
                return function(*call.args, **call.kwargs)
            finally:
                self._inside -= 1

        self._inside += 1
        try:
            return self.operation(call, run)
        finally:
            self._inside -= 1


_DATA_ATTRIBUTES = frozenset(["get_T", "get_mT", "get_H", "get_data", "get_real", "get_imag"])
_SILENT = frozenset(
    ["size", "dim", "numel", "stride", "is_floating_point", "is_complex", "requires_grad_", "register_hook", "backward"]
)
_SILENT |= frozenset(["retain_grad", "data_ptr", "storage_offset", "is_contiguous", "untyped_storage", "element_size"])
_SILENT |= frozenset(["__len__", "__set__", "__repr__", "__format__", "__hash__", "is_same_size", "get_device", "ndim"])
_SILENT |= frozenset(["__contains__", "__dir__", "__reduce_ex__", "_is_view", "result_type", "broadcast_shapes"])
_SILENT |= frozenset(["is_tensor", "nelement", "ndimension", "__setstate__", "is_nonzero", "allclose", "equal"])
_SILENT |= frozenset(["_make_subclass", "as_subclass", "set_", "resize_", "__delattr__", "is_signed", "is_inference"])


def _is_transposed(weight: Tensor, base: Tensor) -> bool:
    """Whether a view is the whole of a matrix on its side."""
    if base.dim() != 2 or tuple(base.shape) != tuple(weight.shape)[::-1]:
        return False
    return bool(base.stride() == weight.stride()[::-1] and base.storage_offset() == weight.storage_offset())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors inside nested lists, tuples, dicts and dataclass-like outputs, in order."""
    match value:
        case Tensor():
            yield value
        case list() | tuple():
            for item in value:
                yield from tensors_in(item)
        case Mapping():
            for item in value.values():
                yield from tensors_in(item)
        case slice():
            yield from tensors_in((value.start, value.stop, value.step))


def _materialize(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Give a lazy module its shapes, as its first call would."""
    infer = getattr(module, "_infer_parameters", None)
    if infer is None or not getattr(module, "has_uninitialized_params", lambda: False)():
        return
    with torch._C.DisableTorchFunction():
        infer(module, args, kwargs) if kwargs else infer(module, args)
    module.__dict__["_gradlint_lazy"] = True
