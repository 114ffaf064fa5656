"""Writes what the site takes from the code: pages of the rules, and the schema of the JSON format.

`python docs/generate.py`
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from gradlint.report.explain import pages

FOLDER = Path(__file__).parent / "rules"
SCHEMA = Path(__file__).parent / "schema" / "gradlint-1.json"


def schema() -> str:
    """The JSON schema that the package ships."""
    return (files("gradlint.report") / "assets" / SCHEMA.name).read_text(encoding="utf-8")


def main() -> None:
    """Write what has changed and remove pages of rules that are gone."""
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(schema(), encoding="utf-8", newline="\n")
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for stale in FOLDER.glob("*.md"):
        if stale.name not in wanted:
            stale.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
