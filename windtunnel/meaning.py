"""What a part means: its syntax tree without comments and docstrings, and those of the names it leans on.

The key of a run is built from meanings, so rewording a docstring or moving a file never retrains and a changed constant
does. A newcomer would expect the file's text to be hashed; it is not. Names are followed inside the part's own module
and, through imports, into other modules that are not installed libraries; libraries count by their import alone. What
no file holds, as a notebook's cell, is read from memory (`cells.py`). Parts of `__main__` are sent to other processes
by value: there `__main__` is another file, so they carry their meaning along. A script may compute its globals from its
arguments, so a number that no constant expression gives counts by its value there.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from uuid import uuid4

from windtunnel.cells import CARRIED, Tracer, is_generated
from windtunnel.errors import InputError
from windtunnel.libraries import found_in, is_library
from windtunnel.trees import definitions, followed, imported, short, text_of
from windtunnel.written import check_as_written

ON_DISK = "changed on disk"  # the meaning of a part whose helpers say another thing than where it was sent from


def name_of(part: Any) -> str:
    """What a part is called: a function by its name, another by its class."""
    return str(getattr(part, "__name__", type(part).__name__))


def title(thing: Any) -> str:
    """The name under which a part is described. Raises InputError for what is none."""
    if isinstance(thing, partial):
        return "partial"
    if inspect.isclass(thing) or inspect.isroutine(thing):
        return thing.__qualname__
    if is_dataclass(thing):
        return type(thing).__qualname__
    raise InputError(
        f"{thing!r} (a {type(thing).__name__}) cannot be part of a run's key; a part is a frozen dataclass, a function "
        f"or a class, and its fields are numbers, text, tuples or parts."
    )


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
        return {
            "is": title(thing),
            "of": describe(thing.func),
            "with": [describe(thing.args), describe(thing.keywords)],
        }
    if is_dataclass(thing) and not isinstance(thing, type):
        held = {f.name: describe(getattr(thing, f.name)) for f in fields(thing) if f.compare}
        return {"is": title(thing), "fields": held, "meaning": meaning(type(thing))}
    return {"is": title(thing), "meaning": meaning(thing)}


def now(thing: Any) -> str:
    """What a part means at this moment, for caches by parts: another cell may have changed a global that it reads."""
    try:
        return repr(describe(thing))
    except InputError:  # it cannot be part of a study, which says why
        return ""


def code_in(thing: Any) -> Iterator[Any]:
    """The classes and functions whose meanings describe a part."""
    if isinstance(thing, partial):
        thing = (thing.func, thing.args, thing.keywords)
    if isinstance(thing, tuple | list | dict):
        for item in thing.values() if isinstance(thing, dict) else thing:
            yield from code_in(item)
    elif inspect.isclass(thing) or inspect.isroutine(thing):
        yield thing
    elif is_dataclass(thing):
        yield type(thing)
        yield from code_in([getattr(thing, f.name) for f in fields(thing) if f.compare])


def meaning(thing: Any) -> str:
    """Hash of what a class or function does: its own source and that of every name it leans on.

    Raises InputError where one of these was replaced in memory, so that no file says what would be trained.
    """
    carried = _carried(thing)
    if carried is not None and carried["meaning"] is not None:
        return carried["meaning"] if _still(carried["leans on"]) else ON_DISK
    found = _in_cell(thing) if in_cell(thing) else _in_file(thing)
    check_as_written(found.read)
    if getattr(thing, "__module__", None) == "__main__":
        _carry(thing, found)
    return found.digest


@dataclass(frozen=True)
class _Told:
    """What a part means, the names of modules that it was read from, and digests of values in memory, by name."""

    digest: str
    read: frozenset[tuple[ModuleType, str]]
    values: Mapping[str, str]


_IN_FILES: dict[Any, tuple[_Told, dict[ModuleType, Any]]] = {}  # with what a module was imported by


def _in_file(thing: Any) -> _Told:
    """What is written in files means; an installed library's is its name.

    Kept until one of the modules is imported anew, whose `__spec__` is then another: what was only written to the disk
    is not what runs. A script's globals may change at any time.
    """
    if is_library(inspect.getmodule(thing)):
        return _Told(f"{thing.__module__}.{thing.__qualname__}", frozenset(), {})
    told, specs = _IN_FILES.get(thing, (None, {}))
    if told is not None and all(imported(module) is spec for module, spec in specs.items()):
        return told
    _check_named(thing)
    seen, read = followed(_module_of(thing), [thing.__qualname__.split(".")[0]])
    told = _Told(_hashed(seen), read, {})
    if all(module.__name__ != "__main__" for module, _ in read):
        _IN_FILES[thing] = told, {module: imported(module) for module, _ in read}
    return told


def _hashed(seen: Mapping[str, str]) -> str:
    return short("\n".join(f"{name}:{tree}" for name, tree in sorted(seen.items())))


def _in_cell(thing: Any) -> _Told:
    """The same of what no file holds, read from memory, now: another cell may have changed what it leans on."""
    _check_named(thing)
    read: set[tuple[ModuleType, str]] = set()

    def held(part: Any) -> str | None:
        if not _stands_in_file(part):
            return None
        found = _in_file(part)
        read.update(found.read)
        return found.digest

    def written(module: ModuleType, name: str | None) -> str | None:
        seen, places = followed(module, sorted(definitions(module)) if name is None else [name])
        read.update(places)
        return _hashed(seen) if seen else None

    tracer = Tracer(held, written)
    try:
        text = repr(tracer.trace(thing, name_of(thing)))
    except InputError:
        raise
    except Exception as error:  # whatever the user's objects raise when they are looked at
        raise tracer.refused(
            f"cannot be read ({type(error).__name__}: {error})", "make it inside the function"
        ) from error
    return _Told(short(text), frozenset(read), tracer.values)


def _stands_in_file(thing: Any) -> bool:
    """Whether a class or function is what a file of the user's says under its name, decorated or not."""
    module = inspect.getmodule(thing)
    if module is None or is_library(module) or in_cell(thing):
        return False
    name = thing.__qualname__
    if name.split(".")[0] not in definitions(module):
        return False
    there, code = found_in(module, name), getattr(thing, "__code__", None)
    while there is not None:
        if there is thing or (code is not None and getattr(there, "__code__", None) is code):  # the latter: %autoreload
            return True
        there = getattr(there, "__wrapped__", None)
    return False


