from __future__ import annotations

from pathlib import Path

from gradlint.source.callers import importers_of
from gradlint.source.project import Project, SourceFile


def test_the_imports_of_a_file_are_listed_each_once(tmp_path: Path) -> None:
    text = "import a.b as c, d\nfrom e import *\ndef f():\n    from . import g\n    from .h import i, j\n    import d\n"
    found = importers_of(Project(tmp_path)).index(SourceFile(str(tmp_path / "train.py"), text)).imports()
    assert found == [
        *[("e", 0), ("a.b", 0), ("d", 0)],
        *[("", 1), ("g", 1), ("h", 1), ("h.i", 1), ("h.j", 1)],
    ]


def test_a_changed_file_lists_its_new_imports_and_calls(tmp_path: Path) -> None:
    importers = importers_of(Project(tmp_path))
    path = str(tmp_path / "train.py")
    before = importers.index(SourceFile(path, "import a\na.run()\n"))
    assert (before.imports(), len(before.module.all_calls())) == ([("a", 0)], 1)
    after = importers.index(SourceFile(path, "import b\nb.run(b.make())\n"))
    assert (after.imports(), len(after.module.all_calls())) == ([("b", 0)], 2)


def test_a_package_is_found_where_it_lies_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "nets" / "deep").mkdir(parents=True)
    for name in ("nets/__init__.py", "nets/deep/__init__.py", "nets/deep/block.py", "train.py"):
        (tmp_path / name).write_text("")
    project = Project(tmp_path)
    script = project.file(tmp_path / "train.py")
    assert script is not None
    found = {n: project.module(n, script) for n in ("nets", "nets.deep", "nets.deep.block", "nets.block", "torch.nn")}
    paths = {n: Path(f.path).relative_to(tmp_path).as_posix() if f else None for n, f in found.items()}
    assert paths == {
        "nets": "nets/__init__.py",
        "nets.deep": "nets/deep/__init__.py",
        "nets.deep.block": "nets/deep/block.py",
        "nets.block": None,
        "torch.nn": None,
    }
