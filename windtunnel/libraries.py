"""What counts by its name alone: installed libraries, the standard library, our own engine. All else is the user's."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

_WRITTEN_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE: or in C as if it were


@cache
def is_library(module: ModuleType | None) -> bool:
    """Installed libraries and the standard library count by name; our own engine counts by its version number."""
    if module is None or not getattr(module, "__file__", None):
        return True
    name = module.__name__
    if name.split(".")[0] == "windtunnel":
        return not name.startswith(("windtunnel.parts", "windtunnel.ideas", "windtunnel.scaling.rules"))
    return _is_installed(str(module.__file__))


def _is_installed(file: str) -> bool:
    path = Path(file).resolve()
    if not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return True  # the user's own, or of the system below a virtual environment: sysconfig names only the innermost
    libraries = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.is_relative_to(folder) for folder in libraries)


def is_own(module: ModuleType) -> bool:
    """Whether a module is the user's: a file, a folder of files without `__init__.py`, or a notebook itself."""
    if type(module) is not ModuleType:  # as torch.ops, whose `__file__` is none
        return False
    folders = list(getattr(module, "__path__", ()))
    if not getattr(module, "__file__", None):
        spec = getattr(module, "__spec__", None)
        return spec is None if not folders else not _is_installed(folders[0])
    return not is_library(module)


def is_followed(module: ModuleType) -> bool:
    """Whether what a module holds counts by what it does: the user's, and our parts."""
    return is_own(module) or not is_library(module)


def name_in_library(thing: Any) -> str | None:
    """Where an installed library has a class or function under its own name; None for anything else."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    if isinstance(thing, type) and not thing.__flags__ & _WRITTEN_IN_PYTHON:  # as types.NoneType, which has no place
        return f"{module}.{name}"
    home = sys.modules.get(module)
    return f"{module}.{name}" if home is not None and not is_followed(home) and found_in(home, name) is thing else None


def found_in(module: ModuleType, name: str) -> Any:
    """What stands in a module under a dotted name, or None."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def own_module(name: str, package: str) -> ModuleType | None:
    """The user's own module of that name, dots before it for a relative one; None for a library's or one not there."""
    full = importlib.util.resolve_name(name, package)
    root = full.split(".")[0]
    if root not in sys.modules:
        spec = importlib.util.find_spec(root)
        places = [*(spec.submodule_search_locations or ()), spec.origin] if spec is not None else []
        if not places or places[0] is None or not Path(places[0]).exists() or _is_installed(places[0]):
            return None
    elif not is_own(sys.modules[root]):
        return None
    try:
        return import_module(full)
    except ImportError:
        return None
