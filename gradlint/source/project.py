"""The files of the project under check: text, syntax tree, and which file an import means."""

from __future__ import annotations

import ast
import io
import re
import stat
import tokenize
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from gradlint.older_python import parse

MAX_BYTES = 4 << 20
"""A hand-written source file is smaller than this; larger ones are generated and skipped."""

_MAGIC = re.compile(r"^([ \t]*)(?:[!%]{1,2}[ \t]?[A-Za-z]|\w+[ \t]*=[ \t]*[!%][A-Za-z]).*$", re.MULTILINE)
"""A line for IPython alone: a shell command, a magic, or the assignment of what one prints."""

MARKERS = (".git", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt")


UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What `ast.parse` raises for a text that is no program (null bytes, nesting beyond the parser's stack)."""


class UnreadableError(Exception):
    """A file that cannot be read as text; the message is one line without the path."""


class LeftOutError(UnreadableError):
    """A file that could be read but is none of gradlint's: too large to be hand-written, or in another language."""


@dataclass(frozen=True)
class SourceFile:
    """One file: `path` absolute and resolved, `text` decoded with universal newlines.

    `tree` raises SyntaxError. Columns of `ast` count UTF-8 bytes; use `column` to get characters.
    A notebook that was saved as a script (`!pip install …` between the statements) is read without its magics.
    """

    path: str
    text: str
    module: str = ""

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree, parsed once."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return parse(self.text, self.path)
            except SyntaxError as error:
                if not _MAGIC.search(self.text):
                    raise
                try:
                    return parse(_MAGIC.sub(r"\1pass", self.text), self.path)
                except SyntaxError:
                    raise error from None

    @cached_property
    def folder(self) -> Path:
        """Where the file lies."""
        return Path(self.path).parent

    @cached_property
    def lines(self) -> list[str]:
        """The text's lines without their ends, split only where Python's tokenizer splits."""
        return self.text.split("\n")

    def column(self, line: int, byte_offset: int) -> int:
        """The 1-based character column of an `ast` byte offset."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return len(text.encode()[:byte_offset].decode(errors="ignore")) + 1 if not text.isascii() else byte_offset + 1


def read_text(path: Path) -> str:
    """A Python file's text: BOM and coding cookie honoured, newlines normalised, tabs kept.

    Raises UnreadableError for missing, binary, oversized and undecodable files.
    """
    return decode(read_bytes(path, MAX_BYTES, "a hand-written source file"))


def read_bytes(path: Path, most: int, kind: str) -> bytes:
    """A regular file's content. Raises UnreadableError, for more than `most` bytes LeftOutError that names the kind."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("not a regular file")
        if status.st_size > most:
            raise LeftOutError(f"{status.st_size / 1e6:.0f} MB is larger than {kind}")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error


def decode(raw: bytes) -> str:
    """Bytes of a Python file as text, see `read_text`."""
    if b"\0" in raw:
        raise UnreadableError("not a text file")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UnreadableError(f"not valid UTF-8 and no other encoding declared (byte {error.start})") from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def find_root(path: Path) -> Path:
    """The project root of a file: the nearest parent with a marker file, else the file's own folder."""
    folder = path if path.is_dir() else path.parent
    return next((p for p in (folder, *folder.parents) if any((p / m).exists() for m in MARKERS)), folder)


@dataclass
class Trail:
    """What was looked at to read a script: `files` whether they are there or not, the names in `folders`, and which
    files import a module under a name (`importers`: pairs of the module's path and the name)."""

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    importers: set[tuple[str, str]] = field(default_factory=set)

    def join(self, other: Trail) -> None:
        """Add what another trail holds."""
        self.files |= other.files
        self.folders |= other.folders
        self.importers |= other.importers


class Project:
    """Files under one root, read on demand and kept while they are near (at most `capacity` trees).

    `trail` gathers what is looked at. Whoever keeps something for later scripts that was read from files keeps its
    trail beside it, and joins it whenever it is used again.
    """

    def __init__(self, root: Path, capacity: int = 256) -> None:
        self.root = root.resolve()
        self.trail = Trail()
        self._files: OrderedDict[str, SourceFile | None] = OrderedDict()
        self._capacity = capacity
        self._folders: dict[str, frozenset[str]] = {}
        self._search_paths: dict[Path, list[Path]] = {}
        self._modules: dict[tuple[str, Path, int], tuple[SourceFile | None, Trail]] = {}

    def file(self, path: Path | str) -> SourceFile | None:
        """The file, or None if it cannot be read or does not parse."""
        asked = key = str(path)
        if key not in self._files:
            key = str(Path(path).resolve())
        self.trail.files |= {asked, key}  # A link may come to lead to another file.
        if key in self._files:
            self._files.move_to_end(key)
            return self._files[key]
        resolved = Path(key)
        try:
            found: SourceFile | None = SourceFile(key, read_text(resolved), module=self.module_name(resolved))
            assert found is not None
            _ = found.tree
        except (UnreadableError, *UNPARSABLE):
            found = None
        self.add(key, found)
        return found

    def add(self, key: str, file: SourceFile | None) -> None:
        """Put a file that was made elsewhere (stdin, a notebook) under its path."""
        self._files[key] = file
        while len(self._files) > self._capacity:
            self._files.popitem(last=False)

    def module_name(self, path: Path) -> str:
        """The dotted name of a file relative to the root."""
        try:
            parts = list(path.with_suffix("").relative_to(self.root).parts)
        except ValueError:
            parts = [path.stem]
        if parts and parts[-1] == "__init__":
            parts.pop()
        return ".".join(parts)

    def module(self, name: str, importer: SourceFile, level: int = 0) -> SourceFile | None:
        """The file that `import name` (or `from <level dots>name import …`) in `importer` means.

        Searches the importer's folder (a script's own folder is on sys.path), then its parents up to the root,
        and `src/` and `lib/` of the root. None for everything outside the project.
        """
        key = (name, importer.folder, level)
        if key not in self._modules:
            outer, self.trail = self.trail, Trail()
            try:
                found = self._find(name, importer.folder, level)
                self._modules[key] = (found, self.trail)
            finally:
                self.trail = outer
        found, looked_at = self._modules[key]
        self.trail.join(looked_at)
        return found

    def _find(self, name: str, folder: Path, level: int) -> SourceFile | None:
        if level:
            for _ in range(level - 1):
                folder = folder.parent
            bases = [folder]
        else:
            bases = self._search_path(folder)
        if not name:
            found = next((b for b in bases if self._holds(b, "__init__.py")), None)
            return self.file(found / "__init__.py") if found is not None else None
        *packages, last = name.split(".")
        for base in bases:
            if packages and not self._holds(base, packages[0]):
                continue
            outer = base.joinpath(*packages) if packages else base
            if self._holds(outer, f"{last}.py"):
                return self.file(outer / f"{last}.py")
            if self._holds(outer, last) and self._holds(outer / last, "__init__.py"):
                return self.file(outer / last / "__init__.py")
        return None

    def _search_path(self, folder: Path) -> list[Path]:
        """Where an absolute import of a file in this folder is looked for, in order."""
        found = self._search_paths.get(folder)
        if found is None:
            parents = [folder, *folder.parents]
            within = parents[: parents.index(self.root) + 1] if self.root in parents else [folder]
            found = self._search_paths[folder] = [*within, self.root / "src", self.root / "lib"]
        return found

    def names_in(self, folder: Path) -> frozenset[str]:
        """The names of a folder's entries, none where there is no such folder; a folder is listed once."""
        key = str(folder)
        self.trail.folders.add(key)
        names = self._folders.get(key)
        if names is None:
            try:
                names = frozenset(p.name for p in folder.iterdir())
            except OSError:
                names = frozenset()
            self._folders[key] = names
        return names

    def _holds(self, folder: Path, name: str) -> bool:
        return name in self.names_in(folder)
