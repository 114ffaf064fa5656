"""Every rule finds its own bad example and is silent on its good one, read from source without torch."""

from __future__ import annotations

import re

import pytest

from gradlint.finding import Finding
from gradlint.graph.signal import profile
from gradlint.hints import optimizers_of, with_loss
from gradlint.rule import Context, Rule, registry
from gradlint.source.project import Project
from gradlint.source.read import read_script
from gradlint.source.reader import read_models

RAISED_BY_THE_ENGINE = {"GL001", "GL002"}
SECTIONS = (
    "What it does",
    "Why it hurts",
    "Example",
    "Use instead",
    "How it is confirmed",
    "Fix safety",
    "Options",
    "References",
)

RULES = sorted(registry().items())
CHECKED = [rule for code, rule in RULES if code not in RAISED_BY_THE_ENGINE]


def check(rule: type[Rule], text: str, folder) -> list[Finding]:
    path = folder / "train.py"
    path.write_text(text)
    project = Project(folder)
    source = project.file(path)
    assert source is not None
    script = read_script(source, project)
    instance = rule()
    found = list(instance.check_script(script))
    for graph in read_models(source, project):
        known = with_loss(graph, script)
        context = Context(script, optimizers_of(script, known))
        found += instance.check_graph(known, profile(known), context)
    return found


@pytest.mark.parametrize("rule", CHECKED, ids=lambda r: r.code)
def test_bad_example_is_found(rule, tmp_path):
    found = check(rule, rule.BAD, tmp_path)
    assert [f.code for f in found] == [rule.code]
    if found[0].needs_probe:
        assert rule().experiments(found[0])


@pytest.mark.parametrize("rule", CHECKED, ids=lambda r: r.code)
def test_good_example_is_silent(rule, tmp_path):
    assert [f for f in check(rule, rule.GOOD, tmp_path) if not f.tentative] == []


@pytest.mark.parametrize("rule", [rule for _, rule in RULES], ids=lambda r: r.code)
def test_documentation_has_every_section_and_every_option(rule):
    text = rule.documentation()
    titles = re.findall(r"^## (.+)$", text, re.M)
    assert titles == list(SECTIONS)
    for field in rule.Options.__struct_encode_fields__:
        assert f"`{field}`" in text


@pytest.mark.parametrize("rule", [rule for _, rule in RULES], ids=lambda r: r.code)
def test_examples_compile_as_they_should(rule):
    compile(rule.GOOD, "good.py", "exec")
    if rule.code == "GL001":
        with pytest.raises(SyntaxError):
            compile(rule.BAD, "bad.py", "exec")
    else:
        compile(rule.BAD, "bad.py", "exec")
