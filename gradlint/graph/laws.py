"""Records how every parameter is initialised while a model is built, on meta tensors as well as on real ones."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradlint.graph.frames import is_user_file, location_of, user_frame
from gradlint.graph.laws_formulas import RECORDED, fans, law_of_call
from gradlint.graph.model import InitLaw
from gradlint.location import Location

SAMPLE = 1024
"""Elements in the real sample that stands for a parameter while arithmetic is done on it."""

_NEGLIGIBLE_SHARE = 0.01
_WHOLE_SHARE = 0.999
_SAME_STD = 0.05
_TORCH = os.path.join(os.path.dirname(os.path.realpath(torch.__file__)), "")  # noqa: PTH118, PTH120
_MODULES = os.path.join(_TORCH, "nn", "modules", "")  # noqa: PTH118
_INIT = os.path.join(_TORCH, "nn", "init.py")  # noqa: PTH118

_ELEMENTWISE = frozenset(
    [
        "add",
        "sub",
        "subtract",
        "mul",
        "multiply",
        "div",
        "divide",
        "true_divide",
        "neg",
        "abs",
        "sqrt",
        "rsqrt",
        "pow",
        "exp",
        "log",
        "sin",
        "cos",
        "tanh",
        "sigmoid",
        "clamp",
        "clip",
        "clamp_min",
        "clamp_max",
        "erf",
        "erfinv",
        "sign",
        "square",
        "reciprocal",
        "relu",
        "floor",
        "round",
        "fmod",
        "remainder",
        "lerp",
        "log1p",
        "expm1",
        "rsub",
        "radd",
        "rmul",
        "rtruediv",
        "rpow",
        "truediv",
        "iadd",
        "isub",
        "imul",
        "itruediv",
        "where",
        "addcmul",
    ]
)
_COPIES = frozenset(
    [
        "clone",
        "contiguous",
        "to",
        "float",
        "half",
        "double",
        "bfloat16",
        "type",
        "type_as",
        "cpu",
        "cuda",
        "repeat",
        "detach",
        "deepcopy",
        "expand",
        "tile",
        "repeat_interleave",
        "flip",
        "roll",
        "index_select",
    ]
)
_MIXTURES = frozenset(["cat", "concat", "concatenate", "stack", "vstack", "hstack"])
_CREATED = {
    "zeros": InitLaw("constant", 0.0, 0.0),
    "zeros_like": InitLaw("constant", 0.0, 0.0),
    "new_zeros": InitLaw("constant", 0.0, 0.0),
    "ones": InitLaw("constant", 1.0, 0.0),
    "ones_like": InitLaw("constant", 1.0, 0.0),
    "new_ones": InitLaw("constant", 1.0, 0.0),
    "rand": InitLaw("uniform", 0.5, 12**-0.5),
    "rand_like": InitLaw("uniform", 0.5, 12**-0.5),
    "randn": InitLaw("normal", 0.0, 1.0),
    "randn_like": InitLaw("normal", 0.0, 1.0),
}


@dataclass
class _Storage:
    """What is known of the numbers in one storage.

    `sample` is None until arithmetic asks for it. `parts` are the shares written since the last write of all.
    `keep` holds the storage alive, so that its address is not given to another.
    """

    law: InitLaw
    keep: Any
    sample: Tensor | None = None
    parts: tuple[tuple[float, InitLaw], ...] = ()


_active: list[LawRecorder] = []
"""The recorders at work, the innermost last."""


class LawRecorder(TorchFunctionMode):
    """While active, follows every write to every tensor that is made; afterwards `law` tells how it was drawn.

    Enter it before the user's imports: functions of `torch.nn.init` are wrapped in their module, because some
    do nothing on meta tensors (`trunc_normal_`, `orthogonal_`, `sparse_`, `dirac_` in torch 2.14).
    """

    def __init__(self, root: str = "") -> None:
        super().__init__()
        self.root = root
        self.frozen: dict[int, Location | None] = {}
        self._known: dict[int, _Storage] = {}
        self._originals: dict[str, Callable[..., Any]] = {}
        self._within = 0
        self._draws = 0
        self._random = torch.Generator().manual_seed(0)

    def __enter__(self) -> LawRecorder:
        for name in RECORDED:
            original = getattr(nn.init, name, None)
            if original is not None:
                self._originals[name] = original
                setattr(nn.init, name, self._wrapped(name, original))
        _active.append(self)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        _active.remove(self)
        for name, original in self._originals.items():
            setattr(nn.init, name, original)

    # What is called

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        import functools

        @functools.wraps(original)
        def recorded(tensor: Any, *arguments: Any, **keywords: Any) -> Any:
            # A library keeps what it imported while another recorder was at work.
            recorder = _active[-1] if _active else None
            if recorder is None or recorder._within or not isinstance(tensor, Tensor):
                return original(tensor, *arguments, **keywords)
            return recorder._initialise(name, original, tensor, arguments, keywords)

        return recorded

    def _initialise(
        self, name: str, original: Callable[..., Any], tensor: Tensor, arguments: Any, keywords: dict[str, Any]
    ) -> Any:
        self._within += 1
        try:
            result = original(tensor, *arguments, **keywords)
        finally:
            self._within -= 1
        law = law_of_call(name, tensor.shape, arguments, keywords)
        self.write(tensor, law or InitLaw("unknown", scheme=name.rstrip("_")))
        return result

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        name = getattr(func, "__name__", "")
        original = self._originals.get(name)
        if original is not None and original is func and not self._within:
            # A library that imported the init function before it was wrapped (transformers 5).
            rest = {k: v for k, v in keywords.items() if k != "tensor"}
            return self._initialise(name, original, args[0] if args else keywords["tensor"], args[1:], rest)
        result = func(*args, **keywords)
        if self._within:
            return result
        self._within += 1
        try:
            self._follow(getattr(func, "__name__", ""), func, args, keywords, result)
        except Exception:
            # A law that cannot be followed is unknown; the user's model is still built.
            self._lose(args, result)
        finally:
            self._within -= 1
        return result

    def _follow(self, name: str, func: Any, args: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        if name == "__set__":
            self._follow_setter(func, args)
            return
        if name == "requires_grad_":
            self._freeze(args[0], args[1] if len(args) > 1 else keywords.get("requires_grad", True))
            return
        created = self._created(name, args, keywords)
        if created is not None and isinstance(result, Tensor):
            self.write(result, created)
            return
        target = keywords.get("out", args[0] if args else None)
        if not isinstance(target, Tensor) and not isinstance(result, Tensor):
            return
        if name == "__setitem__":
            self._write_part(args[0], args[1], args[2])
            return
        bare = name.strip("_")
        if name.endswith("_") and not name.endswith("__") and isinstance(target, Tensor):
            self._follow_in_place(name, bare, func, target, args, keywords)
            return
        if not isinstance(result, Tensor):
            return
        updates = name.startswith("__i") and bare in _ELEMENTWISE
        if isinstance(target, Tensor) and _address(target) == _address(result) and not updates:
            return
        if bare in _COPIES:
            self._copy(result, args[0])
        elif bare in _ELEMENTWISE:
            self._compute(result, func, args, keywords)
        elif bare in _MIXTURES:
            self._mix(result, args[0])
        elif self._tracked(args):
            self._forget(result)

    def _follow_in_place(
        self, name: str, bare: str, func: Any, target: Tensor, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        drawn = self._drawn(name, args, keywords)
        if drawn is not None:
            self.write(target, drawn)
        elif bare == "copy":
            self._copy(target, args[1])
        elif bare in _ELEMENTWISE:
            self._compute(target, func, args, keywords)
        elif bare in ("exponential", "log_normal", "cauchy", "geometric", "bernoulli", "random"):
            sample = torch.empty(SAMPLE)
            getattr(sample, name)(*args[1:], **{k: v for k, v in keywords.items() if k != "generator"})
            self.write(target, _measured(sample), sample)
        elif bare in ("requires_grad", "detach", "share_memory", "squeeze", "unsqueeze", "t", "transpose", "resize"):
            return
        else:
            self._forget(target)

    def _drawn(self, name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> InitLaw | None:
        if name == "zero_":
            return InitLaw("constant", 0.0, 0.0)
        if name == "fill_":
            value = args[1] if len(args) > 1 else keywords.get("value")
            return InitLaw("constant", float(value), 0.0)  # type: ignore[arg-type]
        names = {"normal_": ("mean", "std"), "uniform_": ("from", "to")}.get(name)
        if names is None:
            return None
        given = dict(zip(names, args[1:], strict=False)) | {k: v for k, v in keywords.items() if k in names}
        first, second = float(given.get(names[0], 0.0)), float(given.get(names[1], 1.0))
        if name == "normal_":
            return InitLaw("normal", first, second)
        return InitLaw("uniform", (first + second) / 2, (second - first) / math.sqrt(12))

    def _created(self, name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> InitLaw | None:
        if name in ("full", "full_like", "new_full"):
            value = keywords.get("fill_value", args[-1] if args else None)
            return InitLaw("constant", float(value), 0.0)  # type: ignore[arg-type]
        if name == "normal" and args and not any(isinstance(a, Tensor) for a in args[:2]):
            values = [float(a) for a in args[:2] if isinstance(a, (int, float))]
            mean = values[0] if values else float(keywords.get("mean", 0.0))
            return InitLaw("normal", mean, values[1] if len(values) > 1 else float(keywords.get("std", 1.0)))
        if name == "eye" and args:
            rows = int(args[0])
            columns = int(args[1]) if len(args) > 1 and isinstance(args[1], int) else rows
            return law_of_call("eye_", (rows, columns), (), {})
        return _CREATED.get(name)

    def _follow_setter(self, func: Any, args: tuple[Any, ...]) -> None:
        prop = getattr(getattr(func, "__self__", None), "__name__", "")
        if prop == "requires_grad":
            self._freeze(args[0], args[1])
        elif prop == "data" and isinstance(args[1], Tensor):
            # `p.data = t` makes p use t's storage: nothing is written.
            return

    def _freeze(self, tensor: Tensor, trainable: Any) -> None:
        if trainable:
            self.frozen.pop(id(tensor), None)
            return
        frame = user_frame(sys._getframe(2), self.root)
        self.frozen[id(tensor)] = location_of(frame) if frame else None

    # What is written

    def write(self, tensor: Tensor, law: InitLaw, sample: Tensor | None = None) -> None:
        """Note that all elements of a tensor, perhaps a view of a larger one, are now drawn by that law."""
        origin, location = self._origin()
        if law.draw is None:
            self._draws += 1
            law = replace(law, draw=str(self._draws))
        if law.location is None:
            law = replace(law, origin=origin, location=location)
        storage = tensor.untyped_storage()
        key = storage._cdata
        share = _share(tensor, storage)
        old = self._known.get(key)
        if share >= _WHOLE_SHARE or old is None or share == 0.0:
            if old is not None or share >= _WHOLE_SHARE or share == 0.0:
                self._known[key] = _Storage(law, storage, sample)
            else:
                self._known[key] = _Storage(replace(law, partial=True), storage, sample, ((share, law),))
            return
        self._known[key] = _merged(old, share, law)

    def _write_part(self, target: Tensor, index: Any, value: Any) -> None:
        view = target[index]
        if isinstance(value, Tensor):
            state = self._state(value)
            law = state.law if state else measured_law(value)
        else:
            law = InitLaw("constant", float(value), 0.0)
        if view.untyped_storage()._cdata != target.untyped_storage()._cdata:
            # An index tensor or a mask gives a copy; its size is the share.
            storage = target.untyped_storage()
            share = min(1.0, view.numel() / max(1, target.numel()))
            old = self._known.get(storage._cdata)
            origin, location = self._origin()
            law = replace(law, origin=origin, location=location)
            self._known[storage._cdata] = _merged(old, share, law) if old else _Storage(law, storage)
            return
        self.write(view, replace(law, location=None))

    def _copy(self, target: Tensor, source: Any) -> None:
        state = self._state(source) if isinstance(source, Tensor) else None
        if state is not None:
            if _address(target) == _address(source):
                return
            sample = state.sample
            if target.numel() < target.untyped_storage().nbytes() // max(1, target.element_size()):
                self.write(target, state.law)
            else:
                self._known[_address(target)] = _Storage(state.law, target.untyped_storage(), sample, state.parts)
        elif isinstance(source, Tensor) and not source.is_meta:
            self.write(target, measured_law(source), _subsample(source))
        else:
            self._forget(target)

    def _compute(self, target: Tensor, func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not self._tracked(args):
            if not target.is_meta:
                self._known.pop(_address(target), None)
            return
        if not target.is_floating_point():
            self._forget(target)
            return
        with torch.no_grad():
            state = next(s for a in args if isinstance(a, Tensor) and (s := self._state(a)) is not None)
            values = [self._sampled(a) for a in args]
            sample = func(*values, **{k: self._sampled(v) for k, v in keywords.items() if k != "out"})
        law = _transformed(state.law, state.sample, sample)
        tensors = [a for a in args if isinstance(a, Tensor)]
        draw = None if len(tensors) > 1 else f"{state.law.draw}'"
        self.write(target, replace(law, draw=draw, location=None), sample)

    def _sampled(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        state = self._state(value)
        if state is not None:
            if state.sample is None:
                state.sample = self._sample(state.law)
            return state.sample.clone()
        if value.is_meta:
            raise ValueError("the values of this tensor are not known")
        return value if value.dim() == 0 else _subsample(value, self._random)

    def _sample(self, law: InitLaw) -> Tensor:
        if law.std is None or law.mean is None:
            raise ValueError("this law has no known spread")
        if law.distribution == "constant":
            return torch.full((SAMPLE,), law.mean, dtype=torch.float64, device="cpu")
        sample = torch.empty(SAMPLE, dtype=torch.float64, device="cpu")
        if law.distribution == "uniform":
            half = law.std * math.sqrt(3)
            return sample.uniform_(law.mean - half, law.mean + half, generator=self._random)
        return sample.normal_(law.mean, law.std, generator=self._random)

    def _mix(self, target: Tensor, sources: Any) -> None:
        tensors = [s for s in sources if isinstance(s, Tensor)]
        laws = [s.law if (s := self._state(t)) else measured_law(t) for t in tensors]
        total = sum(t.numel() for t in tensors) or 1
        parts = tuple((t.numel() / total, law) for t, law in zip(tensors, laws, strict=True))
        law = _mixture(parts)
        self.write(target, law if law.location is None else replace(law, partial=False))

    def _forget(self, tensor: Any) -> None:
        if not isinstance(tensor, Tensor):
            return
        if tensor.is_meta:
            self.write(tensor, InitLaw("unknown"))
        else:
            self._known.pop(_address(tensor), None)

    def _lose(self, args: tuple[Any, ...], result: Any) -> None:
        for candidate in (result, args[0] if args else None):
            if isinstance(candidate, Tensor):
                try:
                    self._forget(candidate)
                except Exception:
                    continue
                return

    def _tracked(self, args: tuple[Any, ...]) -> bool:
        return any(isinstance(a, Tensor) and self._state(a) is not None for a in args)

    def _state(self, tensor: Tensor) -> _Storage | None:
        return self._known.get(_address(tensor))

    def _origin(self) -> tuple[str, Location | None]:
        """Whether a torch module's own code makes the write, and the user's line that led to it."""
        frame = sys._getframe(1)
        default = False
        step: Any = frame
        while step is not None:
            name = step.f_code.co_filename
            if is_user_file(name, self.root):
                return ("default" if default else "explicit"), location_of(step)
            if name.startswith(_MODULES):
                default = True
            elif not name.startswith(_TORCH) and "gradlint" not in name and not default:
                # Code of another library initialises explicitly; go on to the user's line.
                user = user_frame(step, self.root)
                return "explicit", location_of(user) if user else None
            step = step.f_back
        return ("default" if default else "explicit"), None

    # What is known in the end

    def mark_pretrained(self, tensor: Tensor, location: Location | None) -> None:
        """Note that a tensor's values come from a checkpoint."""
        storage = tensor.untyped_storage()
        law = InitLaw("pretrained", origin="pretrained", location=location)
        self._known[storage._cdata] = _Storage(law, storage)

    def law(self, tensor: Tensor) -> InitLaw:
        """How a tensor's elements are drawn, its fans filled in; distribution "unknown" when that was not seen."""
        state = self._state(tensor)
        if state is None:
            found = InitLaw("unknown") if tensor.is_meta else replace(measured_law(tensor), origin="explicit")
        else:
            found = state.law
        return with_fans(found, tensor.shape)


