"""The documentation site builds strictly, its links lead somewhere, and no page asks a network for anything."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag

import pytest

import windtunnel as wt
from windtunnel import laws

ROOT = Path(__file__).resolve().parents[1]
for needed in ("zensical", "mkdocstrings_handlers"):
    pytest.importorskip(needed, reason="needs the extra docs: pip install 'windtunnel[docs]'")


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _script()


def strictly(folder: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built strictly outside the repository."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copyfile(ROOT / "zensical.toml", folder / "zensical.toml")
    (folder / "windtunnel").symlink_to(ROOT / "windtunnel")
    build.assemble(folder / "build" / "docs")
    done = strictly(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "site"


class Page(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names.add(given.get("id") or "")
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif tag in ("script", "img", "iframe", "source", "link") and given.get("rel") not in (
            "canonical",
            "prev",
            "next",
        ):
            self.loads.append(given.get("src") or given.get("href") or "")


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html") if file.name != "404.html"}


def test_every_page_is_in_the_navigation_and_every_link_leads_to_a_page_and_a_place_on_it(site, pages):
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").glob("*.md")}
    generated = {Path(name).with_suffix(".html") for name in build.generated()}
    assert {file.relative_to(site) for file in pages} == written | generated
    broken = []
    for file, page in pages.items():
        for link in page.links:
            where, place = urldefrag(unquote(link))
            if not where.startswith(("http://", "https://", "mailto:")):
                target = (file.parent / where).resolve() if where else file
                if not target.exists() or (place and target in pages and place not in pages[target].names):
                    broken.append((file.name, link))
    assert not broken
    start = site / "index.html"
    reached = {(site / urldefrag(link)[0]).resolve() for link in pages[start].links} | {start}
    assert {file.resolve() for file in pages} <= reached


def test_no_page_loads_anything_from_a_network(site, pages):
    assert not [(file.name, load) for file, page in pages.items() for load in page.loads if "//" in load]
    local = [
        (file, load) for file, page in pages.items() for load in page.loads if load and not load.startswith("data:")
    ]
    assert len(local) > 100 and not [(file.name, load) for file, load in local if not (file.parent / load).exists()]
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text("utf-8")), style.name


def test_the_api_shows_every_public_name(pages):
    shown = set().union(*(page.names for file, page in pages.items() if file.parent.name == "api"))
    assert not [name for name, home in wt._HOME.items() if f"{home}.{name}" not in shown]
    assert not [name for name in dir(wt.bridge) if f"windtunnel.bridge.{name}" not in shown]


def test_every_law_and_every_rule_is_on_its_page_with_a_source():
    pages = build.generated()
    forms = [name for name in laws.__all__ if hasattr(getattr(laws, name), "terms") and name != "Law"]
    rows = {
        row.split("|")[1].strip(" `"): row for row in pages["laws-sources.md"].splitlines() if row.startswith("| `")
    }
    assert len(forms) > 15 and set(rows) == set(forms)
    assert all(row.split("|")[-2].strip() for row in rows.values())
    rules = [path.stem for path in (ROOT / "windtunnel" / "scaling" / "rules").glob("[a-z]*.py")]
    assert len(rules) > 8 and all(f"## `{rule}`\n" in pages["rules-sources.md"] for rule in rules)
    assert "2203.03466" in pages["rules-sources.md"]


SMALL = '[project]\nsite_name = "small"\ndocs_dir = "docs"\n[project.theme]\nfont = false\n'


@pytest.mark.parametrize(
    "link,sound", [("other.md", True), ("other.md#here", True), ("nowhere.md", False), ("other.md#nowhere", False)]
)
def test_a_broken_link_fails_the_strict_build(tmp_path, link, sound):
    (tmp_path / "docs").mkdir()
    (tmp_path / "zensical.toml").write_text(SMALL)
    (tmp_path / "docs" / "index.md").write_text(f"# One\n\n[to the other]({link})\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## Here\n")
    assert (strictly(tmp_path).returncode == 0) == sound
