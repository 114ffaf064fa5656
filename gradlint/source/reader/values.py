"""The values that the source reader computes with: concrete Python objects, and these stand-ins."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat
from typing import Any

from gradlint.graph.model import InitLaw
from gradlint.location import Location
from gradlint.source.project import SourceFile
from gradlint.source.reader.assumptions import Question

CHECKPOINT = "checkpoint"
"""The `prefix` of an Unknown that was read from a file of weights."""


@dataclass(eq=False, slots=True)
class Site:
    """A syntax node in a file; its Location and text are computed once, when asked for. Made by `site_of`."""

    file: SourceFile
    node: ast.AST
    _location: Location | None = None
    _text: str | None = None

    @property
    def location(self) -> Location:
        """The span of the node with character columns."""
        found = self._location
        if found is None:
            node: Any = self.node
            line, end = node.lineno, node.end_lineno or node.lineno
            found = self._location = Location(
                self.file.path,
                line,
                self.file.column(line, node.col_offset),
                end,
                self.file.column(end, node.end_col_offset or node.col_offset),
            )
        return found

    @property
    def text(self) -> str:
        """The source of the node on one line, shortened."""
        if self._text is None:
            text = " ".join(ast.unparse(self.node).split())
            self._text = text if len(text) <= 60 else text[:57] + "..."
        return self._text


def site_of(file: SourceFile, node: Any) -> Site:
    """The site of a node of the file's tree: one for each node, kept with it, for loops and calls come back often."""
    found: Site | None = getattr(node, "gradlint_site", None)
    if found is None:
        found = node.gradlint_site = Site(file, node)
    return found


NativeCall = Callable[[list[Any], dict[str, Any], Site], Any]
"""What a call does that the reader itself implements, given the arguments and the place of the call."""


class ReadingStoppedError(Exception):
    """The reader cannot follow the forward pass any further; `question` is what it would have to know."""

    def __init__(self, site: Site | None, reason: str, question: Question | None = None) -> None:
        super().__init__(reason)
        self.site = site
        self.reason = reason
        self.question = question


@dataclass(frozen=True)
class Jump:
    """How a block ended early: return, break, continue or raise, with the value returned or raised."""

    kind: str
    value: Any = None


class OutOfStepsError(Exception):
    """The step budget of one run is spent."""


@dataclass(eq=False, slots=True)
class Unknown:
    """A value that the source does not tell.

    `numeric` is True where it can only be a number, `tensor` where it can only be a
    tensor; `prefix` is the known beginning of a string,
    `choices` the strings it is declared to be one of. `source` is the unknown string after the prefix;
    `settled` the value that was assumed for it in this reading (see `Machine.forks`).
    """

    reason: str
    numeric: bool = False
    tensor: bool = False
    prefix: str | None = None
    choices: tuple[Any, ...] = ()
    source: Unknown | None = None
    settled: str | None = None


@dataclass(eq=False, slots=True)
class Choice:
    """One of several values, depending on a condition that is not known.

    `condition` is given for a layer that is there, beside an Unknown, only where the condition is as in `holds`.
    """

    values: tuple[Any, ...]
    condition: ast.expr | None = None
    holds: bool = True


@dataclass(frozen=True, slots=True)
class External:
    """Something outside the project, by its dotted name as torch's documentation spells it."""

    name: str

    @property
    def last(self) -> str:
        """The name after the last dot."""
        return self.name.rpartition(".")[2]


@dataclass(eq=False, slots=True)
class Tensor:
    """The output of a graph node; `part` is set for the pieces of a tuple-valued node."""

    node: int
    shape: tuple[int | None, ...] | None = None

    def become(self, other: Tensor) -> Tensor:
        """Take the place of another tensor, as after an operation in place."""
        self.node, self.shape = other.node, other.shape
        return self


@dataclass(eq=False, slots=True)
class Pieces:
    """What chunk, split or unbind returns: a sequence of slices of one tensor, `count` of them if known."""

    tensor: Tensor
    op: str
    dim: Any
    count: int | None
    site: Site
    rank_change: int = 0


