"""What a slice finds around it: no accelerator, no downloads, marked checkpoints, recorded constructors."""

from __future__ import annotations

import builtins
import contextlib
import functools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradlint.graph.build_error import BuildError
from gradlint.graph.command_line import fill_arguments
from gradlint.graph.frames import is_user_file, location_of, user_frame, user_location
from gradlint.graph.laws import LawRecorder
from gradlint.graph.missing_packages import MissingPackages
from gradlint.graph.open_data import open_data
from gradlint.graph.pretrained import LibraryPatches
from gradlint.graph.project_modules import ProjectModules
from gradlint.graph.stand_ins import Row
from gradlint.graph.stubs import Checkpoint, Unknown, before_first
from gradlint.graph.trace_custom import intercept
from gradlint.location import Location
from gradlint.worker.protocol import Slice

_TO_META = frozenset(["empty", "zeros", "ones", "full", "rand", "randn", "normal", "eye", "empty_strided"])
_MOVES = frozenset(["to", "cuda", "cpu", "xpu", "pin_memory"])
_CONSTRUCTOR = "_gradlint_constructor"


class Devices(TorchFunctionMode):
    """Everything on the CPU; with `meta`, tensors that are only storage for parameters on meta.

    `arange`, `linspace`, `tensor` and the like stay real, since constructors read numbers from them.
    """

    def __init__(self, *, meta: bool) -> None:
        super().__init__()
        self.meta = meta

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _MOVES and args and isinstance(args[0], Tensor):
            return _without_move(func, name, args, keywords)
        device = keywords.get("device")
        if device is not None and str(device) != "meta":
            keywords["device"] = "cpu"
        if self.meta and name in _TO_META and "out" not in keywords and not any(isinstance(a, Tensor) for a in args):
            keywords["device"] = "meta"
            keywords.pop("generator", None)
            keywords.pop("pin_memory", None)
        return func(*args, **keywords)


def _without_move(func: Any, name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """A tensor's `.to(...)` with its change of dtype but without its change of device."""
    if name != "to":
        return args[0]
    dtype = keywords.get("dtype")
    for argument in args[1:]:
        if isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, Tensor):
            dtype = argument.dtype
    return func(args[0], dtype) if dtype is not None else args[0]


class Around:
    """What the surroundings saw: `notes`, `stubbed` packages, `invented` command-line arguments, what `failures` of
    imported modules are behind which names, and the user's line that constructed each module."""

    def __init__(self, stubbed: list[str], failures: dict[str, tuple[BaseException, Location]]) -> None:
        self.notes: list[str] = []
        self.stubbed = stubbed
        self.failures = failures
        self.invented: list[str] = []

    @staticmethod
    def constructor_of(module: nn.Module) -> Location | None:
        """The user's line that made a module; a deep copy's is that of its original."""
        found: Location | None = module.__dict__.get(_CONSTRUCTOR)
        return found

    @staticmethod
    def draw_from(seed: int) -> None:
        """Seed every source of random numbers that is loaded."""
        _seed_cpu(seed)
        random.seed(seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed % 2**32)


@contextlib.contextmanager
def surroundings(sliced: Slice, recorder: LawRecorder | None) -> Iterator[Around]:
    """Change what user code calls while a model is built; all is put back afterwards."""
    missing = MissingPackages(sliced.root)
    own = ProjectModules(sliced.root)
    around = Around(missing.stubbed, own.failures)
    patches: list[tuple[Any, str, Any]] = []
    defined: list[str] = []

    def patch(owner: Any, name: str, value: Any) -> None:
        if hasattr(owner, name):
            patches.append((owner, name, owner.__dict__.get(name, getattr(owner, name))))
            setattr(owner, name, value)

    def define(name: str, value: Any) -> None:
        if not hasattr(builtins, name):
            defined.append(name)
            setattr(builtins, name, value)

    _no_accelerator(patch)
    _no_wrappers(patch)
    _no_downloads(patch, recorder, around, sliced.root)
    fill_arguments(patch, around.invented, sliced)
    _data_that_is_not_there(patch, recorder, sliced.root)
    _no_words(patch, around)
    for name, value in _OLD_NAMES.items():
        define(name, value)
    if recorder is not None:
        patch(nn.Module, "__init__", _located(nn.Module.__init__, sliced.root))
    libraries = LibraryPatches(recorder, around.notes, sliced.root, [str(Path(sliced.path).parent)])
    sys.meta_path[:0] = [libraries, own]
    sys.meta_path.append(missing)
    libraries.patch_loaded()
    release = intercept()
    try:
        yield around
    finally:
        release()
        before_first.clear()
        for owner, name, value in reversed(patches):
            setattr(owner, name, value)
        for name in defined:
            delattr(builtins, name)
        for finder in (libraries, own, missing):
            sys.meta_path.remove(finder)
        around.notes += [f"package {name} is not installed here and was stubbed" for name in missing.stubbed]


