"""Lines that changed since a commit, in real repositories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gradlint.changes import Changes, ChangesError, changed_since
from gradlint.finding import Finding, Related, Severity
from gradlint.location import Location

IDENTITY = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, **IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, env=environment)
    return done.stdout


def commit(folder: Path, message: str = "step") -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "nets").mkdir(parents=True)
    git(top, "init", "--quiet", "--initial-branch", "main")
    (top / "train.py").write_text("".join(f"line{i}\n" for i in range(1, 11)))
    (top / "nets" / "ä b.py").write_text("one\ntwo\n")
    (top / "nb.ipynb").write_text("{}\n")
    commit(top)
    git(top, "switch", "--quiet", "-c", "feature")
    return top


def lines(changes: Changes, path: Path) -> set[int] | None:
    found = changes.lines.get(str(path), frozenset())
    return None if found is None else set(found)


def edit(path: Path, before: str, after: str) -> None:
    path.write_text(path.read_text().replace(before, after))


def test_changed_and_added_lines_count(repository: Path) -> None:
    edit(repository / "train.py", "line3\n", "changed\nadded\n")
    assert lines(changed_since("main", repository), repository / "train.py") == {3, 4}
    commit(repository)
    assert lines(changed_since("main", repository / "nets"), repository / "train.py") == {3, 4}


def test_the_lines_around_a_deletion_count(repository: Path) -> None:
    edit(repository / "train.py", "line5\nline6\n", "")
    assert lines(changed_since("main", repository), repository / "train.py") == {4, 5}


def test_what_others_did_on_the_base_does_not_count(repository: Path) -> None:
    edit(repository / "train.py", "line9\n", "mine\n")
    commit(repository)
    git(repository, "switch", "--quiet", "main")
    edit(repository / "train.py", "line1\n", "theirs\n")
    commit(repository)
    git(repository, "switch", "--quiet", "feature")
    assert lines(changed_since("main", repository), repository / "train.py") == {9}


def test_new_files_and_notebooks_count_whole(repository: Path) -> None:
    (repository / "new.py").write_text("x\n")
    (repository / "nb.ipynb").write_text('{"cells": []}\n')
    changes = changed_since("main", repository)
    assert changes.lines == {str(repository / "new.py"): None, str(repository / "nb.ipynb"): None}


def test_names_outside_of_ascii_and_odd_line_ends(repository: Path) -> None:
    (repository / "nets" / "ä b.py").write_text("one\ntwo \u2028 \f still two\nthree\n")
    assert lines(changed_since("main", repository), repository / "nets" / "ä b.py") == {2, 3}


def test_a_renamed_file_counts_by_its_lines(repository: Path) -> None:
    git(repository, "mv", "train.py", "run.py")
    edit(repository / "run.py", "line7\n", "other\n")
    commit(repository)
    assert lines(changed_since("main", repository), repository / "run.py") == {7}


def test_settings_of_the_user_do_not_matter(repository: Path) -> None:
    for key, value in [("diff.noprefix", "true"), ("color.ui", "always"), ("diff.external", "false")]:
        git(repository, "config", key, value)
    edit(repository / "train.py", "line3\n", "changed\n")
    assert lines(changed_since("main", repository), repository / "train.py") == {3}


def finding(path: str, line: int, end: int = 0, related: int | None = None) -> Finding:
    more = (Related(Location(path, related), "here"),) if related else ()
    return Finding("GL101", "x", Severity.INFO, "m", Location(path, line, 1, end, 2), related=more)


def test_a_finding_counts_by_its_own_lines_and_its_related_ones() -> None:
    changes = Changes({"/a.py": frozenset({4}), "/new.py": None})
    assert changes.touch(finding("/a.py", 4))
    assert changes.touch(finding("/a.py", 2, 6))
    assert changes.touch(finding("/a.py", 9, related=4))
    assert changes.touch(finding("/new.py", 1))
    assert not changes.touch(finding("/a.py", 5))
    assert not changes.touch(finding("/b.py", 4))


@pytest.mark.parametrize("ref", ["nowhere", "--output=x", ""])
def test_an_unknown_ref_is_said(repository: Path, ref: str) -> None:
    with pytest.raises(ChangesError, match="git knows no commit"):
        changed_since(ref, repository)
    assert not (repository / "x").exists()


def test_no_repository_is_said(tmp_path: Path) -> None:
    with pytest.raises(ChangesError, match="not a git repository"):
        changed_since("main", tmp_path)


def test_a_shallow_clone_is_told_how_to_get_its_history(repository: Path, tmp_path: Path) -> None:
    edit(repository / "train.py", "line3\n", "changed\n")
    commit(repository)
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{repository}", "shallow")
    with pytest.raises(ChangesError, match=r"shallow clone.*fetch-depth: 0"):
        changed_since("HEAD~1", tmp_path / "shallow")
    git(tmp_path / "shallow", "fetch", "--quiet", "--depth", "1", "origin", "main:base")
    with pytest.raises(ChangesError, match=r"share no commit; this is a shallow clone"):
        changed_since("base", tmp_path / "shallow")


def test_unrelated_histories_are_said(repository: Path) -> None:
    git(repository, "switch", "--quiet", "--orphan", "other")
    (repository / "z.py").write_text("z\n")
    commit(repository)
    with pytest.raises(ChangesError, match="unrelated"):
        changed_since("main", repository)


def test_git_that_is_not_installed_is_said(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ChangesError, match="git is not installed"):
        changed_since("main", repository)
