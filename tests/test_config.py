"""[tool.gradlint]: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.config import Config, ConfigError, find, ignored_in, load, options_of, selected
from gradlint.finding import Finding, Severity
from gradlint.location import Location


def written(folder: Path, body: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(body)
    return path


def test_defaults_without_a_file() -> None:
    assert load(None) == Config()


def test_the_nearest_table_is_found(tmp_path: Path) -> None:
    outer = written(tmp_path, "[tool.gradlint]\nseeds = 5\n")
    inner = tmp_path / "package"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[tool.black]\n")
    assert find(inner) == outer
    assert load(find(inner)).seeds == 5


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[tool.gradlint]\nfail-onn = 3\n", "tool.gradlint.fail-onn: unknown key, did you mean `fail-on`?"),
        ('[tool.gradlint]\nseeds = "many"\n', "tool.gradlint.seeds: expected `int`, got `str`"),
        ("[tool.gradlint]\nseeds = 0\n", "tool.gradlint.seeds: expected `int` >= 1"),
        ('[tool.gradlint]\nfail-on = "never"\n', "tool.gradlint.fail-on: invalid enum value 'never'"),
        ('[tool.gradlint]\nselect = ["GL9"]\n', "tool.gradlint.select: `GL9` means no rule"),
        ("[tool.gradlint.rules.saturating-stak]\n", "did you mean `saturating-stack`?"),
        (
            "[tool.gradlint.rules.saturating-stack]\nnope = 1\n",
            "tool.gradlint.rules.saturating-stack.nope: unknown key",
        ),
        (
            "[tool.gradlint.rules.saturating-stack]\nforward = {info = [1, 9], warning = [2, 8], error = [0, 10]}\n",
            "saturating-stack.forward: `info` has to lie within `warning`, and `warning` within `error`",
        ),
        ("[tool.gradlint.rules.saturating-stack]\nminimum = -3\n", "saturating-stack.minimum: expected `int` >= 1"),
        (
            "[tool.gradlint.rules.GL501.adam.bert]\nlow = 1.0\nhigh = 0.5\nwarning = 2.0\nerror = 3.0\n",
            "tool.gradlint.rules.GL501.adam: expected 0 <= `low` <= `high` <= `warning` <= `error`",
        ),
        ('[tool.gradlint]\ndevice = "tpu"\n', "tool.gradlint.device: expected auto, cpu, cuda, cuda:N or mps"),
        ('[tool.gradlint]\nextend = "missing.toml"\n', "missing.toml: No such file or directory"),
        ("[tool.gradlint\n", "not valid TOML"),
        ("tool = 3\n[x]\n", None),
    ],
)
def test_what_is_wrong_is_one_line_with_the_path_of_the_key(tmp_path: Path, body: str, said: str | None) -> None:
    path = written(tmp_path, body)
    if said is None:
        assert find(tmp_path) != path
        return
    with pytest.raises(ConfigError) as error:
        load(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert ".toml" in str(error.value)


def test_the_most_specific_selector_wins() -> None:
    codes = [r.code for r in selected(Config(select=("GL4",), ignore=("GL401",)))]
    assert codes and all(c.startswith("GL4") for c in codes) and "GL401" not in codes
    kept = [r.code for r in selected(Config(select=("GL401",), ignore=("GL4",)))]
    assert kept == ["GL401"]


def test_a_rule_is_selected_by_name() -> None:
    assert [r.code for r in selected(Config(select=("saturating-stack",)))] == ["GL101"]


def test_extended_tables_lie_beneath(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('[tool.gradlint]\nseeds = 7\nseed = 4\nper-file-ignores = {"a.py" = ["GL1"]}\n')
    path = written(tmp_path, '[tool.gradlint]\nextend = "base.toml"\nseed = 1\nper-file-ignores = {"b.py" = ["GL2"]}\n')
    config = load(path)
    assert (config.seeds, config.seed) == (7, 1)
    assert set(config.per_file_ignores) == {"a.py", "b.py"}


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('[tool.gradlint]\nextend = "pyproject.toml"\n')
    with pytest.raises(ConfigError, match="in a circle"):
        load(written(tmp_path, '[tool.gradlint]\nextend = "other.toml"\n'))


def test_every_option_of_every_rule_is_read(tmp_path: Path) -> None:
    for rule in selected(Config()):
        for field in rule.Options.__struct_fields__:
            default = getattr(rule.Options(), field)
            if isinstance(default, bool):
                changed: object = not default
            elif isinstance(default, (int, float)):
                changed = default + 1 if isinstance(default, int) else default / 2
            else:
                continue
            key = field.replace("_", "-")
            config = Config(rules={rule.name: {key: changed}})
            assert getattr(options_of(rule.code, config), field) == changed


def test_per_file_ignores_match_like_gitignore() -> None:
    finding = Finding("GL101", "saturating-stack", Severity.INFO, "m", Location("/p/examples/a/b.py", 1))
    config = Config(per_file_ignores={"examples/": ("GL1",)})
    assert ignored_in(finding, "examples/a/b.py", config)
    assert not ignored_in(finding, "src/b.py", config)
