"""Every snippet of the documentation runs, and so does every example.

Blocks marked ```python are executed page by page, in order, in one namespace and an empty folder; one whose first line
is a comment with a file's name is written to that file and imported instead. In blocks marked ```console the lines that
begin with `$ windtunnel` are given to the command line, which must succeed; the others are text. Other marks
(```python no-run, ```sh) are text.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from windtunnel import laws
from windtunnel.cli import main

ROOT = Path(__file__).resolve().parents[1]
# What the blocks of a page need beside torch; their own warnings are not ours to mend.
NEEDS = {"bridges.md": ("transformers", "accelerate", "lightning", "optuna", "tensorboard")}
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.is_file()]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+)\.py\n")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")
TRAINS = re.compile(r"windtunnel\.parts|wt\.recipes|^(from|import) torch", re.MULTILINE)


def blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """Line of the page, mark and text of every block that is to be executed."""
    text = page.read_text("utf-8")
    for found in BLOCK.finditer(text):
        yield text[: found.start(2)].count("\n"), found[1], found[2]


def commands(block: str) -> list[list[str]]:
    """The arguments of each `$ windtunnel ...` of a console block; a backslash continues a line."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("$ windtunnel ")]


def run(page: Path, line: int, block: str, namespace: dict[str, object]) -> None:
    """Execute a block as if it stood in the page, so that an error names the page's line."""
    exec(compile("\n" * line + block, str(page), "exec"), namespace)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder whose files can be imported, and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.filterwarnings("ignore")] if p.name in NEEDS else []) for p in PAGES],
    ids=lambda page: page.name,
)
def test_every_snippet_of_a_page_runs(page, folder):
    found = list(blocks(page))
    for library in NEEDS.get(page.name, ()):
        pytest.importorskip(library, reason=f"{page.name} needs {library}: pip install 'windtunnel[bridges]'")
    if any(TRAINS.search(block) for _, _, block in found):
        pytest.importorskip("torch")
    namespace: dict[str, object] = {"__name__": page.stem}
    for line, mark, block in found:
        named = FILE.match(block)
        if mark == "console":
            for arguments in commands(block):
                assert main(arguments) == 0, f"{page.name}:{line + 1}: windtunnel {shlex.join(arguments)}"
        elif named is None:
            run(page, line, block, namespace)
        else:
            (folder / f"{named[1]}.py").write_text(block)
            namespace |= {k: v for k, v in vars(import_module(named[1])).items() if not k.startswith("_")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_is_there(page):
    links = LINK.findall(page.read_text("utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_law_is_on_the_page_of_laws():
    page = (ROOT / "docs" / "laws.md").read_text("utf-8")
    forms = [name for name in laws.__all__ if hasattr(getattr(laws, name), "terms") and name != "Law"]
    prose: dict[str, str] = {"AnnealingArea": "annealing area", "MultiPower": "multi-power law"}
    assert len(forms) > 15
    assert not [name for name in forms if prose.get(name, f"`{name}`") not in page]


@pytest.mark.parametrize("example", [e for e in EXAMPLES if TRAINS.search(e.read_text("utf-8"))], ids=lambda e: e.stem)
def test_every_example_that_trains_runs_and_says_what_came_of_it(example, tmp_path):
    pytest.importorskip("torch")
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, cwd=tmp_path, env=settings)
    assert done.returncode == 0, done.stderr
    assert "better" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if not TRAINS.search(e.read_text("utf-8"))], ids=lambda example: example.stem
)
def test_every_example_runs_without_torch(example, tmp_path):
    program = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_path({str(example)!r}, run_name='__main__')"
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=tmp_path, env=settings
    )
    assert done.returncode == 0, done.stderr
    assert "inside the interval" in done.stdout and "helps" in done.stdout
    assert not list(tmp_path.iterdir())  # an example leaves nothing behind


def test_a_page_that_fails_names_its_own_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\nraise KeyError(x)\n```\n\n```\nnot python\n```\n")
    ((line, _, block),) = blocks(page)
    with pytest.raises(KeyError) as caught:
        run(page, line, block, {})
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno + 1) == (page, 5)


def test_commands_are_found_across_lines_and_other_lines_are_text():
    block = '$ windtunnel fit runs.csv \\\n    --target "params=1e9"\nloss at 1G params\n$ ls\n'
    assert commands(block) == [["fit", "runs.csv", "--target", "params=1e9"]]
