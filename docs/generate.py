"""Writes what the site takes from the code: pages of the rules, and the schema of the JSON format.

`python docs/generate.py` writes the pages anew. `python docs/generate.py --measure` first lets gradlint check the bad
example of every rule, with the probe, and keeps what it says in `docs/said/` (needs torch, takes minutes).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from gradlint.report.explain import pages
from gradlint.rule import registry

DOCS = Path(__file__).parent
FOLDER = DOCS / "rules"
SAID = DOCS / "said"
SCHEMA = DOCS / "schema" / "gradlint-1.json"
NAME = "train.py"


def schema() -> str:
    """The JSON schema that the package ships."""
    return (files("gradlint.report") / "assets" / SCHEMA.name).read_text(encoding="utf-8")


def site_pages() -> dict[str, str]:
    """The pages of the rules by file name, each with what gradlint says of its bad example."""
    found = pages()
    for rule in registry().values():
        said = SAID / f"{rule.code}.txt"
        if said.exists():
            shown = said.read_text(encoding="utf-8").strip("\n")
            heading = "## What gradlint says of the first script below"
            page, mark, rest = found[f"{rule.name}.md"].partition("<details markdown>\n")
            found[f"{rule.name}.md"] = f"{page}{heading}\n\n```text\n{shown}\n```\n\n{mark}{rest}"
    return found


def measure() -> None:
    """Check every bad example on its own, and keep the findings of its rule as the terminal shows them."""
    SAID.mkdir(exist_ok=True)
    for stale in SAID.glob("*.txt"):
        if stale.stem not in registry():
            stale.unlink()
    for code, rule in registry().items():
        if not rule.BAD:
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / NAME).write_text(rule.BAD.strip() + "\n", encoding="utf-8")
            command = [sys.executable, "-m", "gradlint", "check", NAME, "--select", code, "--no-cache", "--exit-zero"]
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        # The last line counts and tells the time.
        said = run.stdout.strip().rpartition("\n")[0].strip()
        if code in said:
            (SAID / f"{code}.txt").write_text(said + "\n", encoding="utf-8", newline="\n")
        print(said or f"{code}: nothing", end="\n\n")


def main() -> None:
    """Write what has changed and remove pages of rules that are gone."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--measure", action="store_true", help="check the examples anew")
    if options.parse_args().measure:
        measure()
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(schema(), encoding="utf-8", newline="\n")
    FOLDER.mkdir(exist_ok=True)
    wanted = site_pages()
    for stale in FOLDER.glob("*.md"):
        if stale.name not in wanted:
            stale.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
