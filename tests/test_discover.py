"""Which files a path means."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.discover import Exclusion, MissingPathError, discover


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
    (tree / "pkg" / "itself.py").symlink_to("itself.py")
    found = names(discover([Path()]))
    assert "pkg/model.py" in found
    assert not {"pkg/again/train.py", "pkg/itself.py"} & {*found}


def test_a_missing_path_is_said(tree: Path) -> None:
    with pytest.raises(MissingPathError, match=r"nowhere\.py: no such file or folder"):
        discover([Path("nowhere.py")])


def test_patterns_are_told_from_the_folder_of_the_configuration(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "pkg")
    assert names(discover([Path()], exclude=["pkg/out"], home=tree)) == ["model.py"]
    assert names(discover([Path()], exclude=["/out"], home=tree)) == ["model.py", "out/keep.py"]
    assert names(discover([Path("../train.py")], exclude=["/train.py"], force_exclude=True, home=tree)) == []


def test_a_folder_that_is_named_is_searched_even_if_it_is_excluded(tree: Path) -> None:
    assert names(discover([Path("venv")], exclude=["venv", "x.py"])) == []
    assert names(discover([Path("venv")], exclude=["venv"])) == ["venv/lib/x.py"]
    assert names(discover([Path("venv/lib")], exclude=["venv"])) == ["venv/lib/x.py"]
    assert discover([Path("venv")], exclude=["venv"], force_exclude=True) == []
    (tree / ".git").mkdir()
    (tree / ".gitignore").write_text("/out/\n")
    assert names(discover([Path("out")])) == ["out/gen.py"]
    assert "out/gen.py" not in names(discover([Path()]))


def test_a_folder_elsewhere_sees_patterns_without_a_path(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    assert names(discover([tree / "pkg"], exclude=["out"], home=home)) == [(tree / "pkg/model.py").as_posix()]
    assert Exclusion(home, ("*.py",)).covers(tree / "train.py")
