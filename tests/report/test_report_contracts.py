"""The formats that other programs read: whole reports as snapshots, and the rules those programs set."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from syrupy.assertion import SnapshotAssertion

from gradlint.finding import Edit, Finding, Fix, Outcome, Severity, Verdict
from gradlint.location import Location
from gradlint.report import github, gitlab, junit, markdown, rdjson, sarif
from gradlint.report import json as json_report
from gradlint.report.fingerprint import fingerprints
from gradlint.result import Result
from gradlint.rule import registry
from tests.report.results import TEXT, at, sample

REPORT = json.loads((files("gradlint.report") / "assets" / "gradlint-1.json").read_text(encoding="utf-8"))
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("reporter", [github, gitlab, junit, markdown, rdjson, sarif], ids=lambda r: r.__name__[16:])
def test_whole_report(reporter: Any, snapshot: SnapshotAssertion) -> None:
    rendered = reporter.render(sample())
    # The documentation of the rules is theirs to change.
    assert re.sub(r'(?<="(?:text|help)": )"# GL\d+ .*"|(?<="markdown": )".*"', '"…"', rendered) == snapshot


def only(finding: Finding) -> Result:
    return replace(sample(), findings=(finding,))


def plain(message: str, location: Location | None = None, severity: Severity = Severity.WARNING) -> Finding:
    return Finding("GL101", "saturating-stack", severity, message, location or at(6, 5, 17))


def command(finding: Finding) -> str:
    return github.render(only(finding)).splitlines()[0]


def test_workflow_commands_escape_data() -> None:
    assert command(plain("50% of a:b,c\r\nnext")).endswith("::50%25 of a:b,c%0D%0Anext")


def test_workflow_commands_escape_properties() -> None:
    shown = command(plain("x", at(6, 5, 17, path="/project/a,b:c%.py")))
    assert "file=a%2Cb%3Ac%25.py,line=6" in shown


def test_columns_are_given_only_for_a_span_of_one_line() -> None:
    several = command(plain("x", Location("/project/train.py", 5, 5, 8, 10)))
    assert several == "::warning title=gradlint (GL101),file=train.py,line=5,endLine=8::x"


def test_a_notebook_cell_has_no_line_in_its_file() -> None:
    finding = plain("x", at(2, 1, 5, path="/project/a.ipynb", cell=3))
    assert command(finding) == "::warning title=gradlint (GL101),file=a.ipynb::cell 3, line 2: x"
    (issue,) = json.loads(gitlab.render(only(finding)))
    assert issue["description"] == "GL101: cell 3, line 2: x" and issue["location"]["lines"] == {"begin": 1, "end": 1}
    (diagnostic,) = json.loads(rdjson.render(only(finding)))["diagnostics"]
    assert diagnostic["location"] == {"path": "a.ipynb"} and diagnostic["message"].startswith("cell 3, line 2: x")


def test_annotations_come_worst_and_surest_first() -> None:
    def one(line: int, severity: Severity, outcome: Outcome) -> Finding:
        return replace(plain("x", at(line, 1, 2), severity), verdict=Verdict(outcome, "measured"))

    found = (
        one(1, Severity.INFO, Outcome.CONFIRMED),
        one(2, Severity.WARNING, Outcome.UNVERIFIED),
        one(3, Severity.WARNING, Outcome.CONFIRMED),
        one(4, Severity.ERROR, Outcome.UNVERIFIED),
    )
    shown = [x for x in github.render(replace(sample(), findings=found)).splitlines() if x.startswith("::")]
    assert [re.findall(r"^::(\w+).*?line=(\d+)", x)[0] for x in shown] == [
        ("error", "4"), ("warning", "3"), ("warning", "2"), ("notice", "1"),
    ]  # fmt: skip


def sarif_of(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sarif.render(result, refuted=True))
    jsonschema.Draft7Validator(SCHEMA).validate(document)
    return document


def test_sarif_is_valid() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    sarif_of(sample())
    sarif_of(Result(root=Path("/project")))
    sarif_of(only(plain("x", at(2, 1, 5, path="/elsewhere/ä b.ipynb", cell=3))))
    every = [Finding(r.code, r.name, r.severity, "x", at(1, 1, 2)) for r in registry().values()]
    document = sarif_of(replace(sample(), findings=tuple(every)))
    assert len(document["runs"][0]["tool"]["driver"]["rules"]) == len(registry())


def test_the_validation_of_sarif_can_fail() -> None:
    document = sarif_of(sample())
    document["runs"][0]["results"][0]["level"] = "catastrophe"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(document)


def test_sarif_says_what_code_scanning_needs() -> None:
    (run,) = sarif_of(sample())["runs"]
    rules = run["tool"]["driver"]["rules"]
    stack = next(r for r in run["results"] if r["ruleId"] == "GL101")
    place = stack["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "train.py", "uriBaseId": "ROOT"}
    assert place["region"] == {"startLine": 6, "startColumn": 5, "endColumn": 17}
    assert stack["level"] == "error"
    assert stack["properties"]["verdict"] == "confirmed" and "confirmed" in stack["message"]["text"]
    assert stack["properties"]["model"] == "train.py:net"
    assert len(stack["relatedLocations"]) == 2
    assert list(stack["partialFingerprints"]) == ["gradlint/v1"]
    assert rules[stack["ruleIndex"]]["id"] == "GL101"
    assert "What it does" in rules[stack["ruleIndex"]]["help"]["markdown"]
    assert all(0 < len(r["fullDescription"]["text"]) <= 1024 for r in rules)


def test_sarif_bears_a_rule_whose_pack_is_gone() -> None:
    stray = Finding("AA101", "gone", Severity.INFO, "x", at(1, 1, 2))
    (run,) = sarif_of(replace(sample(), findings=(stray, *sample().findings)))["runs"]
    rules = run["tool"]["driver"]["rules"]
    told = [(r["ruleId"], rules[r["ruleIndex"]]["id"]) for r in run["results"] if r["ruleIndex"] >= 0]
    assert len(told) == len(run["results"]) - 1 and all(a == b for a, b in told)


def test_the_region_of_an_alert_is_one_line() -> None:
    (run,) = sarif_of(only(plain("x", Location("/project/train.py", 4, 7, 10, 2))))["runs"]
    region = run["results"][0]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 4, "startColumn": 7}


def test_gitlab_has_the_fields_of_code_quality() -> None:
    issues = json.loads(gitlab.render(sample()))
    assert all(set(i) == {"description", "check_name", "fingerprint", "severity", "location"} for i in issues)
    assert len({i["fingerprint"] for i in issues}) == len(issues) == 3
    assert {i["severity"] for i in issues} <= {"info", "minor", "major", "critical", "blocker"}
    assert issues[1]["location"] == {"path": "train.py", "lines": {"begin": 6, "end": 6}}


def test_junit_parses_and_counts() -> None:
    suites = ElementTree.fromstring(junit.render(sample()))
    cases = suites.findall("./testsuite/testcase")
    assert suites.get("tests") == suites.get("failures") == "3" == str(len(cases))
    assert [c.get("file") for c in cases] == ["train.py"] * 3
    failure = cases[1].find("failure")
    assert failure is not None and "predicted 3.1e-9" in (failure.text or "")


def test_junit_of_a_clean_run_is_one_case_that_passed() -> None:
    suites = ElementTree.fromstring(junit.render(Result(root=Path("/project"))))
    assert len(suites.findall(".//testcase")) == 1 and not suites.findall(".//failure")


def test_junit_bears_what_xml_forbids() -> None:
    suites = ElementTree.fromstring(junit.render(only(plain('\x00 <&> "\x1b[1m'))))
    failure = suites.find(".//failure")
    assert failure is not None and failure.get("message") == '\ufffd <&> "\ufffd[1m'


def test_markdown_keeps_its_table_whole() -> None:
    shown = markdown.render(only(plain("`a|b` and <script>\nnext `<lambda>`")))
    row = next(x for x in shown.splitlines() if "GL101" in x)
    assert row.endswith("| `a\\|b` and &lt;script> next `<lambda>` |")


def test_markdown_tells_the_notes_of_the_run() -> None:
    noted = replace(sample(), notes=("3 findings accepted by `a.json`",))
    assert markdown.render(noted).endswith("\n- note: 3 findings accepted by `a.json`\n")


def test_a_fingerprint_survives_moves_of_the_line() -> None:
    moved = replace(
        sample(),
        findings=tuple(
            replace(f, location=replace(f.location, line=f.location.line + 2, end_line=f.location.end_line + 2))
            for f in sample().findings
            if f.location.line > 4
        ),
        texts={"/project/train.py": TEXT.replace("net =", "\n\nnet =")},
    )
    kept = [p for f, p in zip(sample().findings, fingerprints(sample()), strict=True) if f.location.line > 4]
    assert fingerprints(moved) == kept


def test_a_fingerprint_changes_with_the_line_and_tells_twins_apart() -> None:
    changed = replace(sample(), texts={"/project/train.py": TEXT.replace("nn.Sigmoid()", "nn.Tanh()")})
    stack = [f.code for f in sample().findings].index("GL101")
    assert fingerprints(changed)[stack] != fingerprints(sample())[stack]
    twins = fingerprints(replace(sample(), findings=(plain("x"), plain("x"))))
    assert len(set(twins)) == 2


def test_rdjson_counts_columns_in_bytes_and_suggests_fixes() -> None:
    text = "é = 'ß'; net = nn.Sigmoid()\nstep()\n"
    edit = Edit(Location("/project/train.py", 2, 1), "clip()\n")
    finding = replace(plain("x", at(1, 10, 28)), fix=Fix("clip", (edit,), safe=True))
    (shown,) = json.loads(rdjson.render(replace(only(finding), texts={"/project/train.py": text})))["diagnostics"]
    assert shown["location"]["range"] == {"start": {"line": 1, "column": 12}, "end": {"line": 1, "column": 30}}
    start = {"line": 2, "column": 1}
    assert shown["suggestions"] == [{"range": {"start": start, "end": start}, "text": "clip()\n"}]
    assert shown["severity"] == "WARNING" and shown["code"]["value"] == "GL101"


def test_a_path_on_another_drive_is_a_file_uri() -> None:
    (run,) = sarif_of(only(plain("x", at(1, 1, 2, path="D:/a b/train.py"))))["runs"]
    place = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "file:///D:/a%20b/train.py"}


def test_json_keeps_to_its_schema() -> None:
    validator = jsonschema.Draft202012Validator(closed(REPORT))
    jsonschema.Draft202012Validator.check_schema(REPORT)
    document = json.loads(json_report.render(sample()))
    validator.validate(document)
    validator.validate(json.loads(json_report.render(Result(root=Path("/project")))))
    for broken in ({"version": 2}, {"summary": {}}, {"new": 1}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(document | broken)


def closed(schema: Any) -> Any:
    """The schema with no fields beside those that it names: what is added has to be written down there."""
    match schema:
        case dict():
            inner = {key: closed(value) for key, value in schema.items()}
            return inner | {"additionalProperties": False} if "properties" in schema else inner
        case list():
            return [closed(item) for item in schema]
        case _:
            return schema
