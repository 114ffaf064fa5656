"""Which files a path means: Python scripts and notebooks below a folder, ignored ones left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

SUFFIXES = frozenset({".py", ".ipynb"})


class MissingPathError(Exception):
    """A path that was named does not exist."""


@dataclass(frozen=True)
class Exclusion:
    """What to leave out: gitignore `patterns`, told from the folder `home` (that of the configuration)."""

    home: Path
    patterns: tuple[str, ...]

    def covers(self, path: Path, folder: bool = False) -> bool:
        """Whether the path, or a folder that it is in, is left out."""
        return GitIgnoreSpec.from_lines(self.patterns).match_file(relative_to(path, self.home) + "/" * folder)

    def below(self, top: Path) -> Exclusion:
        """The same for the files below a folder that was named: a pattern that means the folder itself is void."""
        kept = tuple(p for p in self.patterns if not Exclusion(self.home, (p,)).covers(top, folder=True))
        return Exclusion(self.home, kept)


def relative_to(path: Path, home: Path) -> str:
    """The path as patterns of a configuration in `home` see it, with `/`; the bare name where it lies elsewhere."""
    whole = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
    try:
        return whole.relative_to(home.resolve()).as_posix()
    except ValueError:
        return whole.name


def discover(
    paths: Iterable[Path], exclude: Iterable[str] = (), force_exclude: bool = False, home: Path | None = None
) -> list[Path]:
    """The files to check, sorted, once each.

    Folders are searched for `.py` and `.ipynb`; `.gitignore` files at and above each folder (up to the repository's
    top) and `exclude` (gitignore patterns, told from `home`, else from the working folder) are respected. What is
    named is taken whatever its name, unless `force_exclude`. Symbolic links to folders are not followed. Raises
    MissingPathError.
    """
    exclusion = Exclusion(home or Path.cwd(), tuple(exclude))
    found: dict[Path, None] = {}
    for path in paths:
        if missing := _why_missing(path):
            raise MissingPathError(f"{path}: {missing}")
        folder = path.is_dir()
        if force_exclude and exclusion.covers(path, folder):
            continue
        if folder:
            for file in _below(path, exclusion.below(path)):
                found[file] = None
        else:
            found[path] = None
    return sorted(found, key=lambda p: p.as_posix())


def _why_missing(path: Path) -> str:
    """Why nothing is there, empty where something is."""
    try:
        if path.exists():
            return ""
    except OSError as error:  # a name that is too long, a folder that may not be entered
        return (error.strerror or str(error)).lower()
    return "a link to nothing" if path.is_symlink() else "no such file or folder"


def _below(top: Path, exclusion: Exclusion) -> Iterator[Path]:
    ignores = list(_ignores_above(top))
    if _ignored(top.resolve(), ignores, folder=True):
        ignores = []  # it was named, so what is above has no say
    whole, home = top.resolve(), exclusion.home.resolve()
    # Of a folder that lies elsewhere, patterns see the paths within it.
    inside = f"{whole.relative_to(home).as_posix()}/" if whole.is_relative_to(home) and whole != home else ""
    yield from _walk(top, inside, ignores, GitIgnoreSpec.from_lines(exclusion.patterns))


def _ignores_above(top: Path) -> Iterator[tuple[Path, GitIgnoreSpec]]:
    """The .gitignore specs of the folders above `top`, up to the one that holds `.git`."""
    folder = top.resolve()
    chain = []
    while not (folder / ".git").exists():
        if folder.parent == folder:
            return  # not in a repository: files above are none of ours
        folder = folder.parent
        chain.append(folder)
    for above in reversed(chain):
        spec = _gitignore(above)
        if spec is not None:
            yield above, spec


def _gitignore(folder: Path) -> GitIgnoreSpec | None:
    try:
        text = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return GitIgnoreSpec.from_lines(text.splitlines())


def _walk(
    folder: Path, inside: str, ignores: list[tuple[Path, GitIgnoreSpec]], patterns: GitIgnoreSpec
) -> Iterator[Path]:
    own = _gitignore(folder)
    active = [*ignores, (folder.resolve(), own)] if own is not None else ignores
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError:
        return
    for entry in entries:
        name = f"{inside}{entry.name}"
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            if not patterns.match_file(f"{name}/") and not _ignored(path, active, folder=True):
                yield from _walk(path, f"{name}/", active, patterns)
            continue
        wanted = path.suffix in SUFFIXES and _is_file(entry) and not patterns.match_file(name)
        if wanted and not _ignored(path, active, folder=False):
            yield path


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False


def _ignored(path: Path, ignores: list[tuple[Path, GitIgnoreSpec]], folder: bool) -> bool:
    """Whether git would ignore the path: the deepest .gitignore that has an opinion decides."""
    if not ignores:
        return False
    whole = path.parent.resolve() / path.name
    for base, spec in reversed(ignores):
        relative = whole.relative_to(base).as_posix() + ("/" if folder else "")
        result = spec.check_file(relative)
        if result.include is not None:
            return bool(result.include)
    return False
