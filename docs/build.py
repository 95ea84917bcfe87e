"""`make docs`: assemble build/docs and build the site in build/site, strictly; a broken link fails it.

What stands in docs/ is copied; pages that would drift if somebody wrote them by hand are written here from what they
speak of: rules and laws with their sources, the API, the changes, the notebooks. None of those is committed. It needs
the extra `docs` and no torch: rules and ideas are read as text.
"""

from __future__ import annotations

import ast
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import windtunnel as wt
from windtunnel import laws

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "windtunnel"
SUFFIXES = {".md", ".png", ".css", ".ipynb"}  # notebooks are linked to as they are, beside their pages
# The pages of the API: name of the page, title, the rooms whose public names it holds (windtunnel/__init__.py).
API = {
    "study": ("Study and ladder", ("study", "tune", "transfers", "ladder", "runs", "store", "errors", "fair")),
    "recipe": ("Recipe and parts", ("recipe",)),
    "laws": ("Laws", ("laws",)),
    "forecasts": ("Forecasts and verdicts", ("forecasts",)),
    "scaling": ("Rules and checks", ("scaling.adopt",)),
    "bridge": ("Bridges", ()),
    "ideas": ("Ideas", ()),
}
ROOMS = {
    "recipe": ("windtunnel.parts.recipes", "windtunnel.parts.data"),
    "scaling": ("windtunnel.scaling.checks",),
    "bridge": ("windtunnel.bridge",),
    "ideas": ("windtunnel.ideas",),
    "study": ("windtunnel.searches",),
}


def main() -> int:
    """Assemble and build; the exit code of the strict build."""
    out = ROOT / "build" / "docs"
    assemble(out)
    built = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT, check=False)
    if built.returncode == 0:
        print(f"site: {ROOT / 'build' / 'site' / 'index.html'}")
    return built.returncode


def assemble(out: Path) -> None:
    """Copy docs/ to a folder and write the generated pages beside; what was there is removed."""
    shutil.rmtree(out, ignore_errors=True)
    for path in sorted(p for p in (ROOT / "docs").rglob("*") if p.suffix in SUFFIXES):
        (out / path.relative_to(ROOT / "docs")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / path.relative_to(ROOT / "docs"))
    for name, text in generated().items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, "utf-8")


def generated() -> dict[str, str]:
    """Text of every page that is written from the code, by its place below docs/."""
    pages = {"rules-sources.md": rules_page(), "laws-sources.md": laws_page(), "api/index.md": api_index()}
    pages["changes.md"] = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for name, (title, _) in API.items():
        pages[f"api/{name}.md"] = api_page(name, title)
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{notebook.stem}.md"] = notebook_page(json.loads(notebook.read_text("utf-8")))
    return pages


# rules and laws


def rules_page() -> str:
    """Every file of windtunnel/scaling/rules: what it decides and where it comes from, in its own words."""
    said = "\n".join(_module_section(path) for path in sorted((PACKAGE / "scaling" / "rules").glob("[a-z]*.py")))
    return (
        "# Rules with their sources\n\nHow a value follows when a model grows, one cited rule a file of "
        "`windtunnel/scaling/rules/`: the first words of each file and its public names, written from the files at "
        "build time. Numbers like 2203.03466 are arXiv's. What each rule does to each tensor, and how it is held "
        f"against two oracles: [how values follow](scaling.md).\n\n{said}"
    )


def _module_section(path: Path) -> str:
    tree = ast.parse(path.read_text("utf-8"))
    public = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and not n.name.startswith("_")]
    rows = "\n".join(f"| `{n.name}` | {_cell((ast.get_docstring(n) or '').split(chr(10) * 2)[0])} |" for n in public)
    table = f"\n\n| name | says |\n|---|---|\n{rows}\n" if public else "\n"
    return f"## `{path.stem}`\n\n{ast.get_docstring(tree) or ''}{table}"


def laws_page() -> str:
    """Every law of wt.laws with its parameters, their bounds, and its source."""
    rows = "\n".join(_law_row(name, getattr(laws, name)) for name in sorted(laws.__all__) if _is_law(name))
    return (
        "# Laws with their sources\n\nWritten from the forms themselves at build time; [the laws](laws.md) says which "
        "are tried when, and what each is for. Bounds are those of the search, linear parameters first.\n\n"
        f"| law | reads | parameters and bounds | source |\n|---|---|---|---|\n{rows}\n"
    )


def _is_law(name: str) -> bool:
    return inspect.isclass(getattr(laws, name)) and hasattr(getattr(laws, name), "terms") and name != "Law"


def _law_row(name: str, form: Any) -> str:
    try:
        law = form()
    except TypeError:
        return (
            f"| `{name}` | as asked | {_cell(inspect.getdoc(form) or '')} | {_cell(str(getattr(form, 'source', '')))} |"
        )
    bounds = ", ".join(f"{n} {low:g} to {high:g}" for n, (low, high) in zip(law.names, law.bounds, strict=True))
    return f"| `{name}` | {', '.join(law.columns)} | {_cell(bounds)} | {_cell(law.source)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# the API


def api_index() -> str:
    """The public names, each linked to its page."""
    lines = [
        f"- [{title}]({name}.md): {', '.join(f'`{each.rsplit(chr(46), 1)[-1]}`' for each in names_of(name))}"
        for name, (title, _) in API.items()
    ]
    said = "\n".join(lines)
    return (
        f"# API\n\nWritten from the docstrings. The names of `import windtunnel as wt` are resolved when they are "
        f"first used; a test freezes them.\n\n{said}\n"
    )


def api_page(name: str, title: str) -> str:
    """A page that asks mkdocstrings for each name."""
    asked = "\n\n".join(f"::: {each}" for each in names_of(name))
    return f"# {title}\n\n{asked}\n"


def names_of(page: str) -> list[str]:
    """Full dotted names of what a page of the API holds."""
    own = [f"{wt._HOME[name]}.{name}" for name in wt.__all__ if name in wt._HOME]
    rooms = [f"windtunnel.{room}" for room in API[page][1]]
    found = [name for name in own if name.rsplit(".", 1)[0] in rooms]
    return found + [f"{room}.{name}" for room in ROOMS.get(page, ()) for name in _all_of(room)]


def _all_of(room: str) -> Sequence[str]:
    """The names in a room's __all__, read without importing it; all that it tells of where code makes that."""
    file = ROOT / Path(*room.split("."))
    body = ast.parse((file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).read_text("utf-8")).body
    stated = [n.value for n in body if isinstance(n, ast.Assign | ast.AugAssign) and _assigns(n) == "__all__"]
    if stated and all(isinstance(value, ast.List) for value in stated):
        return [name for value in stated for name in ast.literal_eval(value)]
    if stated:  # made by code, in a room whose import is cheap
        return dir(import_module(room))
    return [n.name for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and not n.name.startswith("_")]


def _assigns(node: ast.Assign | ast.AugAssign) -> str:
    return ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


# notebooks


def notebook_page(notebook: dict[str, Any]) -> str:
    """An executed notebook as Markdown: its words, its code, and what came of it."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _cell_parts(cell)) + "\n"


def _cell_parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell.get("outputs", []):
        data = output.get("data", {"text/plain": output.get("text", "")})
        if "text/html" in data:
            yield f'<div class="output">{"".join(data["text/html"])}</div>'
        else:
            yield f"```text\n{''.join(data.get('text/plain', '')).rstrip()}\n```"


if __name__ == "__main__":
    sys.exit(main())
