"""What earlier runs without execution reported, kept in `.gradlint_cache/` until anything that they read changes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlint.source.project import Trail

FOLDER = ".gradlint_cache"

MAX_RUNS = 64
"""Runs that are kept; the oldest go first."""

MAX_FILES = 3000
"""As many files of a project are looked at for calls into a script (see `source.callers`)."""

ENVIRONMENT = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "GITHUB_ACTIONS", "PYTHONPATH", "LANG", "LC_ALL")
"""Variables that change a report."""

FORGOTTEN = frozenset(
    {"stdin_filename", "apply_fixes", "unsafe_fixes", "show_diff", "output_file", "baseline", "update_baseline"}
    | {"no_baseline", "changed_since", "add_ignore", "show_files", "show_settings", "models", "real", "reports"}
)
"""Options whose runs write something, or read what is not in the project's files."""

_SKIP = frozenset({"node_modules", "site-packages", "__pycache__", "build", "dist", "venv", "env"})
_SUFFIXES = (".py", ".ipynb")


@dataclass(frozen=True)
class Seen:
    """What a run read: the project's `root`, the `files` under check, the patterns that left others out and the folder
    `home` that they are told from, the files that `settings` or rules of third parties come from, whether they are
    there or not, and what the scripts led to (`trail`): modules outside the root or among builds, configuration files.
    """

    root: Path
    files: Sequence[Path]
    exclude: Sequence[str]
    settings: Iterable[Path]
    trail: Trail
    home: Path


