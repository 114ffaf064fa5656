"""Records how every parameter is initialised while a model is built, on meta tensors as well as on real ones."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradlint.graph.frames import location_of, user_frame
from gradlint.graph.law_formulas import RECORDED, fans, law_of_call
from gradlint.graph.law_operations import COPIES, ELEMENTWISE, MIXTURES, law_created, law_drawn
from gradlint.graph.law_origin import origin_of_write
from gradlint.graph.law_parts import WHOLE_SHARE, Written, address, merged, mixture, share_of
from gradlint.graph.law_samples import SAMPLE, drawn_sample, law_of_sample, measured_law, subsample, transformed
from gradlint.graph.model import InitLaw
from gradlint.location import Location

__all__ = ["LawRecorder", "measured_law", "with_fans"]

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
        self._known: dict[int, Written] = {}
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
        created = law_created(name, args, keywords)
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
        updates = name.startswith("__i") and bare in ELEMENTWISE
        if isinstance(target, Tensor) and address(target) == address(result) and not updates:
            return
        if bare in COPIES:
            self._copy(result, args[0])
        elif bare in ELEMENTWISE:
            self._compute(result, func, args, keywords)
        elif bare in MIXTURES:
            self._mix(result, args[0])
        elif self._tracked(args):
            self._forget(result)

    def _follow_in_place(
        self, name: str, bare: str, func: Any, target: Tensor, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        drawn = law_drawn(name, args, keywords)
        if drawn is not None:
            self.write(target, drawn)
        elif bare == "copy":
            self._copy(target, args[1])
        elif bare in ELEMENTWISE:
            self._compute(target, func, args, keywords)
        elif bare in ("exponential", "log_normal", "cauchy", "geometric", "bernoulli", "random"):
            sample = torch.empty(SAMPLE)
            getattr(sample, name)(*args[1:], **{k: v for k, v in keywords.items() if k != "generator"})
            self.write(target, law_of_sample(sample), sample)
        elif bare in ("requires_grad", "detach", "share_memory", "squeeze", "unsqueeze", "t", "transpose", "resize"):
            return
        else:
            self._forget(target)

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
        origin, location = origin_of_write(self.root)
        if law.draw is None:
            self._draws += 1
            law = replace(law, draw=str(self._draws))
        if law.location is None:
            law = replace(law, origin=origin, location=location)
        storage = tensor.untyped_storage()
        key = storage._cdata
        share = share_of(tensor, storage)
        old = self._known.get(key)
        if share >= WHOLE_SHARE or old is None or share == 0.0:
            if old is not None or share >= WHOLE_SHARE or share == 0.0:
                self._known[key] = Written(law, storage, sample)
            else:
                self._known[key] = Written(replace(law, partial=True), storage, sample, ((share, law),))
            return
        self._known[key] = merged(old, share, law)

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
            origin, location = origin_of_write(self.root)
            law = replace(law, origin=origin, location=location)
            self._known[storage._cdata] = merged(old, share, law) if old else Written(law, storage)
            return
        self.write(view, replace(law, location=None))

    def _copy(self, target: Tensor, source: Any) -> None:
        state = self._state(source) if isinstance(source, Tensor) else None
        if state is not None:
            if address(target) == address(source):
                return
            sample = state.sample
            if target.numel() < target.untyped_storage().nbytes() // max(1, target.element_size()):
                self.write(target, state.law)
            else:
                self._known[address(target)] = Written(state.law, target.untyped_storage(), sample, state.parts)
        elif isinstance(source, Tensor) and not source.is_meta:
            self.write(target, measured_law(source), subsample(source))
        else:
            self._forget(target)

    def _compute(self, target: Tensor, func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not self._tracked(args):
            if not target.is_meta:
                self._known.pop(address(target), None)
            return
        if not target.is_floating_point():
            self._forget(target)
            return
        with torch.no_grad():
            state = next(s for a in args if isinstance(a, Tensor) and (s := self._state(a)) is not None)
            values = [self._sampled(a) for a in args]
            sample = func(*values, **{k: self._sampled(v) for k, v in keywords.items() if k != "out"})
        law = transformed(state.law, state.sample, sample)
        tensors = [a for a in args if isinstance(a, Tensor)]
        draw = None if len(tensors) > 1 else f"{state.law.draw}'"
        self.write(target, replace(law, draw=draw, location=None), sample)

    def _sampled(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        state = self._state(value)
        if state is not None:
            if state.sample is None:
                state.sample = drawn_sample(state.law, self._random)
            return state.sample.clone()
        if value.is_meta:
            raise ValueError("the values of this tensor are not known")
        return value if value.dim() == 0 else subsample(value, self._random)

    def _mix(self, target: Tensor, sources: Any) -> None:
        tensors = [s for s in sources if isinstance(s, Tensor)]
        laws = [s.law if (s := self._state(t)) else measured_law(t) for t in tensors]
        total = sum(t.numel() for t in tensors) or 1
        parts = tuple((t.numel() / total, law) for t, law in zip(tensors, laws, strict=True))
        law = mixture(parts)
        self.write(target, law if law.location is None else replace(law, partial=False))

    def _forget(self, tensor: Any) -> None:
        if not isinstance(tensor, Tensor):
            return
        if tensor.is_meta:
            self.write(tensor, InitLaw("unknown"))
        else:
            self._known.pop(address(tensor), None)

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

    def _state(self, tensor: Tensor) -> Written | None:
        return self._known.get(address(tensor))

    # What is known in the end

    def mark_pretrained(self, tensor: Tensor, location: Location | None) -> None:
        """Note that a tensor's values come from a checkpoint."""
        storage = tensor.untyped_storage()
        law = InitLaw("pretrained", origin="pretrained", location=location)
        self._known[storage._cdata] = Written(law, storage)

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
