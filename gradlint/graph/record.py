"""Writes the run of a model as a torch.fx graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from gradlint.graph.trace_constants import ConstantValues, check_rows, forget_values, values_of
from gradlint.graph.trace_guess import guess_output, guess_value, needs_values
from gradlint.graph.trace_masks import added_mask, mask_of
from gradlint.graph.trace_shapes import known_result
from gradlint.graph.walk import OperationCall, OperationWalk, tensors_in
from gradlint.location import Location

TAG = "_gradlint_node"
"""The producing fx node rides on the tensor under this attribute."""

MAX_OPERATIONS = 400_000
"""A forward of more operations than this is a program rather than a model; a person would not wait for it."""


class ValueAskedError(Exception):
    """The model asked a tensor without data for its value."""


class TooLongError(Exception):
    """The forward makes more operations than can be listed."""


@dataclass
class Record:
    """What is known of one fx node: the operation, its operands in order, and the first output's type.

    `values` are the moments of an output that depends on constants alone.
    """

    name: str
    kind: str
    op: str
    attributes: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    path: str = ""
    operands: list[fx.Node] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    floating: bool = True
    location: Location | None = None
    grad: bool = True
    values: dict[str, Any] | None = None


class Recorder(OperationWalk):
    """Records each operation as a node of `graph`; the details are in `node.meta["gradlint"]`.

    With `guess` a tensor that has no data answers questions for its value: `bool` with False, numbers with 1,
    data-dependent shapes with their upper bound.
    """

    def __init__(self, module: nn.Module, root: str = "", *, guess: bool = False) -> None:
        super().__init__(module, root, locate=True)
        self.graph = fx.Graph()
        self.guess = guess
        self.guesses: list[str] = []
        self.names_device = False
        self._attributes: dict[str, fx.Node] = {}
        self._constants = ConstantValues(self._is_made)
        self._count = 0

    # ---- inputs and outputs ---------------------------------------------------------------------------------

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the model on these inputs, each tensor of which becomes a placeholder."""
        for i, value in enumerate(args):
            self._placeholders(f"input{i + 1}" if len(args) > 1 else "input", value)
        for name, value in kwargs.items():
            self._placeholders(name, value)
        with self, torch.enable_grad():
            output = self.model(*args, **dict(kwargs))
        sources = [self._source(t) for t in output_tensors(output)]
        node = self.graph.output(tuple(dict.fromkeys(sources)))
        node.meta["gradlint"] = Record("output", "output", "output", operands=list(dict.fromkeys(sources)))
        return output

    def _placeholders(self, name: str, value: Any) -> None:
        found = list(tensors_in(value))
        for k, tensor in enumerate(found):
            own = name if len(found) == 1 else f"{name}.{k}"
            node = self.graph.placeholder(own.replace(".", "_"))
            dtype = str(tensor.dtype).removeprefix("torch.")
            node.meta["gradlint"] = Record(
                self._free(own), "input", "input", {"dtype": dtype}, shape=tuple(tensor.shape), dtype=dtype
            )
            node.meta["gradlint"].floating = tensor.is_floating_point()
            setattr(tensor, TAG, node)

    def _free(self, name: str) -> str:
        return name if name not in self.namer.taken else f"{name} (input)"

    def passed_on(self, given: Any, received: Any) -> None:
        """What comes out of an engine's hooks has the producer of what went in."""
        for before, after in zip(tensors_in(given), tensors_in(received), strict=False):
            node = before.__dict__.get(TAG)
            if node is not None and after is not before:
                setattr(after, TAG, node)

    # ---- operations -----------------------------------------------------------------------------------------

    def operation(self, call: OperationCall, run: Callable[..., Any]) -> Any:
        """Make the call, and write a node for it if it yields tensors."""
        self._count += 1
        if self._count > MAX_OPERATIONS:
            raise TooLongError(f"the forward pass makes more than {MAX_OPERATIONS} operations")
        check_rows(call)
        operands = self._operands(call)
        with torch._C.DisableTorchFunction():
            versions = [(t, t._base) for t in call.tensors[:1]] if call.inplace else []
        output = self._guarded(call, run)
        results = list(tensors_in(output))
        if call.op == "setitem" and isinstance(call.args[0], Tensor):
            results = [call.args[0]]
        if not results:
            return output
        self._constants.follow(call, results)
        node = self._write(call, operands, results[0])
        self._tag(node, results)
        for tensor, base in versions:
            if base is not None:
                if values_of(tensor) is None:
                    forget_values(base)
                self._written_through(base, node, call)
        return output

    def _guarded(self, call: OperationCall, run: Callable[..., Any]) -> Any:
        same = known_result(call)
        if same is not None:
            return same
        if not self.guess:
            try:
                return run()
            except (NotImplementedError, RuntimeError) as error:
                if any(t.device.type == "meta" for t in call.tensors) and needs_values(error):
                    raise ValueAskedError(f"`{call.op}` needs values") from error
                raise
        try:
            return run()
        except (NotImplementedError, RuntimeError) as error:
            if not needs_values(error):
                raise
            guessed = guess_output(call)
            if guessed is None:
                raise
            self.guesses.append(call.op)
            return guessed

    def value(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a question for a value from data, else by a guess if that is allowed."""
        tensor = args[0] if args else None
        if not isinstance(tensor, Tensor) or tensor.device.type != "meta":
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        held = values_of(tensor)
        if held is not None:
            return func(held, *args[1:], **kwargs)
        if not self.guess:
            raise ValueAskedError(f"`{name.strip('_')}` asks for a value")
        self.guesses.append(name.strip("_"))
        return guess_value(name, tensor)

    def _write(self, call: OperationCall, operands: list[fx.Node], result: Tensor) -> fx.Node:
        def node_of(value: Any) -> Any:
            return self._source(value) if isinstance(value, Tensor) else value

        args, kwargs = _mapped(call.args, node_of), _mapped(call.kwargs, node_of)
        if call.module is not None:
            node = self.graph.create_node("call_module", call.path or "model", args, kwargs)
        else:
            node = self.graph.create_node("call_function", call.func, args, kwargs)
        node.meta["gradlint"] = Record(
            call.name,
            call.kind,
            call.op,
            {**call.attributes, **mask_of(call)},
            call.parameters,
            call.path,
            operands,
            tuple(result.shape),
            str(result.dtype).removeprefix("torch."),
            result.is_floating_point() or result.is_complex(),
            call.location,
            torch.is_grad_enabled(),
            _moments_of(result),
        )
        return node

    def _tag(self, node: fx.Node, results: list[Tensor]) -> None:
        """Put the producer on each result; of several, each is a node of its own that picks one."""
        if len(results) == 1:
            setattr(results[0], TAG, node)
            return
        whole: Record = node.meta["gradlint"]
        for k, tensor in enumerate(results):
            piece = self.graph.create_node("call_function", _pick, (node, k))
            piece.meta["gradlint"] = Record(
                f"{whole.name}:{k}",
                "reshape",
                "expand" if whole.op == "broadcast_tensors" else "getitem",
                {"index": str(k), "output": k} if whole.op != "broadcast_tensors" else {},
                path=whole.path,
                operands=[whole.operands[k]] if whole.op == "broadcast_tensors" else [node],
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                floating=tensor.is_floating_point() or tensor.is_complex(),
                location=whole.location,
                grad=whole.grad,
                values=_moments_of(tensor),
            )
            setattr(tensor, TAG, piece)

    def _written_through(self, base: Tensor, node: fx.Node, call: OperationCall) -> None:
        """An in-place change of a view changes the tensor that it looks into."""
        before = self._source(base)
        changed = self.graph.create_node("call_function", _pick, (before, node))
        changed.meta["gradlint"] = Record(
            f"{call.name}:base",
            "unknown",
            "setitem",
            path=call.path,
            operands=[before, node],
            shape=tuple(base.shape),
            dtype=str(base.dtype).removeprefix("torch."),
            floating=base.is_floating_point(),
            location=call.location,
        )
        setattr(base, TAG, changed)

    # ---- operands -------------------------------------------------------------------------------------------

    def _operands(self, call: OperationCall) -> list[fx.Node]:
        roles = set(call.parameters.values()) if call.module is None else set()
        found = []
        for tensor in self._data(call):
            if roles and self._weight(tensor) in roles:
                continue
            found.append(self._source(tensor))
        return found

    def _weight(self, tensor: Tensor) -> str | None:
        with torch._C.DisableTorchFunction():
            return self.weight_name(tensor)

    def _data(self, call: OperationCall) -> list[Tensor]:
        """The tensors that carry data into a call: no running statistics, no masks of an attention."""
        if call.kind == "attention":
            names = ("query", "key", "value")
            bound = dict(zip(names, call.args, strict=False)) | {k: v for k, v in call.kwargs.items() if k in names}
            return [v for k in names if isinstance(v := bound.get(k), Tensor)]
        if call.kind == "normalization" and call.module is None:
            return call.tensors[:1]
        if call.op in ("rdiv", "rmatmul"):
            return list(tensors_in(tuple(reversed(call.args[:2]))))
        if call.op == "setitem" and len(call.args) > 2:
            return list(tensors_in((call.args[0], call.args[2])))
        if call.op == "copy" and len(call.args) > 1:
            return list(tensors_in(call.args[1]))
        return call.tensors

    def _is_made(self, tensor: Tensor) -> bool:
        """Whether an operation or an input made a tensor, rather than the model holding it."""
        node = tensor.__dict__.get(TAG)
        return isinstance(node, fx.Node) and node.graph is self.graph and node.op != "get_attr"

    def _source(self, tensor: Tensor) -> fx.Node:
        """The node that made a tensor; a parameter, buffer or constant gets its own on first use."""
        node = tensor.__dict__.get(TAG) if hasattr(tensor, "__dict__") else None
        if isinstance(node, fx.Node) and node.graph is self.graph:
            return node
        parameter, buffer = self.namer.parameter(tensor), self.namer.buffers.get(id(tensor))
        name = parameter or buffer or f"constant{len(self._attributes) + 1}"
        if name not in self._attributes or not (parameter or buffer):
            node = self.graph.create_node("get_attr", name)
            record = Record(name, "parameter", "parameter" if parameter else "buffer", parameters={"weight": name})
            held = _moments_of(tensor) if buffer else None
            if not parameter and not buffer:
                record = Record(name, "constant", "constant", _constant(tensor))
            elif held and held.get("mask"):
                record = Record(name, "constant", "constant", held)
            record.shape, record.dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
            record.floating = tensor.is_floating_point() or tensor.is_complex()
            node.meta["gradlint"] = record
            self._attributes[name] = node
            if not parameter and not buffer:
                setattr(tensor, TAG, node)
        return self._attributes[name]


def _moments_of(tensor: Tensor) -> dict[str, Any] | None:
    values = values_of(tensor)
    return None if values is None else _constant(values)


def _pick(value: Any, index: Any) -> Any:
    return value[index]


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    match value:
        case Tensor():
            return change(value)
        case dict():
            return {k: _mapped(v, change) for k, v in value.items()}
        case tuple() | list():
            return type(value)([_mapped(v, change) for v in value]) if type(value) in (tuple, list) else ()
        case _:
            return value if isinstance(value, (int, float, str, bool, type(None))) else str(type(value).__name__)


def _constant(tensor: Tensor) -> dict[str, Any]:
    """What a constant holds, as far as it has data: its value if it is the same everywhere, mean and std."""
    if tensor.device.type == "meta" or not tensor.numel() or not tensor.is_floating_point():
        return {"value": None}
    with torch._C.DisableTorchFunction(), torch.no_grad():
        values = tensor.detach().double()
        mask = added_mask(values)
        if mask:
            return mask
        mean, std = float(values.mean()), float(values.std(correction=0))
        return {"value": mean if std == 0.0 else None, "mean": mean, "std": std}


def output_tensors(value: Any, depth: int = 3) -> Iterator[Tensor]:
    """The tensors of a forward's result, those inside plain objects (distributions, dataclasses) included."""
    match value:
        case Tensor():
            yield value
        case list() | tuple():
            for item in value:
                yield from output_tensors(item, depth)
        case Mapping():
            for item in value.values():
                yield from output_tensors(item, depth)
        case nn.Module() | str() | int() | float() | None:
            return
        case _ if depth and hasattr(value, "__dict__"):
            for item in vars(value).values():
                yield from output_tensors(item, depth - 1)
