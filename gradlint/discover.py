"""Which files a path means: Python scripts and notebooks below a folder, ignored ones left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

SUFFIXES = frozenset({".py", ".ipynb"})


class MissingPathError(Exception):
    """A path that was named does not exist."""


def discover(paths: Iterable[Path], exclude: Iterable[str] = (), force_exclude: bool = False) -> list[Path]:
    """The files to check, sorted, once each.

    Folders are searched for `.py` and `.ipynb`; `.gitignore` files at and above each folder (up to the repository's
    top) and `exclude` (gitignore patterns) are respected. A file that is named is taken whatever its name, unless
    `force_exclude`. Symbolic links to folders are not followed. Raises MissingPathError.
    """
    patterns = GitIgnoreSpec.from_lines(exclude)
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise MissingPathError(f"{path}: no such file or folder")
        if path.is_dir():
            for file in _below(path, patterns):
                found[file] = None
        elif not force_exclude or not patterns.match_file(_relative(path)):
            found[path] = None
    return sorted(found, key=lambda p: p.as_posix())


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return (path.name if relative.startswith("..") else relative).replace(os.sep, "/")


def _below(top: Path, patterns: GitIgnoreSpec) -> Iterator[Path]:
    ignores = list(_ignores_above(top))
    yield from _walk(top, "", ignores, patterns)


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
        wanted = path.suffix in SUFFIXES and entry.is_file() and not patterns.match_file(name)
        if wanted and not _ignored(path, active, folder=False):
            yield path


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