def in_cell(thing: Any) -> bool:
    """Whether a class or function was defined where no file holds it: a notebook, a prompt, `python -c`, `exec`."""
    thing = thing if inspect.isclass(thing) else inspect.unwrap(getattr(thing, "__func__", thing))
    if not isinstance(thing, FunctionType | type):
        return False
    module = inspect.getmodule(thing)
    if module is None:
        return True
    file = str(getattr(module, "__file__", None) or "")
    if not Path(file).is_file():
        return imported(module) is None
    if module.__name__ != "__main__":
        return False
    return thing.__qualname__.split(".")[0] not in definitions(module) or _typed_in(thing, Path(file).name)


def _typed_in(thing: Any, file: str) -> bool:
    """Whether the functions of a part of `__main__` come from a prompt, and none from its file."""
    own = [thing] if isinstance(thing, FunctionType) else vars(thing).values()
    code = [each.__code__ for each in own if isinstance(each, FunctionType) and not is_generated(each)]
    places = {Path(each.co_filename) for each in code}
    return file not in {place.name for place in places} and any(not place.is_file() for place in places)


@cache
def _this_process() -> str:
    return uuid4().hex


def carry_source(thing: Any) -> None:
    """Write on a class of `__main__` its file's text, for the processes that it is sent to."""
    if thing.__module__ == "__main__" and CARRIED not in vars(thing):
        _carry(thing, None)


def _carry(thing: Any, told: _Told | None) -> None:
    """Write on a part of `__main__` what it means, for the processes that it is sent to."""
    before = getattr(thing, "__dict__", {}).get(CARRIED, {})
    found = told.digest if told is not None else None
    if before and before["meaning"] == found:
        return
    values = told.values if told is not None else {}
    was = before.get("values", {})
    carried = {
        "by": _this_process(), "meaning": found, "source": source_of(thing), "values": values,
        "leans on": _digests(told.read) if told is not None else {},
        "changed": sorted(name for name in values if name in was and values[name] != was[name]),
    }  # fmt: skip
    with suppress(AttributeError, TypeError):  # a part that takes no attributes stays here
        setattr(thing, CARRIED, carried)


def _carried(thing: Any) -> dict[str, Any] | None:
    """What the process that sent a part wrote on it; None for a part of this process."""
    found = getattr(thing, "__dict__", {}).get(CARRIED)
    return found if found is not None and found["by"] != _this_process() else None


def changed_in_memory(part: Any, expected: Collection[str]) -> list[str] | None:
    """Names of values that parts of a cell or a script lean on and that changed since they meant what is expected; None
    where no such part means another thing than that."""
    found = None
    for thing in code_in(part):
        if getattr(thing, "__module__", None) == "__main__" and meaning(thing) not in {*expected, ON_DISK}:
            found = (found or []) + getattr(thing, "__dict__", {}).get(CARRIED, {}).get("changed", [])
    return found


def _digests(read: Iterable[tuple[ModuleType, str]]) -> dict[str, dict[str, str]]:
    """What modules other than `__main__` say of the names that were read, by module and name."""
    found: dict[str, dict[str, str]] = {}
    for module, name in read:
        if module.__name__ != "__main__":
            found.setdefault(module.__name__, {})[name] = _said(module, name)
    return found


def _said(module: ModuleType, name: str) -> str:
    node = definitions(module).get(name)
    return short(ast.dump(node)) if node is not None else ""


def _still(digests: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether modules say here what they said where a part was sent from."""
    return all(
        _said(importlib.import_module(module), name) == digest
        for module, said in digests.items()
        for name, digest in said.items()
    )


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
    return module.__name__ + ".py", text_of(module)


def _module_of(thing: Any) -> ModuleType:
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
