"""Every rule's examples through the pipeline with the probe: the bad one is found and proven, the good one silent."""

from __future__ import annotations

import pytest

from gradlint.config import Config
from gradlint.engine import Engine
from gradlint.finding import Finding, Outcome, Severity
from gradlint.rule import registry

pytestmark = pytest.mark.torch

PROVEN = ("GL101", "GL102", "GL111", "GL201", "GL202", "GL301", "GL302", "GL401", "GL502", "GL604")
"""Rules whose bad example one synthetic batch proves."""

CODES = (*PROVEN, "GL404")
"""Rules that ask for measurements; the others' examples need no model."""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list[Finding]]:
    """Findings by file name, all files checked in one run with one seed."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("examples")
    files = []
    for code in CODES:
        for kind in ("bad", "good"):
            path = folder / f"{code.lower()}_{kind}.py"
            path.write_text(getattr(registry()[code], kind.upper()))
            files.append(path)
    result = Engine(Config(seeds=1, exec=True, probe=True), folder).run(files)
    assert result.failures == 0
    by_file: dict[str, list[Finding]] = {path.stem: [] for path in files}
    for finding in result.findings:
        by_file[finding.location.path.rpartition("/")[2].removesuffix(".py")].append(finding)
    return by_file


def of(code: str, findings: list[Finding]) -> list[Finding]:
    return [f for f in findings if f.code == code]


@pytest.mark.parametrize("code", CODES)
def test_bad_example_is_found(code, found):
    assert of(code, found[f"{code.lower()}_bad"])


@pytest.mark.parametrize("code", PROVEN)
def test_bad_example_is_proven_by_one_batch(code, found):
    outcomes = [f.verdict.outcome for f in of(code, found[f"{code.lower()}_bad"]) if f.verdict]
    assert outcomes == [Outcome.CONFIRMED]


@pytest.mark.parametrize("code", CODES)
def test_good_example_is_silent(code, found):
    refuted = [f for f in found[f"{code.lower()}_good"] if f.verdict and f.verdict.outcome is Outcome.REFUTED]
    loud = [f for f in found[f"{code.lower()}_good"] if f not in refuted and f.severity is not Severity.INFO]
    assert [(f.code, f.message) for f in loud] == []
    assert of(code, found[f"{code.lower()}_good"]) == []


@pytest.mark.parametrize("code", ["GL101", "GL102", "GL201", "GL301", "GL302"])
def test_a_what_if_of_a_proven_example_cures(code, found):
    (finding,) = of(code, found[f"{code.lower()}_bad"])
    now = finding.evidence.measured_gradient_ratio
    assert now is not None
    assert finding.evidence.whatif


@pytest.mark.parametrize("code", PROVEN)
def test_one_cause_is_one_primary_finding(code, found):
    loud = [f for f in found[f"{code.lower()}_bad"] if f.primary and f.severity is not Severity.INFO]
    assert len(loud) <= 1 or {f.code for f in loud} <= {"GL111", "GL401"}
