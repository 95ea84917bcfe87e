"""Every snippet of the documentation runs.

Blocks marked ```python are executed page by page, in order, in one namespace and an empty folder; one whose first line
is a comment with a file's name is written to that file and imported instead. Other marks (```python no-run) are text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.is_file()]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+)\.py\n")


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """Line of the page and text of every block that is to be executed."""
    text = page.read_text("utf-8")
    for found in BLOCK.finditer(text):
        yield text[: found.start(1)].count("\n"), found[1]


def run(page: Path, line: int, block: str, namespace: dict[str, object]) -> None:
    """Execute a block as if it stood in the page, so that an error names the page's line."""
    exec(compile("\n" * line + block, str(page), "exec"), namespace)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder whose files can be imported, and are forgotten afterwards."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_snippet_of_a_page_runs(page, folder):
    namespace: dict[str, object] = {"__name__": page.stem}
    for line, block in blocks(page):
        named = FILE.match(block)
        if named is None:
            run(page, line, block, namespace)
        else:
            (folder / f"{named[1]}.py").write_text(block)
            namespace |= {k: v for k, v in vars(import_module(named[1])).items() if not k.startswith("_")}


def test_a_page_that_fails_names_its_own_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\nraise KeyError(x)\n```\n\n```\nnot python\n```\n")
    ((line, block),) = blocks(page)
    with pytest.raises(KeyError) as caught:
        run(page, line, block, {})
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno + 1) == (page, 5)
