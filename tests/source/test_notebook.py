"""Notebooks and the byte test."""

from __future__ import annotations

import json

import pytest

from gradlint.location import Location
from gradlint.source.notebook import read_notebook
from gradlint.source.project import UnreadableError
from gradlint.source.relevance import is_relevant


def notebook(*cells: tuple[str, str]) -> bytes:
    made = [{"cell_type": kind, "source": text.splitlines(keepends=True)} for kind, text in cells]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4}).encode()


def test_lines_lead_back_to_cells() -> None:
    raw = notebook(("code", "%matplotlib inline\nimport torch"), ("markdown", "# Hi"), ("code", "!ls\nx = 1\ny = 2"))
    book = read_notebook("nb.ipynb", raw)
    assert book.file.lines[4] == "y = 2"
    assert book.locate(Location("nb.ipynb", 5)) == Location("nb.ipynb", 3, cell=2)
    assert book.locate(Location("other.py", 5)) == Location("other.py", 5)
    assert len(book.file.tree.body) == 5


def test_a_cell_in_another_language_is_comment() -> None:
    book = read_notebook("nb.ipynb", notebook(("code", "%%bash\nls -la"), ("code", "%%time\nx = 1"), ("code", "for")))
    assert [type(s).__name__ for s in book.file.tree.body] == ["Pass", "Assign"]


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"\xff\xfe", b'{"cells": 3}'])
def test_what_is_no_notebook_is_said(raw: bytes) -> None:
    with pytest.raises((UnreadableError, TypeError)) as caught:
        read_notebook("nb.ipynb", raw)
    assert caught.type is UnreadableError


def test_the_byte_test_keeps_what_names_torch() -> None:
    assert is_relevant(b"from torch import nn")
    assert is_relevant(b"import pytorch_lightning as pl")
    assert not is_relevant(b"import numpy as np\n# a torchlight\n")
