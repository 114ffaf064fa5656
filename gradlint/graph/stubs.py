"""Stand-ins for what a slice cannot have: missing packages and values that only the data know."""

from __future__ import annotations

import ast
import dis
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any

from gradlint.graph.frames import is_user_file

if TYPE_CHECKING:
    from typing_extensions import Self

_SIZES = (
    (("class", "label", "target", "categor"), 10),
    (("vocab", "token", "word", "dictionary", "char", "corpus", "letters"), 1000),
    (("channel",), 3),
    (("action",), 4),
    (("observation", "state_size", "state_dim", "obs"), 8),
    (("batch",), 4),
    (("layer", "depth", "head", "rank", "world"), 2),
)
_OTHER_SIZE = 16


def invented_size(name: str) -> int:
    """A size that a value of this name commonly has, small enough to build quickly. An invention, labelled as such."""
    lowered = name.lower()
    return next((size for words, size in _SIZES if any(w in lowered for w in words)), _OTHER_SIZE)


class Unknown(int):
    """A value that cannot be known without the data: a small number that also takes any attribute, item or call."""

    gradlint_name: str

    def __new__(cls, name: str = "value", size: int | None = None) -> Self:
        made = super().__new__(cls, invented_size(name) if size is None else size)
        made.gradlint_name = name
        return made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Unknown(f"{self.gradlint_name}.{name}")

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        # As a decorator an unknown leaves what it decorates alone.
        if len(arguments) == 1 and not keywords and isinstance(arguments[0], (types.FunctionType, type)):
            return arguments[0]
        return Unknown(f"{self.gradlint_name}()")

    def __getitem__(self, key: Any) -> Unknown:
        return Unknown(self.gradlint_name)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __len__(self) -> int:
        return int(self)

    def __iter__(self) -> Iterator[Any]:
        # Unpacking takes what it needs; a loop over data ends soon.
        count = _unpacked(sys._getframe(1))
        return iter([Unknown(self.gradlint_name)] * (min(int(self), 2) if count is None else count))

    def __contains__(self, item: Any) -> bool:
        return False

    def __enter__(self) -> Unknown:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __repr__(self) -> str:
        return f"<{self.gradlint_name}: not known>"

    def __reduce__(self) -> Any:
        return Unknown, (self.gradlint_name, int(self))


class Configuration(dict[str, Any]):
    """A configuration read from files: a dictionary whose keys are attributes, as hydra's and OmegaConf's."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no `{name}`") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Tokenizer(Unknown):
    """A tokenizer that is not on this machine: as many words as its model's default configuration says."""

    def __getattr__(self, name: str) -> Any:
        if name == "vocab_size":
            return int(self)
        if name.endswith("_token_id"):
            return 0
        return super().__getattr__(name)


def _unpacked(frame: FrameType) -> int | None:
    """How many values the instruction that a frame is at unpacks, or None if it does something else."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return code[at + 1] if 0 <= at < len(code) - 1 and dis.opname[code[at]] == "UNPACK_SEQUENCE" else None


class Checkpoint(dict[str, Any]):
    """What `torch.load` yields while a model is built: a checkpoint of which only the existence is known."""

    def __getitem__(self, key: Any) -> Any:
        return Checkpoint()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unknown(name)

    def get(self, key: str, default: Any = None) -> Any:
        """Every entry is again a checkpoint."""
        return super().get(key, Checkpoint())

    def __contains__(self, key: object) -> bool:
        return key in ("state_dict", "model", "model_state_dict") or super().__contains__(key)

    def pop(self, key: str, *default: Any) -> Any:
        """Every entry is again a checkpoint."""
        return super().pop(key, Checkpoint())

    def state_dict(self, *_: Any, **__: Any) -> Checkpoint:
        """A whole pickled model was loaded."""
        return Checkpoint()


class _StubObject:
    """An instance of a class of a missing package."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Unknown(f"{type(self).__name__}.{name}")

    def __len__(self) -> int:
        return invented_size(type(self).__name__)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return Unknown(type(self).__name__)(*arguments, **keywords)


class _StubMeta(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unknown(f"{cls.__name__}.{name}")


class StubModule(types.ModuleType):
    """A missing package: every name is there, none does anything."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if name[:1].isupper():
            made: Any = _stub_class(f"{self.__name__}.{name}", name)
        else:
            made = Unknown(f"{self.__name__}.{name}")
        setattr(self, name, made)
        return made


def _stub_class(qualified_name: str, name: str) -> type:
    """A class that may be subclassed; those that are modules in their package are `nn.Module`s here too."""
    if name in ("LightningModule", "ModelMixin", "PreTrainedModel") or name.endswith("BaseModule"):
        from torch import nn

        nothing = lambda self, *_, **__: None  # noqa: E731
        names = ("save_hyperparameters", "log", "log_dict", "print", "register_to_config")
        return type(name, (nn.Module,), {"gradlint_stub": qualified_name, **dict.fromkeys(names, nothing)})
    return _StubMeta(name, (_StubObject,), {"gradlint_stub": qualified_name})


class MissingPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stub for a package that is not installed, where the user's own file imports it.

    Library code that probes for optional packages still finds nothing, and so does user code that is
    prepared for it (`try: import x` with an `except ImportError`).
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.stubbed: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        top = fullname.partition(".")[0]
        if top in self.stubbed:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if "." in fullname or top in sys.stdlib_module_names:
            return None
        frame = _importer(sys._getframe(1))
        if frame is None or not is_user_file(frame.f_code.co_filename, self.root) or _is_prepared(frame):
            return None
        self.stubbed.append(top)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """See `importlib.abc.Loader`."""
        return StubModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """See `importlib.abc.Loader`."""


def _importer(frame: FrameType | None) -> FrameType | None:
    while frame is not None and (
        "importlib" in frame.f_code.co_filename or frame.f_code.co_filename.startswith(("<frozen", __file__))
    ):
        frame = frame.f_back
    return frame


def _is_prepared(frame: FrameType) -> bool:
    return any(first <= frame.f_lineno <= last for first, last in _guarded_lines(frame.f_code.co_filename))


@cache
def _guarded_lines(path: str) -> tuple[tuple[int, int], ...]:
    """The bodies of `try` statements that catch ImportError."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return ()
    return tuple(
        (node.body[0].lineno, node.body[-1].end_lineno or node.body[-1].lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any(_catches_import_error(h) for h in node.handlers)
    )


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)}
    return not names.isdisjoint({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
