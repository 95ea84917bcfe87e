"""What a user installs: the wheel and the source archive, built as pip builds them and opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import windtunnel as wt

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build may look at, so that nothing is written into the repository."""
    copy = tmp_path_factory.mktemp("tree") / "windtunnel"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "results", "shared")
    shutil.copytree(ROOT, copy, ignore=left_out)
    return copy


def built(tree: Path, kind: str) -> Path:
    """The archive that setuptools makes of the tree: "wheel" or "sdist"."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer, as pyproject.toml says")
    out = tree.parent / kind
    out.mkdir()
    program = [sys.executable, "-c", BUILD.format(kind=kind), str(out)]
    done = subprocess.run(program, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    return built(tree, "wheel")


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as opened:
        return opened.namelist()


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path):
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "windtunnel").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = set(names(wheel))
    assert held - package == {name for name in held if ".dist-info/" in name}
    assert package <= held
    suffixes = {Path(name).suffix for name in package}
    assert {".py", ".jinja", ".css", ".js", ".typed"} <= suffixes


def test_the_wheel_says_our_version_and_every_extra(wheel: Path):
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        said = Parser().parsestr(opened.read(metadata).decode())
        (scripts,) = [name for name in opened.namelist() if name.endswith("entry_points.txt")]
        assert "windtunnel = windtunnel.cli:main" in opened.read(scripts).decode()
    assert said["Version"] == wt.__version__ == PROJECT["version"]
    assert set(said.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert said["License-Expression"] == "Apache-2.0"


def test_the_wheel_alone_draws_a_page(wheel: Path, tmp_path: Path):
    """The package is the wheel's, not the repository's: a template or style that it forgot would be missing here."""
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(place)
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from windtunnel.report import page\n"
        "assert page.__file__.startswith(sys.argv[1])\n"
        "from test_report import example\n"
        "page.write(example(('an_idea',)), 'page.html')\n"
    )
    asked = [sys.executable, "-c", program, str(place), str(ROOT / "tests")]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, env=without_path(), check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "runs-search" in page and "prefers-color-scheme: dark" in page  # the script and the style are in it


def without_path() -> dict[str, str]:
    """This environment, but what it says of where Python looks."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_the_source_archive_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path):
    archive = built(tree, "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert not any((source / folder).exists() for folder in ("tests", "benchmarks", "studies", "docs"))
    assert sorted(names(built(source, "wheel"))) == sorted(names(wheel))


def test_the_readme_names_every_extra_in_a_sentence():
    text = (ROOT / "README.md").read_text("utf-8")
    missing = [extra for extra in PROJECT["optional-dependencies"] if f"\n| `{extra}` | " not in text]
    assert not missing
