"""What the files of the user's own modules say of a name: its syntax tree and those of all that it leans on.

Names are followed inside their module and, through imports, into others that are no installed libraries. Read once for
each import of a module: what was only written to the disk since is not what runs. A newcomer would call `cache`: a
module that is imported anew is the same object, with another `__spec__`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import tokenize
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Number
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from windtunnel.instructions import reads
from windtunnel.libraries import is_library

Read = set[tuple[ModuleType, str]]  # the names of modules that were read
_DIGEST = 16
Told = TypeVar("Told")


def short(text: str) -> str:
    """A short hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]


def followed(module: ModuleType, names: Iterable[str]) -> tuple[dict[str, str], frozenset[tuple[ModuleType, str]]]:
    """The trees of names of a module and of all that they lean on, and where each stands."""
    seen: dict[str, str] = {}
    read: set[tuple[ModuleType, str]] = set()
    for name in names:
        _follow(name, module, seen, read)
    return seen, frozenset(read)


def _follow(name: str, module: ModuleType, seen: dict[str, str], read: Read) -> None:
    """Record the tree of `name` in `module` and of everything it refers to."""
    node = definitions(module).get(name)
    if isinstance(node, ast.Import | ast.ImportFrom):
        if (module, name) not in read:
            read.add((module, name))
            _follow_import(name, node, module, seen, read)
        return
    if node is None:
        return
    if (module, name) in read:
        return
    read.add((module, name))
    # the tree alone identifies: renaming a part, or moving it to another file, does not change what it means
    tree = ast.dump(node)
    seen[short(tree)] = tree
    if module.__name__ == "__main__":
        seen.update(_computed(node, module))
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            _follow(inner.id, module, seen, read)
        elif isinstance(inner, ast.Attribute):
            _follow_attribute(inner, module, seen, read)
        elif isinstance(inner, ast.Import | ast.ImportFrom):  # an import inside a function
            for alias in inner.names:
                _follow_import(alias.asname or alias.name, inner, module, seen, read)


def _computed(node: ast.stmt, module: ModuleType) -> Iterator[tuple[str, str]]:
    """The globals of a script that a definition reads, by value, where they are numbers that no constant says."""
    for name, *attributes in reads(compile(ast.Module([node], []), "<definition>", "exec")):
        value, told = vars(module).get(name), definitions(module).get(name)
        if isinstance(value, Namespace):
            held = {each: found for each, found in vars(value).items() if each in attributes[:1] or not attributes}
            yield from (
                (f"value {name}.{n}", repr(v)) for n, v in held.items() if isinstance(v, bool | int | float | str)
            )
        elif _is_number(value) and (told is None or not _is_constant(told)):
            yield f"value {name}", repr(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) or (isinstance(value, tuple) and all(map(_is_number, value)))


def _is_constant(node: ast.AST) -> bool:
    """Whether an assignment gives what its text says, and the globals in it, which are followed themselves."""
    unsure = ast.Call | ast.Attribute | ast.Subscript | ast.Await | ast.Import | ast.ImportFrom | ast.comprehension
    return not any(isinstance(inner, unsure) for inner in ast.walk(node))


def _follow_attribute(node: ast.Attribute, module: ModuleType, seen: dict[str, str], read: Read) -> None:
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
            _follow(attribute, held, seen, read)
            return
        held = inside


def _follow_import(
    name: str,
    node: ast.Import | ast.ImportFrom,
    module: ModuleType,
    seen: dict[str, str],
    read: Read,
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
        _follow(getattr(held, "__name__", alias.name) if held is not None else alias.name, origin, seen, read)


def imported(module: ModuleType) -> Any:
    """What stands for one import of a module: another after a reload. None for `__main__`, which a debugger empties."""
    return getattr(module, "__spec__", None)


def text_of(module: ModuleType) -> str:
    """The text of a module's file, in the encoding that it says; empty where there is none."""
    file = str(getattr(module, "__file__", None) or "")
    if not Path(file).is_file():
        return ""
    with tokenize.open(file) as source:
        return source.read()


def once_an_import(read: Callable[[ModuleType], Told]) -> Callable[[ModuleType], Told]:
    """What is read of a module, kept as when it was first asked for, or first after the module was imported anew."""
    known: dict[ModuleType, tuple[Any, Told]] = {}

    def kept(module: ModuleType) -> Told:
        if module not in known or known[module][0] is not imported(module):
            known[module] = imported(module), read(module)
        return known[module][1]

    return kept


@once_an_import
def definitions(module: ModuleType) -> dict[str, ast.stmt]:
    """Top-level name to syntax tree, docstrings removed; what stands under `if` or `try` counts as top level."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):
        return {}
    found: dict[str, ast.stmt] = {}
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
