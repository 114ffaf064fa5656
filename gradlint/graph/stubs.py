"""Stand-ins for values that a slice cannot have, since only the data, a checkpoint or the command line know them."""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_SIZES = (
    (("drop", "prob", "pad", "unk", "bos", "eos", "index", "idx"), 0),
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
    for told in (name.rpartition(".")[2].lower(), name.lower()):
        found = next((size for words, size in _SIZES if any(w in told for w in words)), None)
        if found is not None:
            return found
    return _OTHER_SIZE


def _shown(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """What an input of a streamlit page holds before anybody touches it; `...` for any other call."""
    if not name.startswith("streamlit."):
        return ...
    match name.rpartition(".")[2]:
        case "selectbox" | "radio" | "select_slider":
            options = keywords.get("options", arguments[1] if len(arguments) > 1 else ())
            return keywords.get("value", next(iter(options), ...))
        case "slider" | "number_input":
            given = [keywords.get("value"), *arguments[3:4], keywords.get("min_value"), *arguments[1:2]]
            return next((v for v in given if isinstance(v, (int, float))), ...)
        case "checkbox" | "toggle":
            return bool(keywords.get("value", arguments[1] if len(arguments) > 1 else False))
    return ...


before_first: list[Callable[[], None]] = []
"""What is to be done before the first value is invented; most models need none."""


class Unknown(int):
    """A value that cannot be known without the data: a small number that also takes any attribute, item or call."""

    gradlint_name: str

    def __new__(cls, name: str = "value", size: int | None = None) -> Self:
        while before_first:
            before_first.pop()()
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
        shown = _shown(self.gradlint_name, arguments, keywords)
        return Unknown(f"{self.gradlint_name}()") if shown is ... else shown

    def __getitem__(self, key: Any) -> Unknown:
        return Unknown(self.gradlint_name)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __len__(self) -> int:
        return int(self)

    def __iter__(self) -> Iterator[Any]:
        # Unpacking takes what it needs; a loop over data ends soon.
        count = unpacked(sys._getframe(1))
        return iter([Unknown(self.gradlint_name)] * (min(int(self), 2) if count is None else count))

    def __contains__(self, item: Any) -> bool:
        return False

    def keys(self) -> tuple[()]:
        """None, so that `Net(**options)` passes nothing."""
        return ()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        # As a base class it adds nothing.
        return ()

    def __enter__(self) -> Unknown:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __repr__(self) -> str:
        return f"<{self.gradlint_name}: not known>"

    def __reduce__(self) -> Any:
        return Unknown, (self.gradlint_name, int(self))


class InventedText(str):
    """A text that a required option was given: nothing is meant by it where a script compares it."""

    __slots__ = ()


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


def unpacked(frame: FrameType) -> int | None:
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