@dataclass(eq=False, slots=True)
class Array:
    """A tensor outside the graph: a parameter, a buffer or plain data, with the law of its elements.

    `view_of` is set for a slice: writing to it writes part of the other. `phase` and `level` say in which run and
    under how many unknown conditions it was made.
    """

    shape: tuple[int | None, ...] | None
    law: InitLaw
    parameter: bool = False
    buffer: bool = False
    trainable: bool = True
    frozen_by: Location | None = None
    site: Site | None = None
    view_of: Array | None = None
    phase: int = 0
    level: int = 0


@dataclass(eq=False, slots=True)
class Frame:
    """The names of one running function, class body or file.

    `returns` gathers values returned under conditions that are not known.
    """

    file: SourceFile
    names: dict[str, Any]
    outer: Frame | None = None
    scope: Any = None
    owner: UserClass | None = None
    receiver: Any = None
    returns: list[Any] = field(default_factory=list)
    outward: dict[str, Frame] = field(default_factory=dict)
    yields: list[Any] | None = None


@dataclass(eq=False, slots=True)
class Function:
    """A function or lambda of the project, with its defaults evaluated where it was defined."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    frame: Frame
    name: str
    defaults: list[Any]
    keyword_defaults: list[Any]
    owner: UserClass | None = None
    role: str = "plain"
    is_generator: bool = False
    called: bool = False


@dataclass(eq=False, slots=True)
class Bound:
    """A function of the project bound to its receiver."""

    function: Function
    receiver: Any


@dataclass(eq=False, slots=True)
class Native:
    """A callable that the reader itself implements: `call(args, kwargs, site)`."""

    name: str
    call: NativeCall


@dataclass(eq=False, slots=True)
class Super:
    """`super()`: attribute look-up starts after `owner` in the receiver's method resolution order."""

    receiver: Any
    owner: UserClass


@dataclass(eq=False)
class UserClass:
    """A class of the project. `torch_base` is the nearest torch.nn class among its ancestors, if any."""

    name: str
    node: ast.ClassDef
    frame: Frame
    bases: list[Any]
    members: dict[str, Any] = field(default_factory=dict)
    torch_base: str | None = None
    is_module: bool = False
    is_record: bool = False
    instantiated: bool = False

    @cached_property
    def ancestors(self) -> list[Any]:
        """This class, then its bases, depth first, each once (UserClass or External)."""
        found: list[Any] = []
        self._gather(found, 0)
        return found

    def rebase(self, old: External, new: UserClass) -> None:
        """Put a class in the place of a base."""
        self.bases = [new if b == old else b for b in self.bases]
        self.__dict__.pop("ancestors", None)

    def _gather(self, found: list[Any], depth: int) -> None:
        if self in found or depth > 20:
            return
        found.append(self)
        for base in self.bases:
            if isinstance(base, UserClass):
                base._gather(found, depth + 1)
            elif base not in found:
                found.append(base)

    def find(self, name: str, after: UserClass | None = None) -> Any:
        """The member `name` in resolution order (of the classes after `after`), or None."""
        ancestors = self.ancestors
        if after is not None and after in ancestors:
            ancestors = ancestors[ancestors.index(after) + 1 :]
        for cls in ancestors:
            if isinstance(cls, UserClass) and name in cls.members:
                return cls.members[name]
        return None


@dataclass(eq=False)
class Instance:
    """An object of a project class that is no module, or a namespace (`cls` None)."""

    cls: UserClass | None
    attributes: dict[str, Any] = field(default_factory=dict)
    open: bool = False