class Cache:
    """What runs with the same options printed.

    A run is found again by the version, the options and the working folder. It holds as long as the same files are
    found, every file that it checked, every Python file of the project (one may call into another) and every other file
    that it looked at has the same content, and modules have the same names where they were looked for. What is damaged
    or cannot be read counts as missing.
    """

    def __init__(self, options: dict[str, Any], digests: Digests) -> None:
        self.options = options
        self.seen: Seen | None = None
        self._digests = digests

    def find(self) -> tuple[str, int] | None:
        """The report of the same run and its exit code, if nothing has changed since."""
        from gradlint.discover import MissingPathError, discover

        try:
            content = json.loads(self._entry().read_bytes())
            named = {str(path): str(digest) for path, digest in content["named"].items()}
            folders = {str(folder): str(digest) for folder, digest in content["folders"].items()}
            report, code, project = str(content["report"]), int(content["code"]), str(content["project"])
            root, exclude = Path(content["root"]), [str(pattern) for pattern in content["exclude"]]
            home = Path(content["home"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        if any(self._digests.of(path) != digest for path, digest in named.items()):
            return None
        if any(self._digests.names(folder) != digest for folder, digest in folders.items()):
            return None
        try:
            files = discover(self.options["paths"] or [Path()], exclude, bool(self.options["force_exclude"]), home)
        except MissingPathError:
            return None
        return (report, code) if project == self._project(root, files) else None

    def keep(self, report: str, code: int) -> None:
        """Remember the run that was seen. A failed write is no error."""
        if self.seen is None:
            return
        named = sorted({*map(str, self.seen.settings), *self.seen.trail.files})
        if not self._digests.still([*named, *map(str, self.seen.files)]):
            return
        content = {
            "root": str(self.seen.root),
            "exclude": list(self.seen.exclude),
            "home": str(self.seen.home),
            "project": self._project(self.seen.root, self.seen.files),
            "named": {path: self._digests.of(path) for path in named},
            "folders": {folder: self._digests.names(folder) for folder in sorted(self.seen.trail.folders)},
            "report": report,
            "code": code,
        }
        with suppress(OSError):
            prepare(folder_of())
            write_whole(self._entry(), json.dumps(content).encode())
            self._prune()

    def _entry(self) -> Path:
        options = (f"{key}={value}" for key, value in sorted(self.options.items()))
        surroundings = (f"{name}={os.environ.get(name)}" for name in ENVIRONMENT)
        screen = f"{sys.stdout.isatty()} {shutil.get_terminal_size()}"
        parts = [code_digest(), sys.version, *_installed(), str(Path.cwd()), screen, *options, *surroundings]
        return folder_of() / f"{hashed(parts)}.json"

    def _project(self, root: Path, files: Iterable[Path]) -> str:
        """One digest over the files under check and the Python files of the project."""
        checked = sorted(str(f.absolute()) for f in files)
        names = [*checked, "", *sorted(set(_python_files(root)) - set(checked))]
        return hashed(f"{name}\0{self._digests.of(name)}" for name in names)

    def _prune(self) -> None:
        for old in oldest(folder_of().glob("*.json"), MAX_RUNS):
            with suppress(OSError):
                old.unlink()


class Digests:
    """Digests of the contents of files and of the modules in folders, each read once; made before a run begins."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._began = time.time_ns()

    def of(self, path: str) -> str:
        """The digest of a file's content, "" where there is none; a pipe would keep its reader waiting."""
        if path not in self._known:
            found = Path(path)
            try:
                regular = found.is_file()
                self._known[path] = digest_of(found.read_bytes()) if regular else ""
            except OSError:
                self._known[path] = ""
        return self._known[path]

    def names(self, folder: str) -> str:
        """The digest of the names in a folder that modules and packages can have: without dots, but for `.py`."""
        if folder not in self._folders:
            try:
                entries = sorted(n for p in Path(folder).iterdir() if "." not in (n := p.name).removesuffix(".py"))
            except OSError:
                entries = []
            self._folders[folder] = hashed(entries)
        return self._folders[folder]

    def still(self, paths: Iterable[str]) -> bool:
        """Whether no file was written since the run began, which may have read what stood there before."""
        for path in paths:
            with suppress(OSError):
                if Path(path).stat().st_mtime_ns > self._began:
                    return False
        return True


def folder_of() -> Path:
    """Where entries are kept: in the folder that gradlint is called from."""
    return Path.cwd() / FOLDER


def prepare(folder: Path) -> None:
    """Make a folder for entries, of which version control should see nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder_of() / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")


def write_whole(path: Path, content: bytes) -> None:
    """Write an entry whole or not at all: other runs may write the same one at the same time."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def oldest(paths: Iterable[Path], most: int) -> list[Path]:
    """The paths beyond the `most` newest ones."""
    return sorted(paths, key=lambda p: p.stat().st_mtime, reverse=True)[most:]


def digest_of(content: bytes) -> str:
    """The digest of a content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def hashed(parts: Iterable[str]) -> str:
    """One digest over several texts."""
    return digest_of(b"".join(part.encode(errors="surrogatepass") + b"\0" for part in parts))


@functools.cache
def code_digest() -> str:
    """A digest that changes with the installed code: of the names, sizes and times of gradlint's own files."""
    here = Path(__file__).parent
    rules = here / "rules"
    folders = [here, *([rules.resolve()] if rules.exists() else [])]
    return hashed(f"{entry}" for folder in folders for entry in _stamps(folder))


def _stamps(folder: Path) -> Iterator[str]:
    for current, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                yield stamp(f"{current}/{name}")


def stamp(path: str) -> str:
    """The name, size and time of a file or folder; the name alone where it is not there."""
    try:
        seen = Path(path).stat()
    except OSError:
        return path
    return f"{path} {seen.st_size} {seen.st_mtime_ns}"


def _installed() -> Iterator[str]:
    """What changes where packages are installed or removed: they may bring rules."""
    return (stamp(path) for path in sys.path if path.endswith(("site-packages", "dist-packages")))


def _python_files(root: Path) -> Iterator[str]:
    """The files that may call into, or be called by, a file of the project."""
    count = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIP)
        for name in sorted(files):
            if name.endswith(_SUFFIXES):
                count += 1
                if count > MAX_FILES:
                    return
                yield f"{folder}{os.sep}{name}"


class _Tee:
    """A stream that keeps what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.kept: list[str] = []

    def write(self, text: str) -> int:
        written = int(self._stream.write(text))
        self.kept.append(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def remembered(options: dict[str, Any], run: Callable[..., int]) -> int:
    """The exit code of `run(**options)`, or of the same run before, whose report is printed again.

    `run` gets a `cache` to tell what it has seen (`cache.seen`), without which nothing is kept; None where the
    options ask for more than a report. `digests` are those under which what is found in single files is kept for later
    runs, None where nothing is.
    """
    writes = any(options.get(name) for name in FORGOTTEN) or "GITHUB_STEP_SUMMARY" in os.environ
    digests = Digests() if options.pop("use_cache", True) else None
    if digests is None or writes:
        return run(**options, cache=None, digests=digests)
    cache = Cache(options, digests)
    before = cache.find()
    if before is not None:
        report, code = before
        sys.stdout.write(report)
        return code
    tee = _Tee(sys.stdout)
    with redirect_stdout(tee):
        code = run(**options, cache=cache, digests=digests)
    if code in (0, 1):
        cache.keep("".join(tee.kept), code)
    return code
