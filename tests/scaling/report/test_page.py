"""The page of a study in a real browser: drawn, touched, downloaded, on a phone, on paper and without scripts."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from hf_hybrid.scaling.report.page import figures_in, write_report
from tests.support.study_folders import write_study

# Chromium by the names that systems give it; HF_HYBRID_CHROMIUM is for one that has another.
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
CHROMIUM = os.environ.get("HF_HYBRID_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run")
QUIET = ("--disable-background-networking", "--disable-component-update")
PROFILE = Path(__file__).parents[3] / "benchmarks" / "step_profile.json"
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
PHONE = {"width": 390, "height": 844}

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=f"no Chromium: none of {', '.join(NAMES)}, nor HF_HYBRID_CHROMIUM"),
    pytest.mark.xdist_group("browser"),
]


class Visit:
    """A page that was opened, with all that it said and asked for."""

    def __init__(self, browser: Browser, path: Path, wait: bool = True, **options: Any) -> None:
        self.page: Page = browser.new_context(**options).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        if wait:
            self.page.wait_for_selector("html.done", timeout=120_000)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    arms = ("bm25", "mono", "hybrid", "mlm_hybrid")
    write_study(folder, (1, 2, 6), (1, 2), arms, failed={"mono-L6-seed2": HOSTILE})
    profile = json.loads(PROFILE.read_text(encoding="utf-8"))
    profile["rows"][0]["attention"] = HOSTILE
    (folder / "step_profile.json").write_text(json.dumps(profile), encoding="utf-8")
    return write_report(folder)[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *QUIET])
        yield found
        found.close()


@pytest.fixture(scope="module")
def visit(browser: Browser, path: Path) -> Visit:
    return Visit(browser, path, viewport={"width": 1200, "height": 900}, accept_downloads=True)


@pytest.fixture(scope="module")
def rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    return figures_in(path.read_bytes().decode())


def test_it_opens_from_the_disk_without_an_error_or_a_request(visit: Visit, path: Path) -> None:
    assert visit.said == []
    assert {url for url in visit.asked if not url.startswith("data:image/svg+xml,")} == {path.as_uri()}
    assert visit.page.evaluate("window.hacked") is None


def test_a_request_would_be_seen_and_refused(visit: Visit) -> None:
    page = visit.page
    page.evaluate("fetch('http://127.0.0.1:9/x').catch(() => {})")
    page.wait_for_timeout(200)
    assert any("Content Security Policy" in text for text in visit.said)
    visit.said.clear()


def test_every_figure_is_a_plot_with_marks_and_its_picture_is_of_the_same_spec(
    visit: Visit, path: Path, rows: dict[str, Any]
) -> None:
    found = visit.page.eval_on_selector_all(
        "figure",
        """figures => figures.map(figure => ({
            name: figure.dataset.figure,
            marks: figure.querySelectorAll('.plot svg .mark-symbol path, .plot svg .mark-rect path').length,
            height: figure.querySelector('.plot svg').getBoundingClientRect().height,
            plot: getComputedStyle(figure.querySelector('.plot')).display,
            picture: getComputedStyle(figure.querySelector('img')).display,
            texts: [...figure.querySelectorAll('.plot svg .role-legend text, .plot svg .role-axis-title text')]
                .map(text => text.textContent),
            source: figure.querySelector('img').src,
        }))""",
    )
    assert [figure["name"] for figure in found] == list(rows)
    for figure in found:
        assert figure["marks"] >= 3, figure["name"]
        assert figure["height"] > 100
        assert (figure["plot"], figure["picture"]) == ("block", "none")
        assert figure["texts"], figure["name"]
        picture = unquote(figure["source"])
        assert all(f">{text}<" in picture for text in figure["texts"]), figure["name"]
    marks = {figure["name"]: figure["marks"] for figure in found}
    assert marks["pairs_hybrid"] >= 36  # six languages against six


def test_a_tooltip_tells_the_numbers_of_a_mark(visit: Visit, rows: dict[str, Any]) -> None:
    means = {(row["name"], str(row["languages"])): row["mean"] for row in rows["train_time_s"]}
    marks = visit.page.locator("#figure-train_time_s .plot svg .mark-symbol.role-mark path")
    assert marks.count() == len(means) == 7
    told = {}
    for number in range(marks.count()):  # where two lie upon each other, the upper one answers
        marks.nth(number).hover(force=True)
        tooltip = visit.page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for(timeout=5000)
        lines = [line.strip() for line in tooltip.inner_text().splitlines() if line.strip()]
        found = dict(zip(lines[::2], lines[1::2], strict=True))
        told[found["name"], found["languages"]] = float(found["mean"])
    assert {("MLM + hybrid", "2"), ("MLM + hybrid", "6"), ("mono", "1")} <= set(told)
    assert told == {place: pytest.approx(means[place], rel=1e-3) for place in told}


def test_a_click_in_the_legend_leaves_one_arm(visit: Visit) -> None:
    figure = visit.page.locator("#figure-multilingual_MAP .plot svg")

    def opacities() -> set[str]:
        found = figure.locator(".mark-symbol.role-mark path").evaluate_all(
            "marks => marks.map(mark => mark.getAttribute('opacity'))"
        )
        return set(found)

    assert opacities() == {"1"}
    figure.locator(".role-legend text", has_text=re.compile("^hybrid$")).click()
    visit.page.wait_for_timeout(100)
    assert opacities() == {"1", "0.12"}


@pytest.mark.parametrize("name", ["step_time_s", "pairs_hybrid", "step_profile"])
def test_downloads_have_the_numbers(visit: Visit, rows: dict[str, Any], name: str) -> None:
    texts = {}
    for kind in ("csv", "json"):
        with visit.page.expect_download() as download:
            visit.page.click(f"#figure-{name} button[data-as={kind}]")
        assert download.value.suggested_filename == f"{name}.{kind}"
        texts[kind] = Path(download.value.path()).read_bytes().decode()
    assert json.loads(texts["json"]) == rows[name]
    table = list(csv.DictReader(io.StringIO(texts["csv"], newline="")))
    assert [list(row) for row in table] == [list(row) for row in rows[name]]
    for read, row in zip(table, rows[name], strict=True):
        numbers = {key: float(read[key]) for key, value in row.items() if isinstance(value, int | float)}
        assert numbers == {key: value for key, value in row.items() if isinstance(value, int | float)}
        assert all(read[key] == (value or "") for key, value in row.items() if key not in numbers)


def test_names_from_right_to_left_are_set_so(visit: Visit) -> None:
    directions = {
        name: visit.page.locator("td", has_text=re.compile(f"^{name}$")).evaluate(
            "trial => trial.matches(':dir(rtl)')"
        )
        for name in ("العربية", "עברית", "Deutsch")
    }
    assert directions == {"العربية": True, "עברית": True, "Deutsch": False}


def test_paper_shows_the_pictures(visit: Visit) -> None:
    visit.page.emulate_media(media="print")
    assert shown(visit.page) == {"plot": 0, "picture": visit.page.locator("figure").count(), "button": 0}
    visit.page.emulate_media(media="screen")
    assert shown(visit.page)["picture"] == 0


def test_a_phone_never_scrolls_sideways(browser: Browser, path: Path) -> None:
    phone = Visit(browser, path, viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True)
    assert phone.said == []
    assert phone.page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    widths = phone.page.eval_on_selector_all(".plot svg", "plots => plots.map(p => p.getBoundingClientRect().width)")
    assert all(250 < width <= 390 for width in widths)
    heights = phone.page.eval_on_selector_all("button", "all => all.map(b => b.getBoundingClientRect().height)")
    assert min(heights) >= 32
    table = phone.page.locator(".wide").first
    assert table.evaluate("it => it.scrollWidth > it.clientWidth && getComputedStyle(it).overflowX") == "auto"


def test_without_scripts_there_are_the_pictures(browser: Browser, path: Path) -> None:
    still = Visit(browser, path, wait=False, java_script_enabled=False, viewport=PHONE)
    assert shown(still.page) == {"plot": 0, "picture": still.page.locator("figure").count(), "button": 0}
    assert still.page.locator("noscript p").is_visible()


def shown(page: Page) -> dict[str, int]:
    """How many plots, pictures (that were decoded) and buttons can be seen."""
    seen = "all => all.filter(it => it.getClientRects().length && (it.naturalWidth ?? 1) > 0).length"
    parts = {"plot": ".plot", "picture": "figure img", "button": "button"}
    return {name: page.eval_on_selector_all(selector, seen) for name, selector in parts.items()}
