"""CPU time of the source pass (facts and models) over folders, as a ratio to bare `libcst.parse_module`.

Both see the same relevant files, in one process. With Python's garbage collector on, a look through all that lives in
the process falls on whichever of the two happens to make the next object; without it each pays for its own work alone.

python benchmarks/source_speed.py [--without-collector] FOLDER...
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path

import libcst

from gradlint.source.project import Project, SourceFile, UnreadableError, decode
from gradlint.source.read import read_script
from gradlint.source.reader import read_models
from gradlint.source.relevance import is_relevant


def main() -> None:
    """Time both passes in one process and print one line a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--without-collector", action="store_true")
    options = parser.parse_args()
    if options.without_collector:
        gc.disable()
    print(f"{'folder':40}{'files':>7}{'libcst s':>10}{'facts s':>10}{'models s':>10}{'ratio':>8}")
    totals = [0.0, 0.0, 0.0]
    for folder in options.folders:
        parsed = read = modelled = 0.0
        count = 0
        project = Project(folder)
        for path in sorted(folder.rglob("*.py")):
            raw = path.read_bytes() if path.is_file() else b""
            if not is_relevant(raw):
                continue
            try:
                text = decode(raw)
                start = time.process_time()
                libcst.parse_module(text)
                parsed += time.process_time() - start
                start = time.process_time()
                read_script(path, project)
                read += time.process_time() - start
                start = time.process_time()
                known = project.file(path)
                read_models(known or SourceFile(str(path), text, project.module_name(path)), project)
                modelled += time.process_time() - start
            except (SyntaxError, UnreadableError, libcst.ParserSyntaxError):
                continue
            count += 1
        totals = [t + s for t, s in zip(totals, (parsed, read, modelled), strict=True)]
        print(_row(folder.name, count, parsed, read, modelled))
    print(_row("all", 0, *totals))


def _row(name: str, count: int, parsed: float, read: float, modelled: float) -> str:
    ratio = (read + modelled) / max(parsed, 1e-9)
    return f"{name[:39]:40}{count or '':>7}{parsed:>10.2f}{read:>10.2f}{modelled:>10.2f}{ratio:>8.2f}"


if __name__ == "__main__":
    main()
