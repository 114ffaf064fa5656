"""What the server imports before it forks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradlint.worker.client import find_torch

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(find_torch() is None, reason="needs torch"),
    pytest.mark.skipif(sys.platform == "win32", reason="no fork, nothing to warm"),
]


def printed(code: str, folder: Path) -> str:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_job_finds_everything_loaded_and_no_compiler(tmp_path: Path) -> None:
    code = (
        "import sys, gradlint.worker.server as s\ns.warm()\nbefore = set(sys.modules)\n"
        "import torch\nfrom gradlint.graph.build import build\nfrom gradlint.graph.trace import trace_model\n"
        "from gradlint.worker.protocol import Slice\n"
        "text = 'from torch import nn\\nnet = nn.Sequential(nn.Linear(2, 2), nn.ReLU())'\n"
        "trace_model(build(Slice(path='train.py', root='.', text=text, target='net')))\n"
        "print('torch._dynamo' in sys.modules, sorted(set(sys.modules) - before))\n"
    )
    assert printed(code, tmp_path).strip() == "False []"


def test_what_one_job_imported_the_server_imports_but_never_from_the_project(tmp_path: Path) -> None:
    (tmp_path / "lightning.py").write_text("raise SystemExit('run by the server')\n")
    code = (
        "import os, sys, types\nfrom gradlint.worker.warming import Wishes\nwishes = Wishes()\n"
        "if os.fork() == 0:\n"
        "    sys.modules['lightning'] = sys.modules['torch._dynamo'] = types.ModuleType('any')\n"
        "    wishes.note()\n    os._exit(0)\n"
        "os.wait()\nprint('torch' in sys.modules)\nwishes.grant()\n"
        "print('torch._dynamo' in sys.modules, 'lightning' in sys.modules)\n"
    )
    assert printed(code, tmp_path).split() == ["False", "True", "False"]


def test_a_package_that_the_project_holds_itself_is_not_the_installed_one(tmp_path: Path) -> None:
    installed, project = tmp_path / "site-packages", tmp_path / "project"
    for folder, names in ((installed, ("forked", "other", "logs")), (project, ("forked",))):
        for name in names:
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text(f"from {name}.part import place")
            (folder / name / "part.py").write_text(f"place = {folder.name!r}")
    (project / "logs").mkdir()
    code = (
        "import sys\nsys.path.insert(0, 'site-packages')\nimport forked, other, logs\n"
        "from gradlint.graph.execute_surroundings import search_here_first\n"
        "from gradlint.worker.protocol import Slice\n"
        "search_here_first(Slice('project/train.py', 'project', 'import forked', 'net'))\n"
        "import forked, other, logs\nprint(forked.place, other.place, logs.place)\n"
    )
    assert printed(code, tmp_path).split() == ["project", "site-packages", "site-packages"]
