"""CPU time of the source pass over folders, as a ratio to bare `libcst.parse_module` over the same relevant files.

python benchmarks/source_speed.py FOLDER...
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import libcst

from gradlint.source.project import Project, UnreadableError, decode
from gradlint.source.read import read_script
from gradlint.source.relevance import is_relevant


def main() -> None:
    """Time both passes in one process and print one line a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    print(f"{'folder':40}{'files':>7}{'libcst s':>10}{'source s':>10}{'ratio':>8}")
    totals = [0.0, 0.0]
    for folder in options.folders:
        parsed = read = 0.0
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
            except (SyntaxError, UnreadableError, libcst.ParserSyntaxError):
                continue
            count += 1
        totals = [totals[0] + parsed, totals[1] + read]
        print(f"{folder.name[:39]:40}{count:>7}{parsed:>10.2f}{read:>10.2f}{read / parsed if parsed else 0:>8.2f}")
    print(f"{'all':47}{totals[0]:>10.2f}{totals[1]:>10.2f}{totals[1] / max(totals[0], 1e-9):>8.2f}")


if __name__ == "__main__":
    main()
