"""What a run's record says besides its numbers: versions, and the text of every file its parts were written in."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from windtunnel.meaning import source_of
from windtunnel.recipe import Recipe


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in ("windtunnel", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def written_sources(recipe: Recipe) -> dict[str, str]:
    """File name to text for the parts that are not of an installed library."""
    found: dict[str, str] = {}
    for part in recipe.parts().values():
        for piece in part if isinstance(part, tuple) else (part,):
            source: Any = source_of(piece)
            if source is not None:
                found[source[0]] = source[1]
    return found