Patch = Callable[[Any, str, Any], None]


def _no_accelerator(patch: Patch) -> None:
    def same(self: nn.Module, *_: Any, **__: Any) -> nn.Module:
        return self

    def to(self: nn.Module, *arguments: Any, **keywords: Any) -> nn.Module:
        # Double precision stays: forward methods make their own tensors to match it. Half is left out, since
        # gradients are predicted and measured in the precision that parameters are kept in.
        wide = torch.float64 in (*arguments, keywords.get("dtype"))
        return nn.Module._apply(self, _doubled) if wide else self

    for name in ("cuda", "cpu", "xpu", "half", "bfloat16", "float", "compile", "share_memory", "ipu"):
        patch(nn.Module, name, same)
    patch(nn.Module, "to", to)
    patch(torch.cuda, "is_available", lambda: False)
    for name in ("set_device", "manual_seed", "manual_seed_all", "empty_cache", "synchronize", "init"):
        patch(torch.cuda, name, lambda *_, **__: None)
    patch(torch, "manual_seed", _seed_cpu)
    patch(torch.cuda, "device_count", lambda: 0)
    patch(torch.cuda, "current_device", lambda: 0)
    patch(torch.cuda, "get_device_name", lambda *_: "cpu")
    patch(torch.cuda, "get_device_capability", lambda *_: (0, 0))
    patch(torch, "set_default_device", lambda *_: None)
    if torch.distributed.is_available():
        distributed = torch.distributed
        for name, value in (("get_rank", 0), ("get_world_size", 1), ("is_initialized", False)):
            patch(distributed, name, lambda *_, value=value, **__: value)
        for name in ("init_process_group", "barrier", "destroy_process_group", "broadcast", "all_reduce"):
            patch(distributed, name, lambda *_, **__: None)


def _seed_cpu(seed: Any) -> torch.Generator:
    """As `torch.manual_seed`, which also notes with a stack trace what to seed on each accelerator."""
    return torch.default_generator.manual_seed(int(seed))


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _no_wrappers(patch: Patch) -> None:
    """Parallel wrappers and compilers give back what they wrap, which answers to `.module` too."""

    def unwrapped(module: Any, *_: Any, **__: Any) -> Any:
        if isinstance(module, nn.Module):
            module.__dict__.setdefault("module", module)
        return module

    def decorator(function: Any = None, *_: Any, **__: Any) -> Any:
        return function if function is not None else lambda f: f

    for name in ("DataParallel", "DistributedDataParallel"):
        patch(nn, name, unwrapped)
        patch(nn.parallel, name, unwrapped)
    patch(nn.parallel.distributed, "DistributedDataParallel", unwrapped)
    patch(nn.SyncBatchNorm, "convert_sync_batchnorm", staticmethod(lambda module, *_, **__: module))
    patch(torch, "compile", decorator)
    patch(torch.jit, "script", decorator)
    patch(torch.jit, "trace", decorator)


_OLD_NAMES = {"xrange": range, "unicode": str, "basestring": str, "long": int}
"""Names of Python 2 that code from before 2020 still uses where a model is built."""


def _no_words(patch: Patch, around: Around) -> None:
    """A layer for 0 words is one for a vocabulary that was counted in data that are not there."""

    def counted(layer: type[nn.Module], position: int, name: str) -> Callable[..., None]:
        construct = layer.__init__

        @functools.wraps(construct)
        def made(self: nn.Module, *arguments: Any, **keywords: Any) -> None:
            given = list(arguments)
            if given[position : position + 1] == [0] or keywords.get(name) == 0:
                words = int(Unknown("vocabulary"))
                if name in keywords:
                    keywords[name] = words
                else:
                    given[position] = words
                around.invented.append("vocabulary")
            construct(self, *given, **keywords)

        return made

    patch(nn.Embedding, "__init__", counted(nn.Embedding, 0, "num_embeddings"))
    patch(nn.Linear, "__init__", counted(nn.Linear, 1, "out_features"))