def with_fans(law: InitLaw, shape: Any) -> InitLaw:
    """The law with fan_in, fan_out and the factor on the second moment of a parameter of that shape."""
    fan_in, fan_out = fans(tuple(shape))
    second = None
    if fan_in is not None and law.std is not None:
        second = fan_in * (law.std**2 + (law.mean or 0.0) ** 2)
    return replace(law, fan_in=fan_in, fan_out=fan_out, gain_squared=second)


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _share(tensor: Tensor, storage: Any) -> float:
    total = storage.nbytes()
    return tensor.numel() * tensor.element_size() / total if total else 1.0


def _merged(old: _Storage, share: float, law: InitLaw) -> _Storage:
    """A storage after a part of it was written anew."""
    if share < _NEGLIGIBLE_SHARE and law.distribution == "constant":
        return old
    parts = (*old.parts, (share, law)) if len(old.parts) < 4096 else old.parts
    covered = sum(s for s, _ in parts)
    first = parts[0][1]
    same = all(_alike(first, other) for _, other in parts)
    if covered >= _WHOLE_SHARE and same:
        return _Storage(law, old.keep)
    rest = () if covered >= 1 else ((1 - covered, replace(old.law, partial=False)),)
    mixed = _mixture((*parts, *rest))
    return _Storage(replace(mixed, partial=True, location=law.location, origin=law.origin), old.keep, None, parts)


