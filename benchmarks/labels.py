"""Precision, recall and specificity of `gradlint check --no-exec` on labelled public files.

    python benchmarks/labels.py LABELS.jsonl CHECKOUTS [--jobs N] [--rule CODE] [--verbose]

CHECKOUTS holds one folder for each repository, named OWNER__NAME. A label says that a rule fires at a line of a file,
or that the file is clean of it. Labels whose run failed are counted apart. A hit is the same rule in the same
file within 12 lines (40 for rules on a whole architecture); a clean label fails on a warning or error; debatable
labels are not scored.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WIDE_RULES = frozenset({"GL101", "GL301"})
WITHIN_LINES = 12
WITHIN_LINES_WIDE = 40
Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    share, z2 = hits / total, Z_95**2
    centre = share + z2 / (2 * total)
    half = Z_95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return (centre - half) / (1 + z2 / total), (centre + half) / (1 + z2 / total)


def check(root: Path, entry: str) -> list[dict[str, Any]] | None:
    """The findings of one run, or None if it failed."""
    command = [sys.executable, "-m", "gradlint", "check", "--no-exec", "--no-cache", "--output-format", "json"]
    try:
        ran = subprocess.run([*command, entry], cwd=root, capture_output=True, text=True, timeout=300, check=False)
        found: list[dict[str, Any]] = json.loads(ran.stdout)["findings"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    return found


def same_file(finding: dict[str, Any], label: dict[str, Any]) -> bool:
    """Whether a finding stands in the labelled file; findings name it relative to a root at or below the checkout."""
    path = finding["path"].replace("\\", "/")
    return bool(label["path"] == path or label["path"].endswith("/" + path) or path.endswith("/" + label["path"]))


def is_hit(finding: dict[str, Any], label: dict[str, Any]) -> bool:
    """Whether a finding is what a label says."""
    if finding["code"] != label["rule"] or not same_file(finding, label):
        return False
    reach = WITHIN_LINES_WIDE if label["rule"] in WIDE_RULES else WITHIN_LINES
    if label.get("nb") and finding.get("cell") is not None:
        return finding["cell"] == label.get("cell") and abs(finding["line"] - label.get("cell_line", 0)) <= reach
    return any(abs(finding["line"] - line) <= reach for line in (label["line"], *label.get("alt_lines", ())))


def main() -> None:
    """Score and print one line a rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rule", help="score only this code")
    parser.add_argument("--verbose", action="store_true", help="print every miss and false alarm")
    options = parser.parse_args()
    labels = [json.loads(line) for line in options.labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    labels = [x for x in labels if not x.get("debatable") and options.rule in (None, x["rule"])]
    tasks = sorted({(x["repo"], x.get("entry") or x["path"]) for x in labels})
    with ThreadPoolExecutor(options.jobs) as pool:
        roots = [options.checkouts / repo.replace("/", "__") for repo, _ in tasks]
        results = dict(zip(tasks, pool.map(check, roots, [entry for _, entry in tasks]), strict=True))
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for label in labels:
        findings = results[label["repo"], label.get("entry") or label["path"]]
        count = counts[label["rule"]]
        where = f"{label['rule']} {label['repo']}/{label['path']}:{label.get('line', '')}"
        if findings is None:
            count["failed"] += 1
            print(f"failed       {where}")
            continue
        if label["verdict"] == "fire":
            hit = any(is_hit(f, label) for f in findings)
            count["hit" if hit else "missed"] += 1
            if not hit and options.verbose:
                print(f"missed       {where}  {label['why']}")
            continue
        loud = [f for f in findings if f["code"] == label["rule"] and same_file(f, label) and f["severity"] != "info"]
        count["false alarm" if loud else "quiet"] += 1
        if loud and options.verbose:
            print(f"false alarm  {where}{loud[0]['line']}  {loud[0]['message']}  ({label['why']})")
    print(f"{'rule':7}{'precision':>22}{'recall':>26}{'specificity':>26}  failed")
    for rule, count in sorted(counts.items()):
        row = (
            (count["hit"], count["hit"] + count["false alarm"]),
            (count["hit"], count["hit"] + count["missed"]),
            (count["quiet"], count["quiet"] + count["false alarm"]),
        )
        cells = ""
        for hits, total in row:
            low, high = wilson(hits, total)
            cells += f"{hits:>6}/{total:<3} {hits / total if total else math.nan:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{rule:7}{cells}  {count['failed']}")


if __name__ == "__main__":
    main()
