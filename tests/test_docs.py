"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from gradlint.config import Config
from gradlint.report import json as json_report
from gradlint.report.explain import pages
from gradlint.rule import registry
from gradlint.source.project import Project
from gradlint.source.read import read_script
from tests.report.results import sample

TOP = Path(__file__).parents[1]
DOCS = TOP / "docs"


def loaded(path: Path) -> Any:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_pages_of_the_rules_are_up_to_date() -> None:
    written = {p.name: p.read_text(encoding="utf-8") for p in (DOCS / "rules").glob("*.md")}
    assert written == loaded(DOCS / "generate.py").site_pages(), "run `python docs/generate.py`"


def test_every_rule_shows_what_it_says_of_its_bad_example() -> None:
    for code, rule in registry().items():
        if rule.BAD and code not in ("GL001", "GL002"):
            said = (DOCS / "said" / f"{code}.txt").read_text(encoding="utf-8")
            assert f"{code} " in said.splitlines()[0], "run `python docs/generate.py --measure`"
            assert said.strip() in page(f"rules/{rule.name}.md")


def test_the_schema_on_the_site_is_the_one_that_is_shipped() -> None:
    shipped = (files("gradlint.report") / "assets" / "gradlint-1.json").read_text(encoding="utf-8")
    assert page("schema/gradlint-1.json") == shipped, "run `python docs/generate.py`"


def test_every_rule_is_in_the_navigation() -> None:
    (rules,) = [x["Rules"] for x in yaml.safe_load((TOP / "mkdocs.yml").read_text())["nav"] if "Rules" in x]
    listed = {path for entry in rules for path in entry.values()}
    assert listed == {f"rules/{name}" for name in pages()}
    assert {title.split()[0] for entry in rules for title in entry} == {"Overview", *registry()}


def test_every_key_of_the_configuration_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|", page("configuration.md"), re.MULTILINE))
    fields = {f.encode_name: f.default for f in msgspec.structs.fields(Config)}
    assert set(rows) == set(fields)
    for key, told in rows.items():
        default = fields[key]
        if told.startswith("`") and key != "exclude" and default is not msgspec.NODEFAULT:
            assert json.loads(told.strip("`")) == json.loads(msgspec.json.encode(default)), key


def names(value: object) -> set[str]:
    """All keys of the objects within a JSON value, but for mappings whose keys are the user's."""
    match value:
        case dict():
            inner = (names(v) for k, v in value.items() if k not in ("whatif", "numbers"))
            return set(value).union(*inner)
        case list():
            return set().union(*map(names, value))
        case _:
            return set()


def test_every_field_of_the_json_is_documented() -> None:
    document = json.loads(json_report.render(sample()))
    spans = {"replacement"}
    told = set(re.findall(r"`(\w+)`", page("output-formats.md")))
    assert names(document) - spans <= told


def test_the_example_of_a_rule_works(tmp_path: Path) -> None:
    code = next(b for b in re.findall(r"```python\n(.*?)```", page("writing-a-rule.md"), re.DOTALL) if "RULES" in b)
    module = tmp_path / "round_rate.py"
    module.write_text(code)
    text = (
        "import torch\nnet = torch.nn.Linear(2, 2)\nopt = torch.optim.SGD(net.parameters(), lr={})\n"
        "for x, y in loader:\n    opt.zero_grad()\n    net(x).sum().backward()\n    opt.step()\n"
    )
    (rule,) = loaded(module).RULES

    def found(rate: str) -> list[str]:
        (tmp_path / "t.py").write_text(text.format(rate))
        project = Project(tmp_path)
        source = project.file(tmp_path / "t.py")
        assert source is not None
        script = read_script(source, project)
        return [f.message for f in rule().check_script(script)]

    assert len(found("1.0")) == 1 and not found("0.1")


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "rules" / "saturating-stack" / "index.html").exists()
