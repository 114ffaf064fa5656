"""Builds the model of a slice, on meta tensors or for real, with every parameter's init law recorded."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gradlint.graph.build_error import BuildError
from gradlint.graph.execute import Execution
from gradlint.graph.frames import is_user_file
from gradlint.graph.laws import LawRecorder, measured_law, with_fans
from gradlint.graph.model import InitLaw
from gradlint.graph.overridden import answer_as_modules
from gradlint.graph.stubs import Unknown
from gradlint.graph.surroundings import Around, Devices, surroundings
from gradlint.graph.trace_constants import keep_values
from gradlint.graph.without_forward import give_forward
from gradlint.location import Location
from gradlint.worker.protocol import Slice

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BuildError", "BuiltModel", "build"]

_MEASURED_BUILD_LIMIT = 50_000_000
"""Parameters up to which a real build, 200 MB at most, is cheap beside what it tells."""


@dataclass
class BuiltModel:
    """A model in the child process.

    `module` lives on meta (parameters and buffers without data). `laws` maps parameter names, as in
    `module.named_parameters()`, to how they are drawn; `constructors` maps module paths ("" is the root) to the
    user's line that made them. `aliases` maps the first name of a tied parameter to its other names.
    `frozen_by` maps parameter names to the line that switched `requires_grad` off. `location` is where the
    model is constructed. `root` is the project root (see `gradlint.graph.frames.is_user_file`).
    `factory(seed)` builds it anew for real on the CPU, with its parameters drawn under that seed.
    """

    module: nn.Module
    name: str
    location: Location | None = None
    laws: dict[str, InitLaw] = field(default_factory=dict)
    constructors: dict[str, Location] = field(default_factory=dict)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    frozen_by: dict[str, Location] = field(default_factory=dict)
    placeholders: tuple[str, ...] = ()
    pretrained: bool = False
    notes: tuple[str, ...] = ()
    root: str = ""
    rebuild: Callable[[int], nn.Module] | None = None

    def factory(self, seed: int) -> nn.Module:
        """The same model built for real on the CPU, in training mode as the script left it.

        Raises BuildError when the slice cannot run on real tensors.
        """
        if self.rebuild is None:
            raise BuildError("this model cannot be built a second time")
        return self.rebuild(seed)


def build(sliced: Slice, seed: int = 0, meta: bool = True) -> BuiltModel:
    """Run a slice and record how its model comes to be.

    With `meta` its tensors have no data (the hybrid build: what numbers are read from while a model is
    constructed stays real); where that does not run, the model is built for real and then moved to meta.
    Raises BuildError.
    """
    if not meta:
        return _build_once(sliced, Execution(sliced), seed, meta=False)
    execution = Execution(sliced)
    failure: BuildError | None = None
    built: BuiltModel | None = None
    try:
        built = _build_once(sliced, execution, seed, meta=True)
    except BuildError as error:
        failure = error
    # Side effects of the script happen a second time, so only where real tensors can make a difference.
    if _asked_for_numbers(failure, execution):
        try:
            return _moved(_build_once(sliced, Execution(sliced), seed, meta=False))
        except BuildError:
            pass
    if built is None:
        assert failure is not None
        raise failure
    return _measured(built, seed)


_META_COMPLAINT = re.compile(r"\bmeta\b|incompatible tensor type", re.IGNORECASE)
"""In the messages of torch where a tensor without data is asked for its data, or meets one with data."""


def _asked_for_numbers(failure: BaseException | None, execution: Execution) -> bool:
    """Whether something failed for want of data: what was raised, its causes, or what a statement raised."""
    known = [*execution.failures.values(), *execution.elsewhere.values()]
    raised = [failure, *(error for error, _ in known), *execution.ignored]
    while raised:
        error = raised.pop()
        if error is None:
            continue
        if not isinstance(error, BuildError) and _META_COMPLAINT.search(str(error)):
            return True
        raised.append(error.__cause__ or error.__context__)
    return False


def rehearse(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module on meta as a slice's would be, with nothing of the surroundings changed."""
    with LawRecorder() as recorder, Devices(meta=True):
        module = make()
    for parameter in module.parameters():
        recorder.law(parameter)
    return module


def _build_once(sliced: Slice, execution: Execution, seed: int, *, meta: bool) -> BuiltModel:
    recorder = LawRecorder(sliced.root)
    with surroundings(sliced, recorder) as around, recorder, Devices(meta=meta):
        execution.elsewhere = around.failures
        around.draw_from(seed)
        try:
            found = _find_module(_target(execution), execution)
        except BuildError as error:
            if around.stubbed:
                missing = ", ".join(around.stubbed)
                raise BuildError(f"{error} (not installed here: {missing})", error.location) from error
            raise
    try:
        answer_as_modules(found)
        told = give_forward(found)
        execution.notes += [told] if told is not None else []
        return _described(sliced, execution, around, recorder, found, meta=meta)
    except Exception as error:
        # A class can override what torch and we list a model's parts with.
        raise _explained(error, sliced) from error


