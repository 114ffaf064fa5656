"""Notebooks: places are told by cell, and fixes and suppressions are written into cells alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gradlint.cli import cli
from gradlint.rule import registry
from gradlint.source.notebook import with_cells
from gradlint.source.project import UnreadableError
from tests.report.test_report_contracts import REPORT, closed

HEAD, TAIL = registry()["GL401"].BAD.split("model = ", 1)
CELLS = (("markdown", "# Ünïcode"), ("code", HEAD), ("code", f"%time 1\nmodel = {TAIL}"))
LAYOUTS: tuple[dict[str, Any], ...] = (
    {"indent": 1, "ensure_ascii": False},
    {"indent": 2},
    {"indent": "\t", "ensure_ascii": False},
    {},
    {"separators": (",", ":"), "ensure_ascii": False},
)


def notebook(layout: dict[str, Any], end: str = "\n") -> bytes:
    made = [
        {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True), "outputs": [{"n": 1.5}]}
        for kind, text in CELLS
    ]
    return (json.dumps({"cells": made, "metadata": {}, "nbformat": 4}, **layout) + end).encode()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rnn.ipynb"
    path.write_bytes(notebook(LAYOUTS[0]))
    return path


def check(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", "--no-exec", "--select", "GL401,GL002", *arguments, "rnn.ipynb"])


def test_every_place_is_told_by_cell(here: Path) -> None:
    import jsonschema

    document = json.loads(check("--output-format", "json").stdout)
    jsonschema.Draft202012Validator(closed(REPORT)).validate(document)
    (finding,), (model,) = document["findings"], document["models"]
    line = CELLS[2][1].split("\n").index("    optimizer.step()") + 1
    assert (finding["cell"], finding["line"]) == (2, line)
    assert [(e["cell"], e["line"]) for e in finding["fix"]["edits"]] == [(2, line)]
    assert (model["cell"], model["line"]) == (2, 2)
    assert {layer["cell"] for layer in model["layers"]} == {1}
    assert "├─ rnn.ipynb#cell1:8: the recurrence (RNN)" in check().stdout


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_fix_changes_its_cell_and_no_other_byte(here: Path, layout: dict[str, Any], end: str) -> None:
    raw = notebook(layout, end)
    here.write_bytes(raw)
    diff = check("--diff").stdout
    assert diff.startswith("--- a/rnn.ipynb#cell2\n+++ b/rnn.ipynb#cell2\n")
    assert "\n+    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\n" in diff
    assert here.read_bytes() == raw
    fixed = check("--fix")
    assert (fixed.exit_code, fixed.stderr) == (0, "fixed rnn.ipynb: 1 applied\n")
    before, after = json.loads(raw), json.loads(here.read_bytes())
    source = after["cells"][2]["source"]
    step = source.index("    optimizer.step()\n")
    assert source.pop(step - 1) == "    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\n"
    assert after == before
    assert with_cells(here.read_bytes(), {2: CELLS[2][1]}) == raw


def test_a_suppression_is_written_into_its_cell(here: Path) -> None:
    done = check("--add-ignore", "--reason", "a trial")
    assert (done.exit_code, done.stderr) == (0, "rnn.ipynb: 1 suppressed\n")
    source = json.loads(here.read_bytes())["cells"][2]["source"]
    assert "    optimizer.step()  # gradlint: ignore[GL401] -- a trial\n" in source and source[0] == "%time 1\n"
    assert check().exit_code == 0


def test_a_layout_that_cannot_be_kept_is_left_alone(here: Path) -> None:
    raw = notebook(LAYOUTS[0]).replace(b'"nbformat": 4', b'"nbformat":    4')
    here.write_bytes(raw)
    with pytest.raises(UnreadableError):
        with_cells(raw, {2: "x = 1"})
    refused = check("--fix")
    assert refused.exit_code == 2 and "rnn.ipynb: not fixed: the notebook is not laid out as Jupyter" in refused.stderr
    assert here.read_bytes() == raw
