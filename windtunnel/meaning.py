"""What a part means: its syntax tree without comments and docstrings, and those of the names it leans on.

The key of a run is built from meanings, so rewording a docstring or moving a file never retrains and a changed constant
does. A newcomer would expect the file's text to be hashed; it is not. Names are followed inside the part's own module
and, through imports, into other modules that are not installed libraries; libraries count by their import alone. What
no file holds, as a notebook's cell, is read from memory (`cells.py`). Parts of `__main__` are sent to other processes
by value: there `__main__` is another file, so they carry their meaning along.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from uuid import uuid4

from windtunnel.cells import CARRIED, is_generated, is_library, traced
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


def meaning(thing: Any) -> str:
    """Hash of what a class or function does: its own source and that of every name it leans on."""
    carried = _carried(thing)
    if carried is not None:
        return carried["meaning"] if _still(carried["leans on"]) else "changed on disk"
    found, modules = _in_cell(thing) if in_cell(thing) else _in_file(thing)
    if getattr(thing, "__module__", None) == "__main__" and vars(thing).get(CARRIED, {}).get("meaning") != found:
        _carry(thing, found, modules)
    return found


@cache
def _in_file(thing: Any) -> tuple[str, frozenset[ModuleType]]:
    """What is written in files means, and the modules in which that stands; an installed library's is its name."""
    if is_library(inspect.getmodule(thing)):
        return f"{thing.__module__}.{thing.__qualname__}", frozenset()
    seen: dict[str, str] = {}
    modules: set[ModuleType] = set()
    _follow(thing.__qualname__.split(".")[0], _module_of(thing), seen, modules)
    text = "\n".join(f"{name}:{tree}" for name, tree in sorted(seen.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST], frozenset(modules)


def _in_cell(thing: Any) -> tuple[str, frozenset[ModuleType]]:
    """The same of what no file holds, read from memory, now: another cell may have changed what it leans on."""
    _check_named(thing)
    modules: set[ModuleType] = set()

    def held(part: Any) -> str | None:
        if in_cell(part):
            return None
        found, inside = _in_file(part)
        modules.update(inside)
        return found

    text = repr(traced(thing, held, {}))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST], frozenset(modules)


def in_cell(thing: Any) -> bool:
    """Whether a class or function was defined where no file holds it: a notebook, a prompt, `python -c`, `exec`."""
    thing = thing if inspect.isclass(thing) else inspect.unwrap(thing)
    if not isinstance(thing, FunctionType | type):
        return False
    module = inspect.getmodule(thing)
    if module is None:
        return True
    file = str(getattr(module, "__file__", None) or "")
    if not Path(file).is_file():
        return module.__spec__ is None
    if module.__name__ != "__main__":
        return False
    return thing.__qualname__.split(".")[0] not in _definitions(module) or _typed_in(thing, Path(file).name)


def _typed_in(thing: Any, file: str) -> bool:
    """Whether the functions of a part of `__main__` come from a prompt, and none from its file."""
    own = [thing] if isinstance(thing, FunctionType) else vars(thing).values()
    code = [each.__code__ for each in own if isinstance(each, FunctionType) and not is_generated(each)]
    places = {Path(each.co_filename) for each in code}
    return file not in {place.name for place in places} and any(not place.is_file() for place in places)


@cache
def _this_process() -> str:
    return uuid4().hex


def _carry(thing: Any, found: str, modules: frozenset[ModuleType]) -> None:
    """Write on a part of `__main__` what it means, for the processes that it is sent to."""
    others = {module.__name__: _digest(module) for module in modules if module.__name__ != "__main__"}
    carried = {"by": _this_process(), "meaning": found, "leans on": others, "source": source_of(thing)}
    with suppress(AttributeError, TypeError):  # a part that takes no attributes stays here
        setattr(thing, CARRIED, carried)


def _carried(thing: Any) -> dict[str, Any] | None:
    """What the process that sent a part wrote on it; None for a part of this process."""
    found = getattr(thing, "__dict__", {}).get(CARRIED)
    return found if found is not None and found["by"] != _this_process() else None