def _described(
    sliced: Slice, execution: Execution, around: Around, recorder: LawRecorder, found: nn.Module, *, meta: bool
) -> BuiltModel:
    from torch.nn.parameter import is_lazy

    laws: dict[str, InitLaw] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    first: dict[int, str] = {}
    for name, parameter in found.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            aliases[first[id(parameter)]] = (*aliases.get(first[id(parameter)], ()), name)
            continue
        first[id(parameter)] = name
        if is_lazy(parameter):
            continue
        laws[name] = recorder.law(parameter)
    for name, buffer in found.named_buffers():
        if not is_lazy(buffer):
            laws.setdefault(name, recorder.law(buffer))
    trained = {name for name, p in found.named_parameters() if p.requires_grad}
    frozen = {n: at for key, n in first.items() if n not in trained and (at := recorder.frozen.get(key)) is not None}
    root_location = sliced.location or around.constructor_of(found)
    built = BuiltModel(
        module=found,
        name=sliced.name or type(found).__name__,
        location=root_location,
        laws=laws,
        constructors={path: at for path, m in found.named_modules() if (at := around.constructor_of(m)) is not None},
        aliases=aliases,
        frozen_by=frozen,
        placeholders=tuple(dict.fromkeys([*execution.placeholders, *around.invented])),
        pretrained=any(law.origin == "pretrained" for law in laws.values()),
        notes=tuple(dict.fromkeys([*around.notes, *execution.notes])),
        root=sliced.root,
        rebuild=lambda new_seed: _rebuild(sliced, new_seed),
    )
    return _moved(built) if meta else built


def _measured(built: BuiltModel, seed: int) -> BuiltModel:
    """Fill in from a real build, if that is small, what could not be followed: laws (a factorisation, a norm) and what
    buffers hold (the mask of shifted windows)."""
    from torch.nn.parameter import is_lazy

    unknown = [name for name, law in built.laws.items() if law.distribution == "unknown"]
    if not unknown or sum(p.numel() for p in built.module.parameters() if not is_lazy(p)) > _MEASURED_BUILD_LIMIT:
        return built
    try:
        real = built.factory(seed)
    except BuildError:
        return built
    buffers = dict(real.named_buffers())
    for name, buffer in built.module.named_buffers():
        if name in unknown and name in buffers and buffer.is_meta and buffer.shape == buffers[name].shape:
            keep_values(buffer, buffers[name])
    values = {**buffers, **dict(real.named_parameters(remove_duplicate=False))}
    for name in unknown:
        if name in values:
            found = measured_law(values[name])
            law = built.laws[name]
            built.laws[name] = with_fans(
                replace(law, distribution="other", mean=found.mean, std=found.std), values[name].shape
            )
    return built


def _rebuild(sliced: Slice, seed: int) -> nn.Module:
    execution = Execution(sliced)
    with surroundings(sliced, None) as around, Devices(meta=False):
        around.draw_from(seed)
        module = answer_as_modules(_find_module(_target(execution), execution))
        give_forward(module)
        return module


def _target(execution: Execution) -> object:
    from torch import nn

    try:
        found = execution.run()
    except (AttributeError, NameError) as error:
        _raise_cause(execution.sliced.target, execution)
        raise _explained(error, execution.sliced) from error
    except (Exception, SystemExit) as error:
        raise _explained(error, execution.sliced) from error
    try:
        # A class or a factory ("torchvision.models:resnet18") stands for what it makes by default.
        factory = isinstance(found, (type, types.FunctionType, functools.partial)) and not isinstance(found, nn.Module)
        return found() if factory else found
    except (Exception, SystemExit) as error:
        raise _explained(error, execution.sliced) from error


def _explained(error: BaseException, sliced: Slice) -> BuildError:
    """An exception of the user's code as one line, at the user's innermost line."""
    if isinstance(error, BuildError):
        return error
    location, step = sliced.location, error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if is_user_file(name, sliced.root):
            location = Location(name, step.tb_lineno)
        step = step.tb_next
    said = " ".join(str(error).split())
    return BuildError(f"{type(error).__name__}: {said}" if said else type(error).__name__, location)


def _find_module(value: object, execution: Execution) -> nn.Module:
    """The module that a target evaluates to: itself, in a tuple, or the one attribute of an object that is one."""
    from torch import nn

    match value:
        case nn.Module():
            return value
        case tuple() | list():
            found = next((v for v in value if isinstance(v, nn.Module)), None)
        case _ if not isinstance(value, int):
            found = next((v for v in getattr(value, "__dict__", {}).values() if isinstance(v, nn.Module)), None)
        case _:
            found = None
    if found is not None:
        return found
    target = execution.sliced.target
    _raise_cause(target, execution)
    if isinstance(value, Unknown):
        _raise_cause(value.gradlint_name, execution)
        raise BuildError(
            f"`{target}` comes from `{value.gradlint_name}`, which is not installed or only known when the script runs",
            execution.sliced.location,
        )
    raise BuildError(f"`{target}` is {type(value).__name__}, not a torch.nn.Module", execution.sliced.location)


_NAME = re.compile(r"(?:self\.)?[A-Za-z_]\w*")


def _raise_cause(expression: str, execution: Execution) -> None:
    """Raise why the statement failed that binds what an expression begins with, if one did."""
    found = _NAME.match(expression)
    known = {**execution.elsewhere, **execution.failures}
    name = found.group() if found else ""
    if name in known or (name not in execution.bound and "*" in known):
        error, location = known[name if name in known else "*"]
        explained = _explained(error, execution.sliced)
        raise BuildError(str(explained), explained.location or location)


def _moved(built: BuiltModel) -> BuiltModel:
    """The same with every parameter and buffer on meta, ties kept."""
    import torch
    from torch import nn
    from torch.nn.parameter import is_lazy

    moved: dict[int, torch.Tensor] = {}
    for module in built.module.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and not is_lazy(parameter) and not parameter.is_meta:
                if id(parameter) not in moved:
                    moved[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
                module._parameters[name] = moved[id(parameter)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and not is_lazy(buffer) and not buffer.is_meta:
                if id(buffer) not in moved:
                    moved[id(buffer)] = buffer.to("meta")
                    keep_values(moved[id(buffer)], buffer)
                module._buffers[name] = moved[id(buffer)]
    return built
