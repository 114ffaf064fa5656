"""Garbage is looked for seldom while files are read, here and in the processes that help."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradlint.cli import cli
from gradlint.collecting import YOUNG
from gradlint.parallel import check_all


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def threshold(path: Path) -> int:
    return gc.get_threshold()[0]


def test_a_run_looks_for_garbage_seldom(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import torch\n")
    gc.set_threshold(700, 10, 10)
    result = CliRunner().invoke(cli, ["check", "--no-exec", "--no-cache", str(tmp_path)])
    assert (result.exit_code, gc.get_threshold()) == (0, (YOUNG, 10, 10))


def test_so_does_every_process_that_helps(tmp_path: Path) -> None:
    gc.set_threshold(700, 10, 10)
    files = [tmp_path / f"{n}.py" for n in range(64)]
    assert set(check_all(threshold, files, jobs=2)) == {YOUNG}
