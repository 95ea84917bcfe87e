"""What a part means: its syntax tree without comments and docstrings, and those of the names it leans on.

The key of a run is built from meanings, so rewording a docstring or moving a file never retrains and a changed constant
does. A newcomer would expect the file's text to be hashed; it is not. Names are followed inside the part's own module
and, through imports, into other modules that are not installed libraries; libraries count by their import alone.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import sysconfig
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from windtunnel.errors import InputError

_DIGEST = 16


def describe(thing: Any) -> Any:
    """`thing` as plain data that can be hashed: numbers and text as they are, parts as name, fields and meaning."""
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, tuple | list):
        return [describe(item) for item in thing]
    if isinstance(thing, dict):
        return {str(key): describe(value) for key, value in sorted(thing.items(), key=lambda pair: str(pair[0]))}
    if isinstance(thing, Path):
        return str(thing)
    if isinstance(thing, partial):
        return {"is": "partial", "of": describe(thing.func), "with": [describe(thing.args), describe(thing.keywords)]}
    if inspect.isclass(thing) or inspect.isroutine(thing):
        return {"is": thing.__qualname__, "meaning": meaning(thing)}
    if is_dataclass(thing):
        held = {f.name: describe(getattr(thing, f.name)) for f in fields(thing) if f.repr}
        return {"is": type(thing).__qualname__, "fields": held, "meaning": meaning(type(thing))}
    raise InputError(
        f"{thing!r} (a {type(thing).__name__}) cannot be part of a run's key; a part is a frozen dataclass, a function "
        f"or a class, and its fields are numbers, text, tuples or parts."
    )


@cache
def meaning(thing: Any) -> str:
    """Hash of what a class or function does: its own source and that of every name it leans on."""
    if _is_library(inspect.getmodule(thing)):
        return f"{thing.__module__}.{thing.__qualname__}"
    seen: dict[str, str] = {}
    _follow(thing.__qualname__.split(".")[0], _module_of(thing), seen)
    text = "\n".join(f"{name}:{tree}" for name, tree in sorted(seen.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]


def source_of(thing: Any) -> tuple[str, str] | None:
    """File name and text of the module that defines a part, or None for an installed library's."""
    cls = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    module = inspect.getmodule(cls)
    if module is None or _is_library(module) or not getattr(module, "__file__", None):
        return None
    return module.__name__ + ".py", Path(str(module.__file__)).read_text("utf-8")


def _module_of(thing: Any) -> ModuleType:
    module = inspect.getmodule(thing)
    if module is None or "<locals>" in thing.__qualname__ or thing.__name__ == "<lambda>":
        raise InputError(
            f"{thing.__qualname__} is defined inside a function, so what it means cannot be read from a file; define "
            f"it at the top level of a module."
        )
    return module


def _follow(name: str, module: ModuleType, seen: dict[str, str]) -> None:
    """Record the tree of `name` in `module` and of everything it refers to."""
    node = _definitions(module).get(name)
    if node is None:
        return
    # the tree alone identifies: moving a definition to another file does not change what it means
    label = f"{name}#{hashlib.sha256(ast.dump(node).encode()).hexdigest()[:_DIGEST]}"
    if label in seen:
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        if not _follow_import(name, node, module, seen):
            seen[label] = ""  # a library's: its name is what it means
        return
    seen[label] = ast.dump(node)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            _follow(inner.id, module, seen)
        elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
            held = getattr(module, inner.value.id, None)  # a sibling module used as `module.function`
            if isinstance(held, ModuleType) and not _is_library(held):
                _follow(inner.attr, held, seen)


def _follow_import(name: str, node: ast.Import | ast.ImportFrom, module: ModuleType, seen: dict[str, str]) -> bool:
    """Follow an imported name into the file that defines it; False for what belongs to a library."""
    held = getattr(module, name, None)
    origin = inspect.getmodule(held) if inspect.isclass(held) or inspect.isroutine(held) else None
    if origin is None and isinstance(node, ast.ImportFrom):  # a constant: look into the module it came from
        base = "." * node.level + (node.module or "")
        origin = sys.modules.get(base.lstrip(".") if not node.level else f"{module.__package__}.{node.module}")
    if origin is None or origin is module or _is_library(origin):
        return False
    alias = next((a.name for a in node.names if (a.asname or a.name) == name), name)
    _follow(getattr(held, "__name__", alias) if held is not None else alias, origin, seen)
    return True


@cache
def _definitions(module: ModuleType) -> dict[str, ast.AST]:
    """Top-level name to syntax tree, docstrings removed."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):
        return {}
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        _strip_docstrings(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {n.id: node for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0]: node for alias in node.names}
    return found


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]


@cache
def _is_library(module: ModuleType | None) -> bool:
    """Installed libraries and the standard library count by name; our own engine counts by its version number."""
    if module is None or not getattr(module, "__file__", None):
        return True
    name, path = module.__name__, Path(str(module.__file__)).resolve()
    if name.split(".")[0] == "windtunnel":
        return not name.startswith(("windtunnel.parts", "windtunnel.ideas", "windtunnel.scaling.rules"))
    libraries = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.is_relative_to(folder) for folder in libraries)
