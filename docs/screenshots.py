"""`python docs/screenshots.py REPORT.html`: the pictures of the report in docs/report/, from a page of the demo.

They are made of a page that `make demo` wrote (its path is what the demo prints), in the machine's own Chromium, so
that they can be made again whenever the page changes. A picture that is larger than LARGEST fails.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "report"
LARGEST = 200_000  # bytes
# name -> width of the window in pixels, dark or not, the first and the last element of the page that are in the picture
SHOTS = {
    "answer": (1000, False, "header", "#loss > figure"),
    "verdict-dark": (1000, True, "#verdicts", "#basins > figure"),
    "laws": (1000, False, "#laws", "#laws .card"),
    "phone-dark": (390, True, "#loss", "#loss > figure"),
    "phone": (390, False, "header", ".answer"),
}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--font-render-hinting=none",
]


def main(arguments: list[str]) -> int:
    """Take every picture; 2 where there is no page or no browser."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if len(arguments) != 1 or not Path(arguments[0]).is_file() or chromium is None:
        print(
            "usage: python docs/screenshots.py REPORT.html, where Chromium and playwright are installed",
            file=sys.stderr,
        )
        return 2
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        sizes = [take(browser, Path(arguments[0]).resolve().as_uri(), name) for name in SHOTS]
        browser.close()
    return 0 if max(sizes) <= LARGEST else 1


def take(browser: Any, address: str, name: str) -> int:
    """One picture; the bytes it takes."""
    width, dark, first, last = SHOTS[name]
    scheme = "dark" if dark else "light"
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(address)
    top, bottom = page.locator(first).first.bounding_box(), page.locator(last).first.bounding_box()
    margin = 16 if width > 500 else 0
    begin = max(0, top["y"] - margin)
    clip = {"x": 0, "y": begin, "width": width, "height": bottom["y"] + bottom["height"] + 24 - begin}
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path, clip=clip, full_page=True)
    page.close()
    print(f"{path}: {path.stat().st_size} bytes")
    return path.stat().st_size


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
