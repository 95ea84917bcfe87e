"""Whether what is in memory is what its file says.

A key says what files say, and worker processes import them. A script that sets `module.SCALE = 2` from outside would
train another model in its own process than in theirs, both under the key of the file. A newcomer would hash the value
in memory: the workers would still not have it.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import operator
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import EnumType
from pathlib import Path
from types import FunctionType, ModuleType, NoneType
from typing import Any

from windtunnel.errors import InputError
from windtunnel.trees import once_an_import, text_of

Plain = bool | int | float | complex | str | bytes | tuple | NoneType
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class _Written:
    """What a file says of a name: a value, or where it is imported from, or a function, or a class with methods and
    plain values."""

    value: str | None = None
    origin: tuple[str, str] | None = None  # module and name
    methods: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    kind: type = object  # FunctionType, type, or object for a value


_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def check_as_written(places: Iterable[tuple[ModuleType, str]]) -> None:
    """Raise InputError for a name of a module that was replaced from outside since its file was imported.

    What the file itself may change is left alone: a counter, a name it binds twice, a list that fills.
    """
    for module, name in places:
        said = None if module.__name__ == "__main__" else _said(module).get(name)
        if said is not None and name in vars(module):
            for path, there, expected in _differing(said, vars(module)[name], name, str(module.__file__)):
                raise InputError(
                    f"{module.__name__}.{path} is {there} in memory and {expected} in {module.__file__}. A run's key "
                    f"says what files say, and workers import them: make what varies a field of the part or an "
                    f"argument (functools.partial), or change the file."
                )


def _differing(said: _Written, held: Any, name: str, file: str) -> Iterator[tuple[str, str, str]]:
    if said.value is not None:
        if repr(held) != said.value:
            yield name, _short(repr(held)), _short(said.value)
    elif said.origin is not None:
        source, there = said.origin
        own = isinstance(held, FunctionType | type) and held.__name__ != there
        if own and getattr(sys.modules.get(source), there, None) is not held:
            yield name, "another object", f"{there} of {source}"
    elif said.kind is FunctionType:
        if not _is_from(held, name, file):
            yield name, "another object", "a function"
    elif isinstance(held, EnumType):
        return
    elif not isinstance(held, type):
        yield name, "another object", "a class"
    else:
        for method in said.methods:
            if not _is_from(vars(held).get(method), method, file):
                yield f"{name}.{method}", "another object", "a method"
        for attribute, value in said.values.items():
            there = vars(held).get(attribute)
            if attribute in vars(held) and isinstance(there, Plain) and repr(there) != value:
                yield f"{name}.{attribute}", _short(repr(there)), _short(value)


def _is_from(held: Any, name: str, file: str) -> bool:
    """Whether a function is the one that a file defines under a name."""
    held = getattr(held, "__func__", held)
    code = getattr(inspect.unwrap(held) if callable(held) else held, "__code__", None)  # metaclasses wrap methods
    return code is not None and code.co_name == name and Path(code.co_filename).name == Path(file).name


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


@once_an_import
def _said(module: ModuleType) -> dict[str, _Written]:
    """By name what a module's file says, of names that are bound once and by nothing but that line."""
    tree, package = ast.parse(text_of(module)), module.__package__ or ""
    bound, nodes = Counter(_bound(tree)), list(ast.walk(tree))
    if bound["*"] or any(map(_binds_any, nodes)):
        return {}  # of what else it binds, the file does not say
    changed = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
    attributes = {n.attr for n in nodes if isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Load)}
    told = [(name, _of(node, attributes)) for node in tree.body for name in _names(node)]
    told += [place for node in tree.body if isinstance(node, ast.ImportFrom) for place in _imports(node, package)]
    return {name: said for name, said in told if said is not None and bound[name] == 1 and name not in changed}


def _binds_any(node: ast.AST) -> bool:
    """Whether with this a file may bind any name: `globals()`, `setattr` of anything but `self`."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    first = node.args[0] if node.args else None
    on_self = isinstance(first, ast.Name) and first.id == "self"
    return node.func.id in ("exec", "globals", "locals") or (node.func.id == "setattr" and not on_self)


def _imports(node: ast.ImportFrom, package: str) -> Iterator[tuple[str, _Written]]:
    with suppress(ImportError):  # beyond the top of a package
        source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            yield alias.asname or alias.name, _Written(origin=(source, alias.name))


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, Function | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _of(node: ast.stmt, changed: set[str]) -> _Written | None:
    """What a statement says of the name that it binds; None where it may be anything."""
    if isinstance(node, Function):
        return None if node.decorator_list else _Written(kind=FunctionType)
    if isinstance(node, ast.ClassDef):
        if node.keywords or not all("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            return None  # a metaclass or a decorator may make of it what it likes
        methods = [item.name for item in node.body if isinstance(item, Function) and not item.decorator_list]
        methods = [name for name in methods if not name.startswith("__") or name in ("__init__", "__call__")]
        values = {name: value for item in node.body if (value := _literal(item)) is not None for name in _names(item)}
        once = {name for name, times in Counter(_bound(node)).items() if times == 1} - changed
        return _Written(
            methods=tuple(name for name in methods if name in once),
            values={name: value for name, value in values.items() if name in once},
            kind=type,
        )
    value = _literal(node)
    return None if value is None else _Written(value=value)


def _literal(node: ast.stmt) -> str | None:
    """The value that an assignment writes out, where it is one that cannot change."""
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        with suppress(ValueError, TypeError, SyntaxError, ArithmeticError, MemoryError, RecursionError):
            value = _computed(node.value)
            return repr(value) if _is_plain(value) else None
    return None


def _computed(node: ast.expr) -> Any:
    """A value that is written out, or a sum, difference, product or ratio of such. Raises ValueError for others."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_number(node.left), _number(node.right))
    return ast.literal_eval(node)


def _number(node: ast.expr) -> int | float:
    value = _computed(node)
    if isinstance(value, int | float):
        return value
    raise ValueError(value)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, Plain)


def _bound(scope: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Every name that a module or class binds in its own scope, as often as it does."""
    waiting: list[ast.AST] = list(scope.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        waiting.extend(ast.iter_child_nodes(node))
