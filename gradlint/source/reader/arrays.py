"""Tensors outside the graph: how they are made, written and computed with, as laws of their elements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradlint.graph.model import InitLaw
from gradlint.source.reader import laws
from gradlint.source.reader.creation import CREATORS
from gradlint.source.reader.layers import bind
from gradlint.source.reader.machine import Machine
from gradlint.source.reader.values import Array, Native, Site, Unknown

OTHER_CREATORS = frozenset(
    [
        "arange",
        "linspace",
        "logspace",
        "tril",
        "triu",
        "tensor",
        "as_tensor",
        "full",
        "full_like",
        "eye",
        "normal",
        "from_numpy",
        "meshgrid",
        "one_hot",
        "randint",
        "randperm",
        "stack",
        "cat",
        "outer",
        "complex",
        "polar",
    ]
)

SAME_LAW = frozenset(
    [
        "data",
        "clone",
        "detach",
        "contiguous",
        "view",
        "reshape",
        "to",
        "cuda",
        "cpu",
        "float",
        "half",
        "t",
        "transpose",
        "permute",
        "unsqueeze",
        "squeeze",
        "flatten",
        "requires_grad_",
        "expand",
        "repeat",
        "T",
        "double",
        "type",
        "type_as",
        "expand_as",
        "mT",
    ]
)


def sizes_of(args: list[Any], kwargs: dict[str, Any]) -> tuple[int | None, ...] | None:
    """A shape given as separate sizes or as one sequence."""
    given: Any = args if args else kwargs.get("size", kwargs.get("shape"))
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], (list, tuple)):
        given = given[0]
    if not isinstance(given, (list, tuple)):
        return (laws.size(given),) if isinstance(given, int) else None
    return tuple(laws.size(v) for v in given)


class Arrays(Machine):
    """Makes and writes arrays."""

    def is_weight(self, value: Any) -> bool:
        """Whether an array is a parameter or buffer, whose use belongs into a graph."""
        return isinstance(value, Array) and (value.parameter or value.buffer)

    def make_array(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """torch.NAME(...) without graph tensors."""
        if name in CREATORS:
            distribution, mean, std = CREATORS[name]
            if name.endswith("_like"):
                shape = args[0].shape if args and hasattr(args[0], "shape") else None
            else:
                shape = sizes_of(args, kwargs)
            law = laws.plain_law(distribution, mean, std, shape, site.location if self.building else None)
            return self.new_array(shape, law, site)
        if name in ("full", "full_like"):
            a = bind("size, fill_value", args, kwargs)
            shape = sizes_of([a["size"]], {}) if name == "full" else getattr(a["size"], "shape", None)
            return self.new_array(shape, laws.plain_law("constant", a["fill_value"], 0.0, shape), site)
        if name == "eye":
            n = laws.size(args[0]) if args else None
            m = laws.size(args[1]) if len(args) > 1 else n
            return self.new_array((n, m), laws.identity_law("eye", (n, m), site.location), site)
        if name == "normal":
            a = bind("mean=0.0, std=1.0, size=None", args, kwargs)
            shape = sizes_of([a["size"]], {}) if a["size"] is not None else None
            return self.new_array(shape, laws.plain_law("normal", a["mean"], a["std"], shape, site.location), site)
        if name in ("tensor", "as_tensor", "asarray", "from_numpy", "FloatTensor", "Tensor") and args:
            return self._of_data(args[0], site)
        if name == "cat" and args and isinstance(args[0], (list, tuple)) and args[0]:
            arrays = [a for a in args[0] if isinstance(a, Array)]
            if len(arrays) == len(args[0]) and len({(a.law.mean, a.law.std) for a in arrays}) == 1:
                return self.new_array(None, arrays[0].law, site)
        shape = sizes_of(args, kwargs) if name == "randint" else None
        return self.new_array(shape, InitLaw("other", origin="explicit", location=site.location), site)

    def _of_data(self, value: Any, site: Site) -> Any:
        if isinstance(value, Array):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self.new_array((), laws.plain_law("constant", value, 0.0, ()), site)
        if (
            isinstance(value, (list, tuple))
            and value
            and all(laws.number(v) == laws.number(value[0]) is not None for v in value)
        ):
            return self.new_array((len(value),), laws.plain_law("constant", value[0], 0.0, None), site)
        return self.new_array(None, InitLaw("other", origin="explicit", location=site.location), site)

    def new_array(self, shape: Any, law: InitLaw, site: Site) -> Array:
        """A tensor of data, marked with when it was made."""
        return Array(shape, law, site=site, phase=self.phase, level=self.regions)

    def write_law(self, array: Array, law: InitLaw, site: Site) -> None:
        """An in-place write to a parameter: all of it, or a part if it is a slice."""
        partial = False
        while array.view_of is not None:
            array, partial = array.view_of, True
        if array.phase != self.phase and array.phase >= 0:
            return
        self.events += array.parameter
        if self.regions > array.level:
            law = laws.changed(law, site.location)
        law = laws.for_shape(law, array.shape) if array.shape is not None else law
        if partial:
            law = replace(laws.changed(law, site.location), partial=True)
        told = law.origin == "explicit" and law.location is not None
        array.law = law if told else replace(law, origin="explicit", location=law.location or site.location)

    def init_call(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        """torch.nn.init.NAME(tensor, …) or tensor.NAME_(…)."""
        name = laws.OLD_SPELLINGS.get(name, name)
        name = laws.ALIASES.get(name, name)
        target = args[0] if args else kwargs.get("tensor", kwargs.get("w"))
        if isinstance(target, Array) and name in laws.SIGNATURES:
            arguments = bind(laws.SIGNATURES[name], args[1:], kwargs)
            self.write_law(target, laws.law_of(name, target.shape, arguments, site.location), site)
        return target if target is not None else Unknown("nothing to initialise")

    def array_method(self, array: Array, name: str, site: Site) -> Any:
        """array.NAME: data attributes, in-place writes, views."""
        match name:
            case "data" | "detach_" | "T" | "mT":
                return array
            case "shape":
                return self.visible_shape(array.shape)
            case "ndim":
                return len(array.shape) if array.shape is not None else Unknown("rank", numeric=True)
            case "requires_grad":
                return array.trainable
            case "grad" | "device" | "dtype" | "grad_fn":
                return Unknown(name)
        return Native(name, lambda args, kwargs, at: self._array_call(array, name, args, kwargs, at))

    def visible_shape(self, shape: tuple[int | None, ...] | None) -> Any:
        """A shape as user code sees it, with Unknown for sizes that are not known."""
        if shape is None:
            return Unknown("a shape that is not known", numeric=True)
        return tuple(Unknown("a size that is not known", numeric=True) if s is None else s for s in shape)

    def _array_call(self, array: Array, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if name in ("size",):
            shape = self.visible_shape(array.shape)
            if args and isinstance(shape, tuple) and isinstance(args[0], int) and -len(shape) <= args[0] < len(shape):
                return shape[args[0]]
            return Unknown("a size", numeric=True) if args else shape
        if name in ("dim", "ndimension"):
            return len(array.shape) if array.shape is not None else Unknown("rank", numeric=True)
        if name in ("numel", "nelement"):
            total = 1
            for s in array.shape or (None,):
                if s is None:
                    return Unknown("a size", numeric=True)
                total *= s
            return total
        if name == "requires_grad_":
            self.freeze(array, args[0] if args else kwargs.get("requires_grad", True), site)
            return array
        if name in SAME_LAW:
            return (
                array
                if array.parameter and name != "clone"
                else self.new_array(array.shape if name == "clone" else None, array.law, site)
            )
        if name.endswith("_") and not name.endswith("__"):
            self._in_place(array, name, args, kwargs, site)
            return array
        if name in ("mul", "div", "add", "sub") and args:
            return self.array_arithmetic(name, array, args[0], site)
        if name in ("item",) and array.law.distribution == "constant":
            return array.law.mean
        if name in ("new_zeros", "new_ones", "new_empty"):
            return self.make_array(name.removeprefix("new_"), args, kwargs, site)
        return self.new_array(None, InitLaw("other", origin="explicit", location=site.location), site)

    def _in_place(self, array: Array, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> None:
        name = laws.ALIASES.get(name, name)
        first = args[0] if args else next(iter(kwargs.values()), None)
        if name in laws.SIGNATURES:
            self.init_call(name, [array, *args], kwargs, site)
        elif name == "copy_" and isinstance(first, Array):
            self.write_law(array, replace(first.law, location=site.location), site)
        elif name in ("mul_", "div_", "add_", "sub_", "multiply_", "divide_"):
            result = self.array_arithmetic(name.strip("_")[:3], array, first, site)
            self.write_law(array, result.law, site)
        elif name == "erfinv_":
            self.write_law(array, laws.erfinv(array.law, site.location), site)
        elif name in ("detach_", "share_memory_", "squeeze_", "unsqueeze_", "t_", "transpose_", "view_") or name in (
            "clamp_",
            "clip_",
        ):
            return
        else:
            self.write_law(array, laws.changed(array.law, site.location), site)

    def array_arithmetic(self, op: str, left: Any, right: Any, site: Site) -> Array:
        """left OP right for data tensors and numbers."""
        array, other, swapped = (left, right, False) if isinstance(left, Array) else (right, left, True)
        shape = array.shape
        if isinstance(other, Array) and other.law.distribution == "constant" and other.shape == ():
            other = other.law.mean
        number = laws.number(other)
        if number is not None and op == "mul":
            law = laws.scaled(array.law, number)
        elif number and op == "div" and not swapped:
            law = laws.scaled(array.law, 1 / number)
        elif number is not None and op == "add":
            law = laws.shifted(array.law, number)
        elif number is not None and op == "sub":
            law = laws.shifted(laws.scaled(array.law, -1.0), number) if swapped else laws.shifted(array.law, -number)
        else:
            law = laws.changed(array.law, site.location)
        return self.new_array(shape, replace(law, location=site.location), site)

    def freeze(self, array: Array, flag: Any, site: Site) -> None:
        """array.requires_grad = flag."""
        if isinstance(flag, bool) and (array.phase == self.phase or array.phase < 0):
            array.trainable = flag
            array.frozen_by = None if flag else site.location