@dataclass(eq=False, slots=True)
class Module:
    """An nn.Module object.

    `torch` is the torch.nn class it is or derives from ("Linear", "Sequential", "Module"); `cls` the
    project's class, if any; `opaque` the reason why its forward cannot be read. `inner` is True for modules
    made while another module was being built or run; `owned` once it is registered in another. `repeated`
    stands for any number of layers like it: it was made in a loop of unknown length.
    """

    torch: str
    cls: UserClass | None
    site: Site
    arguments: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    children: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    opaque: str | None = None
    inner: bool = False
    owned: bool = False
    phase: int = 0
    pretrained: bool = False
    variable: str = ""
    repeated: bool = False

    @property
    def class_name(self) -> str:
        """The name of its class, without modules."""
        return self.cls.name if self.cls else self.torch.rpartition(".")[2]

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) of itself and all registered descendants, each once, in torch's order.

        Where which layer is registered is not known, all that it may be.
        """
        seen: set[int] = set()
        pending = [(prefix, self)]
        while pending:
            path, module = pending.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            if not module.children:
                continue
            start = f"{path}." if path else ""
            below: list[tuple[str, Module]] = []
            for name, child in module.children.items():
                if isinstance(child, Module):
                    below.append((start + name, child))
                elif isinstance(child, Choice):
                    layers = [v for v in child.values if isinstance(v, Module)]
                    below += [(start + (f"{name}~{n}" if n else name), one) for n, one in enumerate(layers)]
            pending += reversed(below)


def absorbing(value: Any, condition: ast.expr | None = None, holds: bool = True) -> Any:
    """A layer that is only there under a condition that is not known."""
    return Choice((value, Unknown("a layer under a condition that is not known")), condition, holds)


def repeated(value: Any) -> Any:
    """A layer, or a container of layers, that stands for any number of its kind."""
    if isinstance(value, Module):
        value.repeated = True
    elif isinstance(value, (list, tuple)):
        for one in value:
            repeated(one)
    return value


def is_repeated(value: Any) -> bool:
    """Whether a value is, or directly holds, a layer that stands for any number of them."""
    if isinstance(value, Module):
        return value.repeated or (
            value.torch in ("ModuleList", "ModuleDict") and any(is_repeated(c) for c in value.children.values())
        )
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(isinstance(v, (Module, tuple)) and is_repeated(v) for v in value)


def contains_tensor(value: Any, depth: int = 0) -> bool:
    """Whether a graph tensor is in a value, looking into short containers."""
    if isinstance(value, (Tensor, Pieces)):
        return True
    inner: Iterable[Any] = ()
    if depth < 3:
        if isinstance(value, (list, tuple)):
            inner = value[:64]
        elif isinstance(value, dict):
            inner = list(value.values())[:64]
        elif isinstance(value, Choice):
            inner = value.values
    return any(map(contains_tensor, inner, repeat(depth + 1)))


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is wholly concrete Python data."""
    if value is None or isinstance(value, (int, float, str, bytes, complex, range, slice)) or value is Ellipsis:
        return True
    if depth > 6:
        return False
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(is_plain(v, depth + 1) for v in value)
    if isinstance(value, dict):
        return all(is_plain(k, depth + 1) and is_plain(v, depth + 1) for k, v in value.items())
    return False


def merge(values: list[Any], reason: str) -> Any:
    """One value that stands for alternatives: themselves when alike, a Choice of objects, or Unknown."""
    distinct: list[Any] = []
    for value in values:
        for one in value.values if isinstance(value, Choice) else (value,):
            if not any(same(one, known) for known in distinct):
                distinct.append(one)
    if len(distinct) == 1:
        return distinct[0]
    if any(isinstance(v, (Module, UserClass, Function, Instance, External, Tensor)) for v in distinct):
        return Choice(tuple(distinct[:16]))
    return Unknown(reason, numeric=all(isinstance(v, (int, float)) for v in distinct))


def same(a: Any, b: Any) -> bool:
    """Whether two values are surely alike."""
    if a is b:
        return True
    if isinstance(a, External) and isinstance(b, External):
        return a == b
    if isinstance(a, Array) and isinstance(b, Array):
        plain = not (a.parameter or b.parameter or a.buffer or b.buffer)
        return plain and a.shape == b.shape and replace(a.law, location=b.law.location) == b.law
    try:
        return type(a) is type(b) and is_plain(a) and is_plain(b) and bool(a == b)
    except (ValueError, TypeError, RecursionError):
        return False
