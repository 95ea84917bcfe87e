"""The page as a person meets it, in headless Chromium: quiet, complete, searchable, readable on a phone, in the dark.

Chromium is the machine's own, driven by playwright; without either these tests are skipped. The check of accessibility
runs axe-core where `AXE_CORE` names its axe.min.js, or `npm pack` can fetch it.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_live_view import labelled, serving
from test_report import HOSTILE, everything_replaced, example

from windtunnel.report.page import write
from windtunnel.store import Store

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on this machine")

AXE = "axe-core@4.14.1"
SECTIONS = ("loss", "verdicts", "basins", "transfer", "coordinates", "laws", "record", "next", "cost", "runs", "repeat")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TIMEOUT = 120_000  # milliseconds; a machine whose cores are busy takes its time


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=TIMEOUT)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(example(("sign_momentum", "another_idea")), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address; the page has `said` (console and errors) and `asked` (what it loaded beside itself)."""
    contexts = []

    def opening(address: str, width: int = 1100, dark: bool = False) -> Any:
        scheme = "dark" if dark else "light"
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT)
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        return page

    yield opening
    for context in contexts:
        context.close()


def test_the_page_says_nothing_on_the_console_and_asks_for_nothing_but_itself(opened, report: Path):
    page = opened(report.as_uri())
    assert page.said == [] and page.asked == [report.as_uri()]
    assert all(page.locator(f"#{name}").count() == 1 for name in SECTIONS)
    shown = page.locator("svg.plot:visible").evaluate_all("all => all.map((one) => one.getBoundingClientRect().height)")
    assert len(shown) == 2 + 2 + 3 + 9 and min(shown) > 100  # loss, verdicts, basins, coordinates


def keys(page: Any) -> list[str]:
    return page.locator("#runs-table tbody tr:visible td:first-child").all_inner_texts()


def column(page: Any, number: int) -> list[str]:
    return page.locator(f"#runs-table tbody tr td:nth-child({number})").all_inner_texts()


def test_the_run_table_searches_and_says_how_many_it_found(opened, report: Path):
    page = opened(report.as_uri())
    every = len(keys(page))
    page.fill("#runs-search", "diverged ANOTHER_idea")
    assert 0 < len(keys(page)) < every and set(column(page, 2)) == {"another_idea"}
    assert page.inner_text("#runs-shown") == f"{len(keys(page))} of {every} runs"
    page.fill("#runs-search", "no such run")
    assert keys(page) == []
    page.fill("#runs-search", "")
    assert len(keys(page)) == every


def test_the_run_table_sorts_by_number_up_and_down_and_leaves_what_is_missing_last(opened, report: Path):
    page = opened(report.as_uri())
    page.click("#runs-table th:nth-child(5) button")
    up = column(page, 5)
    known = [float(text) for text in up if text != "missing"]
    assert known == sorted(known) and up[len(known) :] == ["missing"] * (len(up) - len(known)) != []
    assert page.get_attribute("#runs-table th:nth-child(5)", "aria-sort") == "ascending"
    page.focus("#runs-table th:nth-child(5) button")
    page.keyboard.press("Enter")  # a keyboard is enough
    down = [float(text) for text in column(page, 5) if text != "missing"]
    assert down == known[::-1] and column(page, 5)[-1] == "missing"


@pytest.mark.parametrize("hostile", [False, True])
def test_a_phone_of_390_pixels_never_scrolls_sideways(opened, tmp_path: Path, hostile: bool):
    study = example(("sign_momentum", "another_idea"))
    path = write(everything_replaced(study, HOSTILE + "long" * 100) if hostile else study, tmp_path / "page.html")
    page = opened(path.as_uri(), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.said == []


def brightness(page: Any, element: str, of: str) -> float:
    found = page.evaluate(f"getComputedStyle(document.querySelector('{element}')).{of}")
    return sum(float(part) for part in found.removeprefix("rgb(").removesuffix(")").split(",")[:3]) / 3


def test_in_the_dark_the_page_is_dark_and_its_text_bright(opened, report: Path):
    for dark in (True, False):
        page = opened(report.as_uri(), dark=dark)
        paper, ink = brightness(page, "body", "backgroundColor"), brightness(page, "h1", "color")
        assert (paper < 60 < 180 < ink) if dark else (ink < 60 < 180 < paper)


def test_on_paper_every_section_is_there_and_nothing_is_cut_off_by_a_scrolling_box(opened, report: Path):
    page = opened(report.as_uri())
    page.emulate_media(media="print")
    assert all(page.locator(f"#{name} h2").is_visible() for name in SECTIONS)
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll')].every((e) => getComputedStyle(e).overflow == 'visible')"
    )
    assert not page.locator("#runs-tools").is_visible()


