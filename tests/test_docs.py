"""Every snippet of the documentation runs.

Blocks marked ```python are executed page by page, in order, in one namespace and an empty folder; one whose first line
is a comment with a file's name is written to that file and imported instead. In blocks marked ```console the lines that
begin with `$ windtunnel` are given to the command line, which must succeed; the others are text. What a page leaves to
its reader stands in prepared.py. Blocks marked ```sh or ```text, and those without a mark, are text; but a command line
of ours that stands in them, or in the running text, is one that our own parser takes.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from prepared import PREPARED

from windtunnel import laws
from windtunnel.cli import main, parser

ROOT = Path(__file__).resolve().parents[1]
# What the blocks of a page need beside torch; their own warnings are not ours to mend.
NEEDS = {
    "bridges.md": ("transformers", "accelerate", "lightning", "optuna", "tensorboard"),
    "your-own-model.md": ("transformers",),
}
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.is_file()]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^ *```(.*)\n(?:.*\n)*?^ *```$", re.MULTILINE)
BUILD = ROOT / "docs" / "build.py"
MARKS = {"", "python", "console", "sh", "text"}
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


def code_of(arguments: list[str]) -> int:
    """The exit code of a command line; --version leaves by itself."""
    try:
        return main(arguments)
    except SystemExit as left:
        return int(left.code or 0)


def written_commands(text: str) -> Iterator[tuple[str, bool]]:
    """What follows `windtunnel` in a line of a block, with True, and in the running text's `code`, with False."""
    fenced = "\n".join(found[0] for found in FENCE.finditer(text) if found[1] in ("", "sh", "console", "text"))
    for line in fenced.replace("\\\n", " ").splitlines():
        if found := re.match(r"\s*(?:\$ )?(?:\w+=\S+ )*(?:torchrun .*-m )?windtunnel ((?:-|\w+ |\w+$).*)", line):
            yield found[1], True
    for code in re.findall(r"`(?:\$ )?windtunnel ([^`]+)`", FENCE.sub("", text)):
        yield " ".join(code.split()), False


def arguments_of(command: str) -> list[str]:
    """The words of a command line, without a comment and up to where a shell takes over."""
    words = shlex.split(command, comments=True)
    ends = [at for at, word in enumerate(words) if word in ("||", "&&", "|", ">", "&", ";")]
    return words[: ends[0]] if ends else words


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
def test_every_snippet_of_a_page_runs(page, folder, monkeypatch):
    found = list(blocks(page))
    for library in NEEDS.get(page.name, ()):
        pytest.importorskip(library, reason=f"{page.name} needs {library}: pip install 'windtunnel[bridges]'")
    if any(TRAINS.search(block) for _, _, block in found):
        pytest.importorskip("torch")
    given = PREPARED[page.name](folder, monkeypatch) if page.name in PREPARED else {}
    namespace: dict[str, object] = {"__name__": page.stem, **given}
    for line, mark, block in found:
        named = FILE.match(block)
        if mark == "console":
            for arguments in commands(block):
                assert code_of(arguments) == 0, f"{page.name}:{line + 1}: windtunnel {shlex.join(arguments)}"
        elif named is None:
            run(page, line, block, namespace)
        else:
            (folder / f"{named[1]}.py").write_text(block)
            namespace |= {k: v for k, v in vars(import_module(named[1])).items() if not k.startswith("_")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_mark_that_says_whether_it_runs(page):
    assert {found[1] for found in FENCE.finditer(page.read_text("utf-8"))} <= MARKS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_ours_on_a_page_is_one_that_our_parser_takes(page, capsys):
    for command, whole in written_commands(page.read_text("utf-8")):
        arguments = arguments_of(command)
        try:
            parser(arguments).parse_args(arguments)
        except SystemExit as left:
            said = capsys.readouterr().err.splitlines()[-1:]
            named = not whole and re.search("arguments are required|expected one argument", said[0])  # spoken of alone
            assert not left.code or named, f"{page.name}: windtunnel {command}: {said}"


def test_a_command_that_the_parser_refuses_would_be_seen():
    page = "```sh\nOUT=1 windtunnel run study.py --stroe x  # comment\n```\nand `windtunnel fly` and `windtunnel`\n"
    assert list(written_commands(page)) == [("run study.py --stroe x  # comment", True), ("fly", False)]
    assert arguments_of("score f --once --json || notify") == ["score", "f", "--once", "--json"]
    with pytest.raises(SystemExit):
        parser(["run"]).parse_args(arguments_of("run study.py --stroe x  # comment"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_is_there(page):
    links = LINK.findall(page.read_text("utf-8"))
    written = BUILD.read_text("utf-8")  # what `make docs` writes; test_site.py follows those links
    assert not [link for link in links if not (page.parent / link).exists() and f'"{link}"' not in written]


def test_every_law_is_on_the_page_of_laws():
    page = (ROOT / "docs" / "laws.md").read_text("utf-8")
    forms = [name for name in laws.__all__ if hasattr(getattr(laws, name), "terms") and name != "Law"]
    prose: dict[str, str] = {"AnnealingArea": "annealing area", "MultiPower": "multi-power law"}
    assert len(forms) > 15
    assert not [name for name in forms if prose.get(name, f"`{name}`") not in page]


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
