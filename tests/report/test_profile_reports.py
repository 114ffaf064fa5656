"""`gradlint probe` in the terminal and as a page: the same numbers, what is wrong in colour, and where it stands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gradlint.finding import Severity
from gradlint.location import Location
from gradlint.probe.experiment import OVERFLOW
from gradlint.report import profile_html, profile_text
from gradlint.report.chart import curve, decades_of
from gradlint.report.measured import Report
from gradlint.report.profile import MeasuredModel, Probed, document, render_json
from tests.report.results import TEXT, sample
from tests.report.test_html import Page


def probed(root: Path, **more: object) -> Probed:
    """The sample's model as measured on a real batch: its first layer starves."""
    result = replace(sample(), root=root)
    model = result.models[0]
    assert model.measurements is not None and model.measurements.baseline is not None
    seen = model.measurements.baseline
    layers = {
        name: replace(x, weight_histogram=(0.0,) * 10 + (0.5, 0.5) + (0.0,) * 6) for name, x in seen.layers.items()
    }
    seen = replace(
        seen, layers=layers, per_seed={"0": (2.4e-9,), "2": (1.0,)}, batch="real", loss=2.3,
        losses=(2.3, 2.2, OVERFLOW), gradient_norms=(0.1, 0.2, 30.0), **more,  # type: ignore[arg-type]
    )  # fmt: skip
    script = str(root / "train.py")
    nodes = tuple(
        replace(n, constructor=replace(n.constructor, path=script)) if n.constructor else n for n in model.graph.nodes
    )
    graph = replace(model.graph, nodes=nodes, location=Location(script, 4))
    report = Report(graph, seen, "SGD", Location(script, 12))
    measured = MeasuredModel(
        script, graph, model.profile, seen, report.health, report.severity, report.problems,
        optimizer="SGD", learning_rates=(0.1,), clipped=False, broken_at=report.broken_at,
    )  # fmt: skip
    return Probed((measured,), replace(result, models=()))


@pytest.fixture
def shown(tmp_path: Path) -> Probed:
    (tmp_path / "train.py").write_text(TEXT)
    return probed(tmp_path)


def test_the_terminal_shows_bars_classes_source_lines_and_curves(shown: Probed) -> None:
    text = profile_text.render(shown, histograms=True)
    assert "train.py:5 │ nn.Linear(64, 64),  ← 0" in text
    assert "smallest weight gradient 1e-9 at `0`" in text
    assert "█▁×" in text and "not finite from step 3: nan" in text
    assert "jumping" in text and "weight" in text
    assert "\x1b[31m" in profile_text.render(shown, colour=True)


def test_the_page_holds_what_the_terminal_shows(shown: Probed) -> None:
    page = Page(profile_html.render(shown))
    charts = page.all("svg", "chart")
    assert len(charts) == 4, "gradients, activations, loss and gradient norm"
    assert [a["class"] for a in page.all("tr") if a.get("data-readout")] == ["error", ""]
    assert any(a["class"] == "badge error" for a in page.all("span"))
    cells = page.texts("td")
    assert {"2.4e-9", "0.6", "1e-9"} <= set(cells)
    assert len(page.all("svg", "decades")) == 2
    assert "smallest weight gradient 1e-9 at " in "".join(page.texts("p"))
    assert len(page.all("article")) == len(shown.result.shown())


def test_the_page_loads_nothing_and_quotes_safely(shown: Probed) -> None:
    model = replace(shown.models[0], problems=("`<script>alert(1)</script>`",))
    text = profile_html.render(replace(shown, models=(model,)))
    assert "<script>alert" not in text and "http" not in text.replace("http-equiv", "").split("<body>")[0]
    Page(text)


def test_an_earlier_run_stands_beside_in_both(shown: Probed, tmp_path: Path) -> None:
    before = json.loads(render_json(shown))
    before["models"][0]["layers"][0]["measured"]["gradient"] = 0.125
    before["models"][0]["severity"] = None
    for text in (profile_text.render(shown, before), profile_html.render(shown, before)):
        assert "0.12" in text and "before" in text and "healthy, loss 2.3" in text


def test_the_first_value_that_is_not_finite_has_its_line_and_step(tmp_path: Path) -> None:
    broken = probed(tmp_path, first_nonfinite="0", nonfinite_step=3).models[0]
    assert broken.severity is Severity.ERROR
    assert broken.problems[0] == "`0` (train.py:5) makes the first value that is not finite at step 3"
    lost = probed(tmp_path, first_nonfinite="loss").models[0]
    assert lost.problems[0] == "the loss (train.py:12) is not finite, while all that the model computes is"
    entry = document(probed(tmp_path, first_nonfinite="0", nonfinite_step=3))["models"][0]
    assert (entry["first_nonfinite_line"], entry["first_nonfinite_step"]) == (5, 3)


def test_curves_and_histograms_bear_what_is_missing() -> None:
    for values in ([], [None], [1.0], [1.0, 1.0, None], [1e-40, 1e40]):
        Page(curve("loss", values, logarithmic=True))
    assert curve("loss", [1.0, None, 2.0]).count("×") == 1
    assert decades_of([0.0] * 18, -12, 4).count("<rect") == 0
    assert "below 1e-12: 100%" in decades_of([1.0] + [0.0] * 17, -12, 4)
