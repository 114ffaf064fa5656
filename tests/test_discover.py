"""Which files a path means."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.discover import MissingPathError, discover


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("train.py", "notes.txt", "nb.ipynb", "pkg/model.py", "venv/lib/x.py", "out/gen.py", "pkg/out/keep.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(files: list[Path]) -> list[str]:
    return [f.as_posix() for f in files]


def test_scripts_and_notebooks_below_a_folder_in_order(tree: Path) -> None:
    found = names(discover([Path()], exclude=["venv"]))
    assert found == ["nb.ipynb", "out/gen.py", "pkg/model.py", "pkg/out/keep.py", "train.py"]


def test_gitignore_is_respected_with_its_anchors_and_negations(tree: Path) -> None:
    (tree / ".git").mkdir()
    (tree / ".gitignore").write_text("/out/\n*.ipynb\n!nb.ipynb\n")
    assert names(discover([Path()], exclude=["venv", ".git"])) == [
        "nb.ipynb",
        "pkg/model.py",
        "pkg/out/keep.py",
        "train.py",
    ]


def test_the_gitignore_of_the_repository_holds_in_its_folders(tree: Path) -> None:
    (tree / ".git").mkdir()
    (tree / ".gitignore").write_text("keep.py\n")
    assert names(discover([Path("pkg")])) == ["pkg/model.py"]


def test_a_named_file_is_taken_unless_exclusion_is_forced(tree: Path) -> None:
    named = [Path("venv/lib/x.py")]
    assert names(discover(named, exclude=["venv"])) == ["venv/lib/x.py"]
    assert discover(named, exclude=["venv"], force_exclude=True) == []


def test_each_file_once(tree: Path) -> None:
    assert names(discover([Path("pkg"), Path("pkg/model.py")])) == ["pkg/model.py", "pkg/out/keep.py"]


def test_links_that_form_a_circle_end(tree: Path) -> None:
    (tree / "pkg" / "again").symlink_to(tree, target_is_directory=True)
    assert "pkg/again/train.py" not in names(discover([Path()]))


def test_a_missing_path_is_said(tree: Path) -> None:
    with pytest.raises(MissingPathError, match=r"nowhere\.py: no such file or folder"):
        discover([Path("nowhere.py")])
