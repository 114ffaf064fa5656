"""What earlier runs without execution found in single files, kept until anything that they looked at for it changes."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from gradlint.cache import Digests, code_digest, digest_of, folder_of, hashed, oldest, prepare, stamp, write_whole
from gradlint.config import Config
from gradlint.rule import Rule, files_of_packs
from gradlint.source.callers import importers_of
from gradlint.source.project import Project, Trail

Found = TypeVar("Found")

MAX_FOLDERS = 8
"""Combinations of settings and gradlint's own code that are kept; the oldest go first."""

MAX_ENTRIES = 6000
"""Files that are kept for each of them."""

_PLAIN = frozenset([("builtins", "set"), ("builtins", "frozenset"), ("builtins", "complex")])


class FileCache:
    """What the files of a project were found to hold, under the same settings and rules.

    An entry holds as long as the file itself, all others that were looked at to read it, the modules in folders that
    its imports were looked for in, and the list of those that import it are as they were. What is damaged counts as
    missing: an entry can hold nothing but data of gradlint's own classes.
    """

    def __init__(self, digests: Digests, project: Project, config: Config, rules: Sequence[Rule], *about: str) -> None:
        code = [*(rule.code for rule in rules), *map(stamp, files_of_packs(rules))]
        key = hashed([code_digest(), sys.version, str(project.root), repr(config), *code, *about])
        self._folder = folder_of() / f"files-{key}"
        self._project = project
        self._digests = digests
        self._kept = False

    def find(self, path: Path, kind: type[Found]) -> Found | None:
        """What was kept of that kind for the file, or None if there is nothing that holds."""
        try:
            head, _, body = self._entry(path).read_bytes().partition(b"\n")
            told = json.loads(head)
            if digest_of(body) != told["body"] or not self._holds(told):
                return None
            found = _Reader(io.BytesIO(zlib.decompress(body))).load()
        except Exception:  # Whatever is wrong with an entry, the file can be checked again.
            return None
        return found if isinstance(found, kind) else None

    def keep(self, path: Path, found: Any, trail: Trail) -> None:
        """Remember what was found in the file and what was looked at for it. A failed write is no error.

        What was written meanwhile is left out: nobody knows which of its contents was read.
        """
        files = sorted({*trail.files, str(path.resolve())})
        if not self._digests.still(files):
            return
        try:
            body = zlib.compress(pickle.dumps(found, protocol=5), 1)
        except Exception:  # A rule of a third party can say anything about its findings.
            return
        importers = importers_of(self._project)
        told = {
            "files": {f: self._digests.of(f) for f in files},
            "folders": {f: self._digests.names(f) for f in sorted(trail.folders)},
            "importers": [[*asked, importers.naming(*asked)] for asked in sorted(trail.importers)],
            "body": digest_of(body),
        }
        with suppress(OSError):
            prepare(self._folder)
            write_whole(self._entry(path), json.dumps(told).encode() + b"\n" + body)
            self._kept = True

    def prune(self) -> None:
        """Drop the oldest entries, and those of the oldest settings."""
        if not self._kept:
            return
        with suppress(OSError):
            os.utime(self._folder)
            for old in oldest(self._folder.iterdir(), MAX_ENTRIES):
                old.unlink(missing_ok=True)
            for folder in oldest(self._folder.parent.glob("files-*"), MAX_FOLDERS):
                for old in folder.iterdir():
                    old.unlink(missing_ok=True)
                folder.rmdir()

    def _entry(self, path: Path) -> Path:
        return self._folder / f"{hashed([str(path.resolve())])}.entry"

    def _holds(self, told: dict[str, Any]) -> bool:
        importers = importers_of(self._project)
        return (
            all(self._digests.of(path) == digest for path, digest in told["files"].items())
            and all(self._digests.names(folder) == names for folder, names in told["folders"].items())
            and all(importers.naming(path, name) == found for path, name, found in told["importers"])
        )


class _Reader(pickle.Unpickler):
    """Reads data of gradlint's own classes and nothing else: the cache lies where anybody's project lies."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        if module.startswith("gradlint.") and module in sys.modules:
            found = super().find_class(module, name)
            if isinstance(found, type) and (is_dataclass(found) or issubclass(found, Enum)):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of what is kept")