def marks(page: Any, figure: str = "#loss figure") -> int:
    """How many dots, bars, lines and shades of a figure's first picture can be seen."""
    return page.locator(f"{figure} svg.plot >> nth=0 >> .marks path:visible, .marks circle:visible").count()


def test_a_series_is_hidden_and_shown_by_its_legend_with_the_keyboard_alone(opened, report: Path):
    page = opened(report.as_uri())
    every = marks(page)
    toggle = page.locator("#loss .legend button", has_text="idea")
    assert toggle.get_attribute("aria-pressed") == "true"
    toggle.focus()
    page.keyboard.press("Space")
    assert toggle.get_attribute("aria-pressed") == "false"
    assert 0 < marks(page) < every
    assert page.locator("#loss svg.plot .marks .idea:visible").count() == 0  # in every panel
    assert page.locator("#loss svg.plot .marks .base:visible").count() > 0
    page.keyboard.press("Enter")
    assert toggle.get_attribute("aria-pressed") == "true" and marks(page) == every


def test_a_mark_of_two_series_is_hidden_by_either(opened, report: Path):
    page = opened(report.as_uri())
    dots = page.locator("#loss svg.plot >> nth=0 >> .marks .disc.base circle:visible")
    before = dots.count()
    for name in ("one run, one seed", "base"):
        page.click(f"#loss .legend button:has-text('{name}')")
        assert dots.count() == 0 < before
        page.click(f"#loss .legend button:has-text('{name}')")
        assert dots.count() == before


def shown_loss(page: Any) -> list[tuple[float, float]]:
    """For every dot of the first panel: the loss that its note says, and the loss that it has by the axis' numbers."""
    found = page.evaluate("""() => {
      const svg = document.querySelector("#loss svg.plot"), ends = (name) => svg.dataset[name].split(" ").map(Number);
      const [[left, right], [bottom, top]] = [ends("x"), ends("y")];
      const grid = svg.querySelector(".anew") ?? svg.querySelector(".axes");
      const at = (element, name) => Number(element.getAttribute(name));
      const numbers = [...grid.querySelectorAll("text.number[text-anchor=end]")];
      const dots = [...svg.querySelectorAll(".marks .disc > circle")].filter((dot) => dot.querySelector("title"))
        .filter((dot) => at(dot, "cx") >= left && at(dot, "cx") <= right)
        .filter((dot) => at(dot, "cy") <= bottom && at(dot, "cy") >= top)
        .map((dot) => [at(dot, "cy"), at(dot, "r"), dot.querySelector("title").textContent]);
      return { ticks: numbers.map((text) => [at(text, "y") - 4, Number(text.textContent)]), dots };
    }""")
    (low, first), (high, last) = found["ticks"][0], found["ticks"][-1]
    assert len(found["ticks"]) >= 2 and {radius for _, radius, _ in found["dots"]} <= {3.2}
    per_pixel = math.log(last / first) / (high - low)
    said = [float(re.search(r": ([\d.]+) nats", note)[1]) for _, _, note in found["dots"]]
    return [
        (loss, first * math.exp((cy - low) * per_pixel)) for loss, (cy, _, _) in zip(said, found["dots"], strict=True)
    ]


def test_a_zoomed_figure_still_tells_the_truth_and_reset_brings_back_every_digit(opened, report: Path):
    page = opened(report.as_uri())
    plot = page.locator("#loss svg.plot").first
    before, seen = plot.evaluate("(svg) => svg.outerHTML"), shown_loss(page)
    assert all(abs(said / read - 1) < 3e-3 for said, read in seen)
    page.locator("#loss .zoom button[aria-label='zoom in']").first.click()
    page.locator("#loss .zoom button[aria-label='zoom in']").first.click()
    closer = shown_loss(page)
    assert 0 < len(closer) < len(seen) and all(abs(said / read - 1) < 1e-3 for said, read in closer)
    page.locator("#loss .zoom button[aria-label='zoom out']").first.click()
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    assert all(abs(said / read - 1) < 2e-3 for said, read in shown_loss(page))
    page.locator("#loss .zoom button", has_text="reset").first.click()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "zoom in"  # not lost
    page.evaluate("document.querySelector('#loss clipPath').remove()")
    assert plot.evaluate("(svg) => svg.outerHTML").replace(' class="plot"', "") == before.replace(' class="plot"', "")


