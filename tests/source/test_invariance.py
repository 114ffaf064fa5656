"""What names, layout and import style a script has changes nothing; odd files are read or refused in one line."""

from __future__ import annotations

import ast
import keyword
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlint.config import Config
from gradlint.discover import discover
from gradlint.engine import Engine
from gradlint.result import Result

SCRIPT = """
{imports}

class {cls}({nn}.Module):
    def __init__(self):
        super().__init__()
        self.{layer} = {nn}.LSTM(8, 16)
        self.{head} = {nn}.Linear(16, 2)

    def forward(self, x):
        {local}, _ = self.{layer}(x)
        return self.{head}({local})

{model} = {cls}()
{optimizer} = {optim}.Adam({model}.parameters(), lr=1e-3)
for x in batches:
    {optimizer}.zero_grad()
    {model}(x).mean().backward()
    {optimizer}.step()
"""

STYLES = {
    "import torch\nfrom torch import nn": ("nn", "torch.optim"),
    "import torch.nn as n\nimport torch.optim as O": ("n", "O"),
    "import torch as t": ("t.nn", "t.optim"),
    "from torch import nn as layers, optim": ("layers", "optim"),
}
TAKEN = {"torch", "nn", "n", "O", "t", "layers", "optim", "x", "batches", "self", "super"}
RESUMED = {"train", "eval", "forward", "parameters", "training", "modules", "children", "apply", "half", "type", "to"}

identifiers = st.from_regex(r"[a-z][a-z0-9_]{2,9}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name) and not keyword.issoftkeyword(name) and name not in TAKEN | RESUMED
)


def check(root: Path, *files: Path) -> Result:
    return Engine(msgspec.structs.replace(Config(), exec=False), root).run(files)


def facts(text: str, folder: Path) -> list[tuple[str, str, str]]:
    """What is found, without places and names."""
    path = folder / "script.py"
    path.write_text(text, encoding="utf-8")
    result = check(folder, path)
    kinds = [(m.graph.traced_by, *(n.kind for n in m.graph.nodes)) for m in result.models]
    found = [(f.code, f.severity.value, ast.unparse(_statement(text, f.location.line))[-7:]) for f in result.findings]
    return [*found, ("models", str(kinds), "")]


def _statement(text: str, line: int) -> ast.stmt:
    return next(
        n
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or 0) and not hasattr(n, "body")
    )


@settings(max_examples=15, deadline=None)
@given(
    names=st.lists(identifiers, min_size=6, max_size=6, unique=True),
    style=st.sampled_from(sorted(STYLES)),
    reformatted=st.booleans(),
)
def test_names_layout_and_imports_change_nothing(tmp_path_factory, names, style, reformatted):
    folder = tmp_path_factory.mktemp("script")
    plain = {"cls": "Net", "layer": "rnn", "head": "head", "local": "out", "model": "model", "optimizer": "optimizer"}
    imports = "import torch\nfrom torch import nn"
    expected = facts(SCRIPT.format(imports=imports, nn="nn", optim="torch.optim", **plain), folder)
    renamed = dict(zip(plain, names, strict=True))
    renamed["cls"] = renamed["cls"].title().replace("_", "") + "Net"
    nn, optim = STYLES[style]
    text = SCRIPT.format(imports=style, nn=nn, optim=optim, **renamed)
    assert facts(ast.unparse(ast.parse(text)) if reformatted else text, folder) == expected
    assert any(code == "GL401" for code, _, _ in expected)


TRAINED = SCRIPT.format(
    imports="import torch\nfrom torch import nn",
    nn="nn",
    optim="torch.optim",
    cls="Net",
    layer="rnn",
    head="head",
    local="out",
    model="model",
    optimizer="optimizer",
)


@pytest.mark.parametrize(
    "raw",
    [
        TRAINED.encode("utf-8-sig"),
        TRAINED.replace("    ", "\t").encode(),
        TRAINED.replace("\n", "\r\n").encode(),
        ("# -*- coding: gbk -*-\n# 训练\n" + TRAINED).encode("gbk"),
        TRAINED.replace("model", "模型").encode(),
        ("!pip install torch\n%matplotlib inline\n" + TRAINED).encode(),
    ],
    ids=["bom", "tabs", "crlf", "gbk", "cjk names", "saved notebook"],
)
def test_odd_texts_are_read(tmp_path, raw):
    path = tmp_path / "训练.py"
    path.write_bytes(raw)
    assert "GL401" in {f.code for f in check(tmp_path, path).findings}


def test_python_2_is_one_finding(tmp_path):
    path = tmp_path / "old.py"
    path.write_text("import torch\nprint 'loss', loss\nexec 'x'\n", encoding="utf-8")
    assert [f.code for f in check(tmp_path, path).findings] == ["GL001"]


def test_a_generated_file_of_ten_megabytes_is_skipped_with_the_reason(tmp_path):
    path = tmp_path / "table.py"
    path.write_text("import torch\n" + "x = [" + "0.1234567, " * 900_000 + "]\n", encoding="utf-8")
    result = check(tmp_path, path)
    assert not result.failures
    assert ["larger than a hand-written source file" in s.reason for s in result.skipped] == [True]


def test_a_loop_of_symbolic_links_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "script.py").write_text(TRAINED, encoding="utf-8")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    files = discover([tmp_path])
    assert [f.name for f in files] == ["script.py"]
    assert check(tmp_path, *files).files == 1
