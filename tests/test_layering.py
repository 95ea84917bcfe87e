"""Imports point downward. Each room says which rooms below it may be imported; the tests read every import with ast."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "windtunnel"

GROUND = (
    "errors",
    "ladder",
    "notebook",
    "instructions",
    "libraries",
    "trees",
    "cells",
    "written",
    "meaning",
    "recipe",
    "runs",
    "files",
    "likeness",
    "places",
    "remote",
    "records",
    "index",
    "store",
)
EVIDENCE = ("laws", "forecasts", "report")
MAKING = ("scaling", "curvature", "parts", "ideas", "train", "launch")

# A room may import itself and these; `public` is the package's own face, windtunnel/__init__.py.
BELOW: dict[str, tuple[str, ...]] = {
    **{room: GROUND[:height] for height, room in enumerate(GROUND)},
    **{room: GROUND + EVIDENCE[:height] for height, room in enumerate(EVIDENCE)},
    "worlds": (*GROUND, "laws"),
    "fair": (*GROUND, *EVIDENCE),  # methods compared by what they took; foretells nothing
    "scaling": GROUND,
    "curvature": (*GROUND, "scaling"),
    "parts": (*GROUND, "scaling"),
    "ideas": (*GROUND, "scaling", "parts", "public"),  # an idea is written as a user writes it
    "train": (*GROUND, "scaling"),  # and no part by name
    "launch": (*GROUND, "scaling", "train"),
    "tune": GROUND + EVIDENCE + MAKING,
    "transfers": (*GROUND, *EVIDENCE, *MAKING, "tune"),
    "study": (*GROUND, *EVIDENCE, *MAKING, "tune"),
    "bridge": (*GROUND, *EVIDENCE, *MAKING, "tune"),
    "searches": (*GROUND, *EVIDENCE, *MAKING, "tune"),
    "meta": (*GROUND, *MAKING),
    "conformance": (*GROUND, *MAKING, "tune"),
}
BELOW["cli"] = (*BELOW, "public")
BELOW["__main__"] = ("cli",)
BELOW["public"] = (*BELOW,)

STANDARD_LIBRARY_ONLY = {"errors", "ladder", "notebook"}
WITHOUT_TORCH = {*GROUND, *EVIDENCE, "worlds", "fair"}
ONLY_LAUNCH = (
    "ray",
    "submitit",
    "torch.distributed.run",
    "torch.distributed.launch",
    "torch.distributed.elastic",
    "torchrun",
)


def imports(source: str, module: str = "windtunnel") -> Iterator[str]:
    """Full dotted names that a file imports anywhere but under `if TYPE_CHECKING:`; `module` resolves relative ones."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level or None] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def room_of(name: str) -> str:
    """The room of a dotted name inside the package: windtunnel.laws.fit -> laws, windtunnel.tuned -> public."""
    inside = name.split(".")[1:2]
    return inside[0] if inside and inside[0] in BELOW else "public"


def violations(room: str, source: str, module: str = "windtunnel") -> list[str]:
    """What a file of a room imports and may not, as sentences."""
    found = []
    for name in imports(source, module):
        top = name.split(".")[0]
        if top == "windtunnel" and room_of(name) not in (room, *BELOW[room]):
            found.append(f"{room} imports {name}, which is not below it")
        if top not in ("windtunnel", *_standard_library()) and room in STANDARD_LIBRARY_ONLY:
            found.append(f"{room} imports {name}; it uses the standard library only")
        if top == "torch" and room in WITHOUT_TORCH:
            found.append(f"{room} imports {name}; it must work without torch")
        if room != "launch" and any(name == no or name.startswith(no + ".") for no in ONLY_LAUNCH):
            found.append(f"{room} imports {name}; only launch may")
    return found


def _standard_library() -> frozenset[str]:
    import sys

    return sys.stdlib_module_names


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def place(path: Path) -> tuple[str, str]:
    """Room and module name of a file of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    room = parts[0] if parts != ("__init__",) else "public"
    return room, ".".join(["windtunnel", *parts])


def test_every_file_is_in_a_room_of_the_house():
    assert files() and not [str(path) for path in files() if place(path)[0] not in BELOW]


def test_imports_point_downward():
    found = []
    for path in files():
        room, module = place(path)
        found += [f"{path.relative_to(PACKAGE)}: {said}" for said in violations(room, path.read_text("utf-8"), module)]
    assert not found, "\n".join(found)


def test_the_face_of_the_package_imports_nothing_heavy_by_name():
    heavy = {"torch", "pandas", "matplotlib", "scipy", "sklearn"}
    face = PACKAGE / "__init__.py"
    source = face.read_text("utf-8") if face.exists() else ""
    assert not heavy & {name.split(".")[0] for name in imports(source)}


@pytest.mark.parametrize(
    "room,source",
    [
        ("laws", "import torch"),
        ("report", "def draw():\n    from torch import nn"),
        ("forecasts", "from windtunnel.parts.data import text"),
        ("laws", "from windtunnel import scaling"),
        ("laws", "from windtunnel.forecasts.interval import Interval"),
        ("parts", "import windtunnel.laws.fitting"),
        ("ideas", "from windtunnel.forecasts import Forecast"),
        ("train", "if True:\n    from windtunnel.parts.optimizers.adamw import AdamW"),
        ("train", "from importlib import import_module\nimport_module('windtunnel.parts.data')"),
        ("scaling", "from windtunnel.parts import models"),
        ("store", "from windtunnel import Study"),
        ("recipe", "from windtunnel.runs import Run"),
        ("ladder", "import numpy as np"),
        ("tune", "from windtunnel.study import Study"),
        ("study", "from windtunnel.bridge import adopt"),
        ("study", "import ray"),
        ("study", "def f():\n    import submitit"),
        ("train", "from torch.distributed.run import main"),
        ("study", "try:\n    from torch.distributed import elastic\nexcept ImportError:\n    pass"),
    ],
)
def test_the_checker_catches_a_forbidden_import(room, source):
    assert len(violations(room, source)) == 1


def test_the_checker_resolves_relative_imports():
    assert violations("laws", "from ..forecasts import interval", "windtunnel.laws.fitting")
    assert violations("laws", "from .. import train", "windtunnel.laws.fitting")
    assert not violations("laws", "from .law import Law", "windtunnel.laws.fitting")


@pytest.mark.parametrize(
    "room,source",
    [
        ("recipe", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor"),
        ("store", "import typing\nif typing.TYPE_CHECKING:\n    import torch\nelse:\n    import json"),
        ("ideas", "from windtunnel import tuned"),
        ("launch", "import ray\nfrom windtunnel.train import loop"),
        ("train", "import torch.distributed as dist"),
        ("cli", "import windtunnel\nfrom windtunnel.bridge import importers"),
        ("forecasts", "from windtunnel.laws import fit\nimport scipy.stats"),
    ],
)
def test_the_checker_lets_a_downward_import_through(room, source):
    assert violations(room, source) == []
