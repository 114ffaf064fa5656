"""What is kept of single files: a run that uses it says what a run without says, whatever was changed in between."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradlint.cache import FOLDER, Digests, digest_of
from gradlint.config import Config
from gradlint.file_cache import FileCache
from gradlint.finding import Severity
from gradlint.source.project import Project, Trail

BLOCKS = (
    "from torch import nn\nACTIVATION = nn.Sigmoid\n"
    "def block(width):\n    return [nn.Linear(width, width), ACTIVATION()]\n"
)
NET = (
    "from torch import nn\nfrom parts.blocks import block\nfrom parts.extra import DEPTH\n"
    "class Net(nn.Module):\n    def __init__(self, depth):\n        super().__init__()\n"
    "        self.layers = nn.Sequential(*[m for _ in range(depth) for m in block(64)])\n"
    "    def forward(self, x):\n        return self.layers(x)\n"
    "other = Net(DEPTH)\n"
)
LOOP = (
    "import torch\ndef fit(model, optimizer, loader):\n    for x, y in loader:\n        optimizer.zero_grad()\n"
    "        torch.nn.functional.mse_loss(model(x)[0], y).backward()\n        optimizer.step()\n"
)
TRAIN = (
    "import torch, yaml\nfrom parts.net import Net\nfrom loop import fit\n"
    "cfg = yaml.safe_load(open('config.yaml'))\nnet = Net(cfg['depth'])\n"
    "fit(net, torch.optim.SGD(net.parameters(), lr=0.1), data)\n"
)
CALLER = (
    "import torch\nfrom torch import nn\nimport loop\nmodel = nn.LSTM(8, 8)\n"
    "loop.fit(model, torch.optim.Adam(model.parameters()), data)\n"
)
CLIP = "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
FILES = {
    "pyproject.toml": "",
    "parts/__init__.py": "",
    "parts/blocks.py": BLOCKS,
    "parts/net.py": NET,
    "loop.py": LOOP,
    "train.py": TRAIN,
    "config.yaml": "depth: 12\n",
}

EDITS: dict[str, dict[str, str | None]] = {
    "a block that a model two imports away is made of": {"parts/blocks.py": BLOCKS.replace("Sigmoid", "ReLU")},
    "a number in a configuration file": {"config.yaml": "depth: 2\n"},
    "the configuration file is gone": {"config.yaml": None},
    "a new script trains a recurrent model by the loop of another file": {"caller.py": CALLER},
    "such a script, and the loop clips": {
        "caller.py": CALLER,
        "loop.py": LOOP.replace("        opt", f"        {CLIP}\n        opt"),
    },
    "a module is gone": {"parts/blocks.py": None},
    "a module that an import was looking for is there": {"parts/extra.py": "DEPTH = 30\n"},
    "a module that does not parse": {"parts/net.py": NET + "class"},
    "a comment accepts a finding": {"train.py": TRAIN.replace("['depth'])", "['depth'])  # gradlint: ignore")},
    "settings": {"pyproject.toml": "[tool.gradlint]\nignore = ['GL101']\n"},
}  # fmt: skip


SIGMOIDS = (
    "import torch\nfrom torch import nn\nfrom {} import block\n"
    "net = nn.Sequential(*[m for _ in range({}) for m in block(64)])\n"
    "optimizer = torch.optim.SGD(net.parameters(), lr=0.1)\n"
    "for x, y in data:\n    optimizer.zero_grad()\n"
    "    nn.functional.mse_loss(net(x), y).backward()\n    optimizer.step()\n"
)
RECTIFIERS = BLOCKS.replace("Sigmoid", "ReLU")


def write(folder: Path, files: dict[str, str | None]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            path.write_text(text, encoding="utf-8")


def checked(folder: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "gradlint", "check", "--no-exec", "--output-format", "json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout) | {"seconds": 0, "summary": None}  # type: ignore[no-any-return]


def entries(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).glob("files-*/*.entry"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write(folder, dict(FILES))
    return folder


def test_a_run_says_what_one_without_a_cache_says_after_every_edit(project: Path) -> None:
    before = checked(project)
    assert {f["code"] for f in before["findings"]} >= {"GL101"} and len(entries(project)) == 5
    seen = [before]
    for edit, files in EDITS.items():
        write(project, files)
        kept = checked(project)
        assert kept == checked(project, "--no-cache"), edit
        assert kept not in seen, f"{edit}: the edit should change the report"
        seen.append(kept)
        write(project, {name: FILES.get(name) for name in files})
    assert checked(project) == before


def test_only_what_an_edit_concerns_is_checked_again(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "other.py": TRAIN.replace("from loop import fit", "def fit(*_): ...")})
    checked(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in entries(tmp_path)}
    write(tmp_path, {"loop.py": LOOP + "# once more\n"})
    checked(tmp_path)
    changed = [path for path in entries(tmp_path) if before.get(path) != path.stat().st_mtime_ns]
    assert len(before) == 6 and len(changed) == 2  # loop.py, and train.py which calls it; not other.py


def drop_reports(folder: Path) -> None:
    """Leave what is kept of single files alone."""
    for path in (folder / FOLDER).glob("*.json"):
        path.unlink()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("place", ["build/blocks.py", "../blocks.py"])
def test_a_module_counts_wherever_an_import_leads(tmp_path: Path, place: str, whole: bool) -> None:
    folder = tmp_path / "scripts"
    module = "..blocks" if place.startswith("..") else "build.blocks"
    write(folder, {"train.py": SIGMOIDS.format(module, 12), place: BLOCKS})
    assert {f["code"] for f in checked(folder)["findings"]} >= {"GL101"}
    write(folder, {place: RECTIFIERS})
    if not whole:
        drop_reports(folder)
    assert checked(folder) == checked(folder, "--no-cache")


@pytest.mark.parametrize("link", ["blocks.py", "config.yaml", "parts"])
def test_a_link_counts_for_what_it_leads_to(tmp_path: Path, link: str) -> None:
    module = "parts.blocks" if link == "parts" else "blocks"
    depth = "yaml.safe_load(open('config.yaml'))['depth']" if link == "config.yaml" else "12"
    write(tmp_path, {"train.py": "import yaml\n" + SIGMOIDS.format(module, depth), "blocks.py": BLOCKS})
    write(tmp_path, {"a/blocks.py": BLOCKS, "b/blocks.py": RECTIFIERS, "a/deep": "depth: 12\n", "b/deep": "depth: 2\n"})
    name = {"blocks.py": "/blocks.py", "config.yaml": "/deep", "parts": ""}[link]
    reports = []
    for target in ("a", "b"):
        (tmp_path / link).unlink(missing_ok=True)
        (tmp_path / link).symlink_to(target + name)
        drop_reports(tmp_path)
        reports.append(checked(tmp_path))
        assert reports[-1] == checked(tmp_path, "--no-cache")
    assert reports[0] != reports[1]


def test_a_file_without_a_module_leaves_entries_alone(tmp_path: Path) -> None:
    write(tmp_path, dict(FILES))
    checked(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in entries(tmp_path)}
    write(tmp_path, {"weights.pt": "", "train.log": ""})
    drop_reports(tmp_path)
    checked(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in entries(tmp_path)} == before


def test_what_is_written_during_a_run_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    write(tmp_path, {"train.py": TRAIN, "loop.py": LOOP})
    for meanwhile in (False, True):
        cache = FileCache(Digests(), Project(tmp_path), Config(), [])
        if meanwhile:
            write(tmp_path, {"loop.py": LOOP + "# once more\n"})
        cache.keep(path, Severity.ERROR, Trail(files={str(tmp_path / "loop.py")}))
        kept = FileCache(Digests(), Project(tmp_path), Config(), []).find(path, Severity)
        assert kept is (None if meanwhile else Severity.ERROR)


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch run-by-the-cache",)


@pytest.mark.parametrize("body", [b"", b"\x80", pickle.dumps(Hostile()), pickle.dumps(os.system), pickle.dumps(3)])
def test_an_entry_that_is_no_report_counts_as_missing(tmp_path: Path, body: bytes) -> None:
    import zlib

    write(tmp_path, dict(FILES))
    first = checked(tmp_path)
    packed = zlib.compress(body)
    for path in entries(tmp_path):
        told = json.loads(path.read_bytes().partition(b"\n")[0])
        told["body"] = digest_of(packed)
        path.write_bytes(json.dumps(told).encode() + b"\n" + packed)
    drop_reports(tmp_path)
    assert checked(tmp_path) == first
    assert not (tmp_path / "run-by-the-cache").exists()


def test_a_report_that_is_written_elsewhere_uses_it_too(tmp_path: Path) -> None:
    write(tmp_path, dict(FILES))
    command = [sys.executable, "-m", "gradlint", "check", "--no-exec", "--output-format", "json", "-o", "report.json"]
    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
    assert len(entries(tmp_path)) == 5


def test_nothing_is_kept_with_no_cache(tmp_path: Path) -> None:
    write(tmp_path, dict(FILES))
    checked(tmp_path, "--no-cache")
    assert not (tmp_path / FOLDER).exists()
