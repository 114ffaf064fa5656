"""The clipping fix inserts lines that parse and leaves nothing to report; where it is unsure it does nothing."""

from __future__ import annotations

import ast

import pytest

from gradlint.rules.unclipped_recurrent_step import UnclippedRecurrentStep
from gradlint.source.project import Project
from gradlint.source.read import read_script

SCALED = UnclippedRecurrentStep.BAD.replace(
    "    loss.backward()\n    optimizer.step()\n",
    "    scaler.scale(loss).backward()\n    scaler.step(optimizer)\n    scaler.update()\n",
).replace("criterion =", "scaler = torch.amp.GradScaler()\ncriterion =")
ONE_LINE = UnclippedRecurrentStep.BAD.replace(
    "    loss.backward()\n    optimizer.step()\n", "    loss.backward(); optimizer.step()\n"
)
GUARDED = UnclippedRecurrentStep.BAD.replace("    optimizer.step()\n", "    if True: optimizer.step()\n")


def findings(text, folder):
    path = folder / "train.py"
    path.write_text(text)
    project = Project(folder)
    source = project.file(path)
    assert source is not None
    script = read_script(source, project)
    rule = UnclippedRecurrentStep()
    return [(f, rule.fix(f, script)) for f in rule.check_script(script)]


def applied(text, fix):
    lines = text.split("\n")
    for edit in sorted(fix.edits, key=lambda e: e.location, reverse=True):
        at = edit.location
        assert (at.line, at.column) == (at.end_line, at.end_column)
        row = lines[at.line - 1]
        lines[at.line - 1] = row[: at.column - 1] + edit.replacement + row[at.column - 1 :]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [UnclippedRecurrentStep.BAD, SCALED], ids=["plain", "scaled"])
def test_the_fix_leaves_nothing_to_report(text, tmp_path):
    ((_, fix),) = findings(text, tmp_path)
    assert fix is not None
    assert fix.safe
    fixed = applied(text, fix)
    ast.parse(fixed)
    assert findings(fixed, tmp_path) == []
    assert ("unscale_(optimizer)" in fixed) == ("scaler" in text)


@pytest.mark.parametrize("text", [ONE_LINE, GUARDED], ids=["one line", "guarded"])
def test_the_fix_keeps_off_statements_that_share_a_line(text, tmp_path):
    for _, fix in findings(text, tmp_path):
        assert fix is None