def test_dragging_over_a_figure_shows_what_was_inside_and_a_double_click_everything(opened, report: Path):
    page = opened(report.as_uri())
    plot = page.locator("#loss svg.plot").first
    plot.scroll_into_view_if_needed()
    every, box = len(shown_loss(page)), plot.bounding_box()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.6 * box["height"], steps=3)
    assert page.locator("#loss svg .chosen").count() == 1
    page.mouse.up()
    assert page.locator("#loss svg .chosen").count() == 0 and len(shown_loss(page)) < every
    assert all(abs(said / read - 1) < 2e-3 for said, read in shown_loss(page))
    plot.dblclick()
    assert len(shown_loss(page)) == every


def test_every_figure_zooms_to_the_end_and_back_without_a_word_or_a_sideways_scroll(opened, report: Path):
    page = opened(report.as_uri(), width=390)
    closer = page.locator(".zoom button[aria-label='zoom in']")
    assert closer.count() >= 2 + 2 + 3 + 9
    closer.evaluate_all("all => all.forEach((one) => { for (let click = 0; click < 9; click += 1) one.click(); })")
    assert closer.evaluate_all("all => all.every((one) => one.disabled)")
    assert page.said == [] and page.evaluate("document.documentElement.scrollWidth") <= 390
    drawn = page.locator("svg.plot").evaluate_all("all => all.map((one) => one.outerHTML)")
    assert not [one for one in drawn if "NaN" in one or "Infinity" in one]


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core."""
    given = os.environ.get("AXE_CORE")
    if given:
        return Path(given).read_text("utf-8")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs axe-core: AXE_CORE=.../axe.min.js, or npm")
    folder = tmp_path_factory.mktemp("axe")
    fetched = subprocess.run([npm, "pack", AXE], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    packed = list(folder.glob("axe-core-*.tgz"))
    if fetched.returncode or not packed:
        pytest.skip("needs axe-core, and npm cannot fetch it here")
    with tarfile.open(packed[0]) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (390, True)])
def test_axe_finds_no_serious_violation(opened, report: Path, axe: str, width: int, dark: bool):
    page = opened(report.as_uri(), width, dark)
    page.locator("#loss .legend button").first.click()
    page.locator("#loss .zoom button[aria-label='zoom in']").first.click()
    page.evaluate(axe)  # evaluated by the browser's own tools, which the page's policy does not bind
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0].get('failureSummary', '')[:300]}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == [] and len(found["testEngine"]["version"]) > 2


def test_the_live_view_shows_a_new_run_without_losing_the_readers_place(opened, tmp_path: Path):
    store = Store(tmp_path / "store")
    for seed in range(3):
        store.add(labelled(seed, "first <b>flight</b>"))
    with serving(store) as (url, _, _):
        page = opened(url)
        page.click("text=first <b>flight</b>")
        page.wait_for_selector("#runs-table")
        assert len(keys(page)) == 3
        page.fill("#runs-search", "base")
        page.click("#runs-table th:nth-child(12) button")
        page.locator("#loss .legend button").first.click()
        page.locator("#loss .zoom button[aria-label='zoom in']").first.click()
        store.add(labelled(7, "first <b>flight</b>"))
        page.wait_for_selector("#runs-table tbody tr:nth-child(4)")
        assert page.input_value("#runs-search") == "base" and column(page, 12) == ["0", "1", "2", "7"]
        assert page.locator("#loss .legend button").first.get_attribute("aria-pressed") == "false"
        assert page.locator("#loss svg.zoomed").count() > 0
        assert "Live: looks for news" in page.inner_text("#live-note")
        record = page.locator("#runs-table td a").first.get_attribute("href")
        assert page.request.get(page.evaluate("(link) => new URL(link, location).href", record)).json()["loss"] == 2.5
        assert page.said == [] and all(asked.startswith(url) for asked in page.asked)
