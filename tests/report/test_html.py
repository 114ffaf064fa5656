"""The page: what is on it, that it is whole without a network, and that its charts answer to a person."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gradlint.graph.profile import LayerProfile
from gradlint.report import html
from gradlint.report.chart import HEIGHT, Point, svg
from gradlint.result import Result
from tests.report.results import sample

VOID = {"meta"}


class Page(HTMLParser):
    """The elements of a page in order, each with its attributes and the text directly in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.elements[self._open[-1]][2].append(data)

    def all(self, tag: str, css: str = "") -> list[dict[str, str | None]]:
        return [a for t, a, _ in self.elements if t == tag and css in [*(a.get("class") or "").split(" "), ""]]

    def texts(self, tag: str) -> list[str]:
        return ["".join(words) for t, _, words in self.elements if t == tag]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(html.render(sample()))


def test_each_finding_that_is_shown_is_an_article(page: Page) -> None:
    assert [a["class"] for a in page.all("article")] == ["warning", "error", "warning"]
    assert len(Page(html.render(sample(), refuted=True)).all("article")) == 4
    numbers = "gradient ratio predicted 3.1e-9 → measured 2.4e-9 (3 seeds, spread ×1.4) → remedied 0.6 (LayerNorm)"
    assert numbers in page.texts("p")


def test_source_is_quoted_with_the_decisive_line_marked(page: Page) -> None:
    assert len(page.all("span", "here")) == 3
    assert "and here" in page.texts("span")


def test_each_model_has_a_chart_of_gradients_and_one_of_activations(page: Page) -> None:
    assert [a["aria-label"] for a in page.all("svg")] == [
        "Gradient ‖∂L/∂h‖ relative to the last hidden layer",
        "Standard deviation of the activation h",
    ]
    for series in ("predicted", "measured"):
        assert [a["data-layer"] for a in page.all("circle", series)] == ["0", "1"] * 2
    assert len(page.all("polygon", "band")) == 1


def test_flagged_layers_are_marked_and_lead_to_their_finding(page: Page) -> None:
    assert [a["data-layer"] for a in page.all("g", "flagged")] == ["0", "0"]
    (row,) = page.all("tr", "flagged")
    assert row["data-finding"] == "finding-1" and page.all("article")[1]["id"] == "finding-1"


def test_the_numbers_are_in_the_table_too(page: Page) -> None:
    cells = page.texts("td")
    assert cells[:7] == ["0", "linear", "5", "1.3e-9", "2.4e-9", "0.63", "0.6"]


def test_the_page_loads_nothing() -> None:
    rendered = html.render(sample())
    assert not re.findall(r"https?:|\bsrc=|<link|@import|url\(", rendered)
    assert "default-src 'none'" in rendered


def test_what_is_quoted_cannot_become_markup() -> None:
    nasty = "</pre><script>alert(1)</script>"
    finding = replace(sample().findings[2], message=nasty, help=nasty)
    text = html.render(replace(sample(), findings=(finding,), texts={"/project/train.py": f"{nasty}\n" * 9}))
    assert len(Page(text).all("script")) == 1
    assert "<script>alert" not in text


def test_a_clean_run_says_so() -> None:
    assert "None." in Page(html.render(Result(root=Path("/project"), files=1))).texts("p")


def test_a_chart_bears_what_is_not_known_zero_or_beyond_floats() -> None:
    points = [
        Point("a"),
        Point("b", -400.0, (-410.0, -390.0)),
        Point("c", None, None, None, zero=True),
        Point("d", 3.0),
    ]
    drawn = svg("x", points)
    heights = [float(y) for y in re.findall(r'cy="([-\d.]+)"', drawn)]
    assert len(heights) == 2 and all(0 < y < HEIGHT for y in heights)
    assert drawn.count('class="measured zero"') == 1
    assert len(re.findall('class="grid"', drawn)) <= 11
    assert "nan" not in svg("x", []) + svg("x", [Point("a")])


def test_a_model_without_predictions_is_drawn() -> None:
    model = sample().models[0]
    blank = replace(model.profile, layers=tuple(LayerProfile(x.node, x.name, x.kind) for x in model.profile.layers))
    shown = Page(html.render(replace(sample(), models=(replace(model, profile=blank, measurements=None),))))
    assert len(shown.all("svg")) == 2 and not shown.all("circle")
    assert [b["data-series"] for b in shown.all("button")] == ["flagged"]


CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
DRIVE = """
<script>
const model = document.querySelector("section.model");
const before = model.querySelector(".readout").textContent;
model.querySelector('.column[data-layer="0"]').dispatchEvent(new PointerEvent("pointerenter"));
const pointed = model.querySelector(".readout").textContent;
const rows = model.querySelectorAll("tbody tr.at").length;
model.querySelector('button[data-series="measured"]').click();
const gone = getComputedStyle(model.querySelector("circle.measured")).display;
const stays = getComputedStyle(model.querySelector("circle.predicted")).display;
model.querySelector('.column[data-layer="0"]').dispatchEvent(new MouseEvent("click"));
document.title = JSON.stringify([before !== pointed, pointed, rows, gone, stays, location.hash]);
</script>
</body>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_charts_answer_in_a_browser(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(html.render(sample()).replace("</body>", DRIVE), encoding="utf-8")
    assert CHROMIUM is not None
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    )
    command = [
        CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1600",
        f"--screenshot={tmp_path / 'page.png'}", "--dump-dom", (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    assert title[1] == (
        '[true,"0 (linear): gradient 1.3e-9 predicted, 2.4e-9 measured; activation 0.63 predicted, 0.6 measured; '
        'GL101",1,"none","inline","#finding-1"]'
    )