def _still(digests: Mapping[str, str]) -> bool:
    """Whether modules say here what they said where a part was sent from."""
    return all(_digest(importlib.import_module(name)) == digest for name, digest in digests.items())


def _digest(module: ModuleType) -> str:
    text = "\n".join(f"{name}:{ast.dump(node)}" for name, node in sorted(_definitions(module).items()))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]


def identity(described: Any) -> list[str]:
    """Every meaning and data fingerprint in a description, in order: what the code and data were."""
    if isinstance(described, dict):
        own = [str(described[k]) for k in ("meaning", "fingerprint") if k in described]
        return own + [found for key in sorted(described) for found in identity(described[key])]
    return [found for item in described for found in identity(item)] if isinstance(described, list) else []


def source_of(thing: Any) -> tuple[str, str] | None:
    """File name and text of the module that defines a part; None for an installed library's and what no file holds."""
    cls = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    if (carried := _carried(cls)) is not None:
        return carried["source"]
    module = inspect.getmodule(cls)
    if module is None or is_library(module) or in_cell(cls):
        return None
    return module.__name__ + ".py", Path(str(module.__file__)).read_text("utf-8")


def _module_of(thing: Any) -> ModuleType:
    _check_named(thing)
    module = inspect.getmodule(thing)
    assert module is not None  # else it is a library's
    return module


def _check_named(thing: Any) -> None:
    """Raise InputError for what has no name of its own at the top level."""
    if "<locals>" in thing.__qualname__ or thing.__name__ == "<lambda>":
        what = "a lambda, which has no name" if thing.__name__ == "<lambda>" else "defined inside a function"
        raise InputError(
            f"{thing.__qualname__} is {what}, so what it means cannot be read from a file; define it, with `def` or "
            f"`class`, at the top level of a module."
        )


def _follow(name: str, module: ModuleType, seen: dict[str, str], modules: set[ModuleType]) -> None:
    """Record the tree of `name` in `module` and of everything it refers to."""
    node = _definitions(module).get(name)
    if isinstance(node, ast.Import | ast.ImportFrom):
        _follow_import(name, node, module, seen, modules)
        return
    if node is None:
        return
    modules.add(module)
    # the tree alone identifies: renaming a part, or moving it to another file, does not change what it means
    tree = ast.dump(node)
    label = hashlib.sha256(tree.encode()).hexdigest()[:_DIGEST]
    if label in seen:
        return
    seen[label] = tree
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            _follow(inner.id, module, seen, modules)
        elif isinstance(inner, ast.Attribute):
            _follow_attribute(inner, module, seen, modules)
        elif isinstance(inner, ast.Import | ast.ImportFrom):  # an import inside a function
            for alias in inner.names:
                _follow_import(alias.asname or alias.name, inner, module, seen, modules)


def _follow_attribute(node: ast.Attribute, module: ModuleType, seen: dict[str, str], modules: set[ModuleType]) -> None:
    """Follow `package.module.function`: the first attribute that is not itself a module."""
    path = [node.attr]
    root = node.value
    while isinstance(root, ast.Attribute):
        path.insert(0, root.attr)
        root = root.value
    held = getattr(module, root.id, None) if isinstance(root, ast.Name) else None
    for attribute in path:
        if not isinstance(held, ModuleType) or is_library(held):
            return
        inside = getattr(held, attribute, None)
        if not isinstance(inside, ModuleType):
            _follow(attribute, held, seen, modules)
            return
        held = inside


def _follow_import(
    name: str,
    node: ast.Import | ast.ImportFrom,
    module: ModuleType,
    seen: dict[str, str],
    modules: set[ModuleType],
) -> None:
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
    if origin is None or is_library(origin) or isinstance(held, ModuleType):
        seen[f"from {source} import {alias.name}"] = ""
    elif origin is not module:
        _follow(getattr(held, "__name__", alias.name) if held is not None else alias.name, origin, seen, modules)


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
