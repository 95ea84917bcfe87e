"""What a part means: its syntax tree without comments and docstrings, and those of the names it leans on.

The key of a run is built from meanings, so rewording a docstring or moving a file never retrains and a changed constant
does. A newcomer would expect the file's text to be hashed; it is not. Names are followed inside the part's own module
and, through imports, into other modules that are not installed libraries; libraries count by their import alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from windtunnel.errors import InputError

_DIGEST = 16


def name_of(part: Any) -> str:
    """What a part is called: a function by its name, another by its class."""
    return str(getattr(part, "__name__", type(part).__name__))


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
        held = {f.name: describe(getattr(thing, f.name)) for f in fields(thing) if f.compare}
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


def identity(described: Any) -> list[str]:
    """Every meaning and data fingerprint in a description, in order: what the code and data were."""
    if isinstance(described, dict):
        own = [str(described[k]) for k in ("meaning", "fingerprint") if k in described]
        return own + [found for key in sorted(described) for found in identity(described[key])]
    return [found for item in described for found in identity(item)] if isinstance(described, list) else []


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
    if isinstance(node, ast.Import | ast.ImportFrom):
        _follow_import(name, node, module, seen)
        return
    if node is None:
        return
    # the tree alone identifies: renaming a part, or moving it to another file, does not change what it means
    tree = ast.dump(node)
    label = hashlib.sha256(tree.encode()).hexdigest()[:_DIGEST]
    if label in seen:
        return
    seen[label] = tree
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            _follow(inner.id, module, seen)
        elif isinstance(inner, ast.Attribute):
            _follow_attribute(inner, module, seen)
        elif isinstance(inner, ast.Import | ast.ImportFrom):  # an import inside a function
            for alias in inner.names:
                _follow_import(alias.asname or alias.name, inner, module, seen)


def _follow_attribute(node: ast.Attribute, module: ModuleType, seen: dict[str, str]) -> None:
    """Follow `package.module.function`: the first attribute that is not itself a module."""
    path = [node.attr]
    root = node.value
    while isinstance(root, ast.Attribute):
        path.insert(0, root.attr)
        root = root.value
    held = getattr(module, root.id, None) if isinstance(root, ast.Name) else None
    for attribute in path:
        if not isinstance(held, ModuleType) or _is_library(held):
            return
        inside = getattr(held, attribute, None)
        if not isinstance(inside, ModuleType):
            _follow(attribute, held, seen)
            return
        held = inside


def _follow_import(name: str, node: ast.Import | ast.ImportFrom, module: ModuleType, seen: dict[str, str]) -> None:
    """Follow an imported name into the file that defines it; a library's counts by its name."""
    alias = next((a for a in node.names if (a.asname or a.name) == name or a.name.split(".")[0] == name), None)
    if alias is None:
        return
    if isinstance(node, ast.Import):
        seen[f"import {alias.name}"] = ""
        return
    source = importlib.util.resolve_name("." * node.level + (node.module or ""), module.__package__ or "")
    origin = sys.modules.get(source)
    held = getattr(origin, alias.name, None)
    if inspect.isclass(held) or inspect.isroutine(held):
        origin = inspect.getmodule(held) or origin  # where it is defined, not where it is passed on
    if origin is None or _is_library(origin) or isinstance(held, ModuleType):
        seen[f"from {source} import {alias.name}"] = ""
    elif origin is not module:
        _follow(getattr(held, "__name__", alias.name) if held is not None else alias.name, origin, seen)


@cache
def _definitions(module: ModuleType) -> dict[str, ast.AST]:
    """Top-level name to syntax tree, docstrings removed; what stands under `if` or `try` counts as top level."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):
        return {}
    found: dict[str, ast.AST] = {}
    for node in _top_level(tree.body):
        _strip_docstrings(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found[node.name] = node
            node.name = "_"
        elif isinstance(node, ast.Assign):
            found |= {n.id: node for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.split(".")[0]: node for alias in node.names}
    return found


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            inner = [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            yield from _top_level(inner + [s for h in getattr(node, "handlers", []) for s in h.body])


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
    if not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return True  # the user's own, or of the system below a virtual environment: sysconfig names only the innermost
    libraries = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.is_relative_to(folder) for folder in libraries)