def _data_that_is_not_there(patch: Patch, recorder: LawRecorder | None, root: str) -> None:
    """Tensors made of data that are not known are as many zeros as the invented length; weights read from such data
    stay as they are, and count as read from a checkpoint."""

    def filled(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def made(data: Any = 0, *arguments: Any, **keywords: Any) -> Any:
            if isinstance(data, Row):
                return torch.tensor(data.tolist(), dtype=torch.float32)
            return open_data(data) if isinstance(data, Unknown) else make(data, *arguments, **keywords)

        return made

    for name in ("tensor", "as_tensor", "from_numpy"):
        patch(torch, name, filled(getattr(torch, name)))
    assign, copy = nn.Module.__setattr__, Tensor.copy_

    def mark(tensor: Tensor) -> Tensor:
        if recorder is not None:
            recorder.mark_pretrained(tensor, user_location(root))
        return tensor

    def assigned(self: nn.Module, name: str, value: Any) -> None:
        known = self.__dict__.get("_parameters", {}).get(name)
        if known is not None and isinstance(value, Unknown):
            mark(known)
            return
        assign(self, name, value)

    # Modes are handed what the class holds under the method's name, and know it by its own.
    @functools.wraps(copy)
    def copied(self: Tensor, source: Any, *arguments: Any, **keywords: Any) -> Tensor:
        return mark(self) if isinstance(source, Unknown) else copy(self, source, *arguments, **keywords)

    def embedded(cls: type[nn.Embedding], weights: Any, *arguments: Any, **keywords: Any) -> nn.Embedding:
        if not isinstance(weights, Unknown):
            return from_pretrained.__get__(None, cls)(weights, *arguments, **keywords)
        made = cls(int(Unknown("vocabulary")), int(weights.shape[1]))
        mark(made.weight)
        return made

    from_pretrained = nn.Embedding.__dict__["from_pretrained"]
    # A special method of so many classes takes its time to patch.
    before_first.append(lambda: patch(nn.Module, "__setattr__", assigned))
    patch(Tensor, "copy_", copied)
    patch(nn.Embedding, "from_pretrained", classmethod(embedded))


def _no_downloads(patch: Patch, recorder: LawRecorder | None, around: Around, root: str) -> None:
    load_real = nn.Module.load_state_dict

    def load_state_dict(self: nn.Module, state: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(state, dict) and state and all(isinstance(v, Tensor) for v in state.values()):
            return load_real(self, state, *arguments, **keywords)
        if recorder is not None:
            at = user_location(root)
            for parameter in self.parameters():
                recorder.mark_pretrained(parameter, at)
        return nn.modules.module._IncompatibleKeys([], [])

    def no_hub(*_: Any, **__: Any) -> Any:
        raise BuildError("torch.hub runs code from the network, which gradlint never does", user_location(root))

    patch(nn.Module, "load_state_dict", load_state_dict)
    patch(torch, "load", lambda *_, **__: Checkpoint())
    patch(torch.hub, "load", no_hub)
    patch(torch.hub, "load_state_dict_from_url", lambda *_, **__: Checkpoint())
    patch(torch.hub, "download_url_to_file", lambda *_, **__: None)


def _located(initialise: Callable[..., None], root: str) -> Callable[..., None]:
    """`Module.__init__` that also notes the user's line whose call constructs the module."""

    def located(self: nn.Module, *arguments: Any, **keywords: Any) -> None:
        if _CONSTRUCTOR not in self.__dict__:
            frame: Any = sys._getframe(1)
            # Out of the module's own chain of __init__ …
            while frame is not None and frame.f_code.co_name == "__init__" and _first_argument(frame) is self:
                frame = frame.f_back
            # … to the innermost call that the user wrote.
            found = frame if frame and is_user_file(frame.f_code.co_filename, root) else user_frame(frame, root)
            self.__dict__[_CONSTRUCTOR] = location_of(found) if found is not None else None
        initialise(self, *arguments, **keywords)

    return located


def _first_argument(frame: Any) -> Any:
    names = frame.f_code.co_varnames
    return frame.f_locals.get(names[0]) if names else None
