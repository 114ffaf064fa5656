"""Writes the pages under docs/rules from the documentation of the rules: `python docs/generate.py`."""

from __future__ import annotations

from pathlib import Path

from gradlint.report.explain import pages

FOLDER = Path(__file__).parent / "rules"


def main() -> None:
    """Write what has changed and remove pages of rules that are gone."""
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for stale in FOLDER.glob("*.md"):
        if stale.name not in wanted:
            stale.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