def _alike(a: InitLaw, b: InitLaw) -> bool:
    if a.distribution != b.distribution or a.std is None or b.std is None:
        return False
    return abs(a.std - b.std) <= _SAME_STD * max(a.std, b.std) and abs((a.mean or 0) - (b.mean or 0)) <= _SAME_STD * (
        abs(a.mean or 0) + a.std
    )


def _mixture(parts: tuple[tuple[float, InitLaw], ...]) -> InitLaw:
    """The law of a tensor of which each share follows its own law."""
    last = parts[-1][1] if parts else InitLaw("unknown")
    if all(_alike(parts[0][1], law) for _, law in parts):
        return parts[0][1]
    total = sum(s for s, _ in parts) or 1.0
    if any(law.std is None or law.mean is None for _, law in parts):
        return InitLaw("unknown", origin=last.origin, location=last.location)
    mean = sum(s * (law.mean or 0.0) for s, law in parts) / total
    second = sum(s * ((law.std or 0.0) ** 2 + (law.mean or 0.0) ** 2) for s, law in parts) / total
    return InitLaw("other", mean, math.sqrt(max(0.0, second - mean**2)), origin=last.origin, location=last.location)


def _transformed(law: InitLaw, before: Tensor | None, after: Tensor) -> InitLaw:
    """The law after arithmetic: exact where only scale and place changed, else measured on the sample."""
    measured = _measured(after)
    if before is None or law.std is None or law.mean is None or len(before) != len(after) or not law.std:
        return measured
    centred = before - before.mean()
    factor = float((centred * (after - after.mean())).sum() / (centred**2).sum())
    offset = float(after.mean() - factor * before.mean())
    if float((after - factor * before - offset).abs().max()) > 1e-6 * (abs(factor) + abs(offset)):
        return measured
    return InitLaw(law.distribution, factor * law.mean + offset, abs(factor) * law.std)


def _measured(sample: Tensor) -> InitLaw:
    values = sample.detach().double().flatten()
    if not values.numel():
        return InitLaw("constant", 0.0, 0.0)
    mean, std = float(values.mean()), float(values.std(unbiased=False)) if values.numel() > 1 else 0.0
    if not math.isfinite(mean) or not math.isfinite(std):
        return InitLaw("unknown")
    return InitLaw("constant" if std <= 1e-12 * (1 + abs(mean)) else "other", mean, std)


def measured_law(tensor: Tensor) -> InitLaw:
    """Mean and std of a real tensor's elements; unknown for one on meta."""
    if tensor.is_meta:
        return InitLaw("unknown")
    return _measured(_subsample(tensor, limit=1 << 20))


def _subsample(tensor: Tensor, random: torch.Generator | None = None, limit: int = SAMPLE) -> Tensor:
    with torch.no_grad():
        flat = tensor.detach().reshape(-1).to("cpu", torch.float64)
        if random is not None:
            return flat[torch.randint(len(flat), (limit,), generator=random)]
        return flat[:: max(1, len(flat) // limit)][:limit]
