"""CPU time of the source pass (facts and models) over folders, as a ratio to bare `libcst.parse_module`.

Both see the same relevant files, in one process, one after the other: first libcst as Python runs it, whose trees are
let go at once, then gradlint with the collector set as `gradlint check` sets it. `--without-collector` turns Python's
garbage collector off for both.

python benchmarks/source_speed.py [--without-collector] FOLDER...
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import libcst

from gradlint.collecting import collect_seldom
from gradlint.source.project import Project, SourceFile, UnreadableError, decode
from gradlint.source.read import read_script
from gradlint.source.reader import read_models
from gradlint.source.relevance import is_relevant

BARE = gc.get_threshold()
"""How often Python itself looks for garbage."""


def main() -> None:
    """Time both passes and print one line a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--without-collector", action="store_true")
    options = parser.parse_args()
    if options.without_collector:
        gc.disable()
    print(f"{'folder':40}{'files':>7}{'libcst s':>10}{'facts s':>10}{'models s':>10}{'ratio':>8}")
    totals = [0.0, 0.0, 0.0]
    for folder in options.folders:
        files = list(_relevant(folder))
        gc.collect()
        gc.set_threshold(*BARE)
        start = time.process_time()
        parsable = [(path, text) for path, text in files if _parses(text)]
        parsed = time.process_time() - start
        gc.collect()
        collect_seldom()
        read, modelled = _source_pass(folder, parsable)
        totals = [t + s for t, s in zip(totals, (parsed, read, modelled), strict=True)]
        print(_row(folder.name, len(parsable), parsed, read, modelled))
    print(_row("all", 0, *totals))


def _relevant(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*.py")):
        raw = path.read_bytes() if path.is_file() else b""
        if is_relevant(raw):
            with suppress(UnreadableError):
                yield path, decode(raw)


def _parses(text: str) -> bool:
    try:
        libcst.parse_module(text)
    except libcst.ParserSyntaxError:
        return False
    return True


def _source_pass(folder: Path, files: list[tuple[Path, str]]) -> tuple[float, float]:
    """Seconds for the facts and for the models."""
    read = modelled = 0.0
    project = Project(folder)
    for path, text in files:
        with suppress(SyntaxError, UnreadableError):
            start = time.process_time()
            read_script(path, project)
            read += time.process_time() - start
            start = time.process_time()
            known = project.file(path)
            read_models(known or SourceFile(str(path), text, project.module_name(path)), project)
            modelled += time.process_time() - start
    return read, modelled


def _row(name: str, count: int, parsed: float, read: float, modelled: float) -> str:
    ratio = (read + modelled) / max(parsed, 1e-9)
    return f"{name[:39]:40}{count or '':>7}{parsed:>10.2f}{read:>10.2f}{modelled:>10.2f}{ratio:>8.2f}"


if __name__ == "__main__":
    main()
