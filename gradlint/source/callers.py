"""Which files of a project import a given file: the way back from a helper to the scripts that call it."""

from __future__ import annotations

import os
import re
import weakref
from collections import OrderedDict
from pathlib import Path

from gradlint.source.index import FileIndex
from gradlint.source.indexing import build_index
from gradlint.source.project import Project, SourceFile, UnreadableError, read_bytes

MAX_FILES = 3000
MAX_BYTES = 1 << 20
MAX_IMPORTERS = 24
MAX_RECENT_BYTES = 16 << 20
MAX_INDEXES = 96

_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+([^#\n]+)|import[ \t]+([^#\n]+))", re.MULTILINE)
_WORD = re.compile(rb"\w+")
_SKIP = frozenset({"node_modules", "site-packages", "__pycache__", "build", "dist", "venv", "env"})


_known: weakref.WeakKeyDictionary[Project, Importers] = weakref.WeakKeyDictionary()


def importers_of(project: Project) -> Importers:
    """The table of a project, made at the first question."""
    found = _known.get(project)
    if found is None:
        found = _known[project] = Importers(project)
    return found


class Importers:
    """A table from module stems to the files that name them in an import, made once for a project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._table: dict[str, list[str]] | None = None
        self._recent: dict[str, bytes] = {}
        self._recent_bytes = 0
        self._packages: dict[str, bool] = {}
        self._indexes: OrderedDict[str, FileIndex] = OrderedDict()

    def index(self, file: SourceFile) -> FileIndex:
        """The index of a file; the last `MAX_INDEXES` are kept from one script to the next."""
        found = self._indexes.get(file.path)
        if found is None or found.file is not file:
            found = self._indexes[file.path] = build_index(file)
            if len(self._indexes) > MAX_INDEXES:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(file.path)
        return found

    def of(self, file: SourceFile, name: str) -> list[SourceFile]:
        """Files that import `file` and hold the word `name`, sorted by path, at most `MAX_IMPORTERS`."""
        self._project.trail.importers.add((file.path, name))
        found = []
        for candidate in self.naming(file.path, name):
            loaded = self._project.file(candidate)
            if loaded is not None:
                found.append(loaded)
            if len(found) >= MAX_IMPORTERS:
                break
        return found

    def importing(self, module: str, word: str) -> list[SourceFile]:
        """Files that import a module from outside the project and hold a word, sorted by path."""
        self._project.trail.importers.add((module, word))
        loaded = [self._project.file(path) for path in self.naming(module, word)[:MAX_IMPORTERS]]
        return [f for f in loaded if f is not None]

    def naming(self, path: str, name: str) -> list[str]:
        """The paths of all files that import the module at `path` and hold the word `name`, sorted."""
        if self._table is None:
            self._table = self._scan()
        folder, _, last = path.replace("\\", "/").rpartition("/")
        package = folder.rpartition("/")[2]
        stem = package if last == "__init__.py" else last.removesuffix(".py")
        wanted = name.encode()
        # A package's __init__ may hand the name on: whoever imports the package may call it too.
        stems = {stem, package} if self._is_package(folder) else {stem}
        candidates = sorted({p for s in stems for p in self._table.get(s, ())})
        return [c for c in candidates if c != path and wanted in self._bytes(c)]

    def _is_package(self, folder: str) -> bool:
        known = self._packages.get(folder)
        if known is None:
            known = self._packages[folder] = Path(folder, "__init__.py").is_file()
        return known

    def _bytes(self, path: str) -> bytes:
        """A file's content; what was read last is kept, since the scripts of a project ask for the same files."""
        found = self._recent.get(path)
        if found is None:
            found = self._recent[path] = _content(Path(path))
            self._recent_bytes += len(found)
            while self._recent_bytes > MAX_RECENT_BYTES and len(self._recent) > 1:
                self._recent_bytes -= len(self._recent.pop(next(iter(self._recent))))
        return found

    def _scan(self) -> dict[str, list[str]]:
        table: dict[str, list[str]] = {}
        count = 0
        for folder, folders, files in os.walk(self._project.root):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIP)
            for name in sorted(files):
                if not name.endswith(".py"):
                    continue
                count += 1
                if count > MAX_FILES:
                    return table
                path = Path(folder, name)
                words = self._imported_words(path)
                resolved = str(path.resolve()) if words and path.is_symlink() else str(path)
                for word in words:
                    table.setdefault(word, []).append(resolved)
        return table

    @staticmethod
    def _imported_words(path: Path) -> set[str]:
        words: set[bytes] = set()
        for module, names, plain in _IMPORT.findall(_content(path)):
            words.update(_WORD.findall(module))
            words.update(_WORD.findall(names))
            words.update(_WORD.findall(plain))
        return {w.decode() for w in words if w.isascii()}


def _content(path: Path) -> bytes:
    """What a file of the project holds; nothing for one that cannot be read or is too large to be looked through."""
    try:
        return read_bytes(path, MAX_BYTES, "a source file")
    except UnreadableError:
        return b""
