"""Whole reports as snapshots: what a person or a program sees, to the letter."""

from __future__ import annotations

import json

import pytest
from syrupy.assertion import SnapshotAssertion

from gradlint.report import concise, text
from gradlint.report import json as json_report
from tests.report.results import sample


def test_text(snapshot: SnapshotAssertion) -> None:
    assert text.render(sample()) == snapshot


def test_text_with_refuted_findings(snapshot: SnapshotAssertion) -> None:
    shown = text.render(sample(), refuted=True)
    assert "GL201" in shown and "GL201" not in text.render(sample())
    assert shown == snapshot


def test_text_in_colour_says_the_same() -> None:
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.render(sample(), colour=True))
    assert plain == text.render(sample())


def test_concise(snapshot: SnapshotAssertion) -> None:
    assert concise.render(sample()) == snapshot


def test_json(snapshot: SnapshotAssertion) -> None:
    rendered = json_report.render(sample())
    assert rendered == snapshot


def test_json_has_every_field_of_version_1() -> None:
    document = json.loads(json_report.render(sample()))
    assert set(document) >= {"version", "findings", "models", "skipped", "summary"}
    finding = next(f for f in document["findings"] if f["code"] == "GL101")
    assert set(finding) >= {
        "code", "name", "severity", "message", "help", "path", "cell", "line", "column", "end_line", "end_column",
        "verdict", "verdict_reason", "model", "optimizer", "confidence", "primary", "evidence", "related", "fix", "url",
    }  # fmt: skip
    assert finding["evidence"]["whatif"] == {"LayerNorm": 0.6, "ReLU": None}
    layer = document["models"][0]["layers"][0]
    assert set(layer) >= {"name", "kind", "line", "predicted", "measured"}
    assert set(layer["predicted"]) >= {"activation_std", "gradient", "weight_gradient", "band", "saturated"}
    assert layer["measured"]["gradient"] == pytest.approx(2.4e-9)
    assert document["findings"][0]["verdict"] is None


@pytest.mark.parametrize(("value", "shown"), [(None, None), (-8.0, 1e-8), (-4000.0, 1e-307), (4000.0, 1e308)])
def test_powers_beyond_floats_stay_numbers(value: float | None, shown: float | None) -> None:
    assert json_report.power(value) == (shown if shown is None else pytest.approx(shown))
