"""The page as a person meets it, in headless Chromium: quiet, complete, searchable, readable on a phone, in the dark.

Chromium is the machine's own, driven by playwright; without either these tests are skipped. The check of accessibility
runs axe-core where `AXE_CORE` names its axe.min.js, or `npm pack` can fetch it.
"""

from __future__ import annotations

import os
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
        store.add(labelled(7, "first <b>flight</b>"))
        page.wait_for_selector("#runs-table tbody tr:nth-child(4)")
        assert page.input_value("#runs-search") == "base" and column(page, 12) == ["0", "1", "2", "7"]
        assert "Live: looks for news" in page.inner_text("#live-note")
        record = page.locator("#runs-table td a").first.get_attribute("href")
        assert page.request.get(page.evaluate("(link) => new URL(link, location).href", record)).json()["loss"] == 2.5
        assert page.said == [] and all(asked.startswith(url) for asked in page.asked)
