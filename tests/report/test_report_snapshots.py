"""Whole reports as snapshots: what a person or a program sees, to the letter."""

from __future__ import annotations

import json
from dataclasses import replace

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


def test_text_on_a_terminal_is_wrapped_with_its_indent() -> None:
    narrow, wide = text.render(sample(), width=60), text.render(sample())
    assert " ".join(narrow.split()) == " ".join(wide.split())
    said = narrow.splitlines()
    start = said.index(next(x for x in said if x.startswith("  = gradient ratio")))
    assert said[start + 1].startswith("    ") and all(len(x) <= 60 for x in said[start : start + 4])
    assert text.render(sample(), width=20) == wide


def test_many_models_are_counted_not_listed() -> None:
    (model,) = sample().models
    many = replace(sample(), models=(model,) * 21)
    assert "\n21 models: 21 traced, 0 read from source\n" in text.render(many)
    assert "train.py:4: Sequential: 2 layers" not in text.render(many)


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
