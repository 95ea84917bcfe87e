"""What a part means that no file holds, as one of a notebook's cell: its code, and the values it leans on as they are.

Nothing is read but what is in memory: the instructions and constants of functions, the attributes of classes, and every
global that they name, followed into each other. So a changed constant of another cell counts at once. A newcomer would
ask `inspect` for the source: it has none of a class in a notebook. Instructions differ between versions of Python,
hence so do these keys; those of parts in files do not.
"""

from __future__ import annotations

import dataclasses
import dis
import inspect
import sysconfig
import types
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError

Held = Callable[[Any], str | None]  # what a class or function means by its file; None where no file holds it
PLAIN = bool | int | float | complex | str | bytes | types.EllipsisType | types.NoneType
CARRIED = "__windtunnel__"  # the attribute under which a part of `__main__` carries its meaning to other processes
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def traced(thing: Any, held: Held, seen: dict[int, tuple[int, Any]]) -> Any:
    """`thing` as nested lists of text that change with what it does; raises InputError for what cannot be read."""
    if isinstance(thing, PLAIN):
        return repr(thing)
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    if not isinstance(thing, tuple | frozenset | types.CodeType):  # Python may share equal ones, or not
        if id(thing) in seen:
            return f"again {seen[id(thing)][0]}"
        seen[id(thing)] = (len(seen), thing)
    if isinstance(thing, types.FunctionType | type):
        known = held(thing)
        return known if known is not None else [traced(part, held, seen) for part in _inside(thing)]
    return [type(thing).__name__, *(traced(part, held, seen) for part in _inside(thing))]


def is_generated(function: types.FunctionType) -> bool:
    """Whether `dataclass` wrote a function: its fields say the same."""
    return "__create_fn__" in function.__code__.co_qualname


def _inside(thing: Any) -> Iterator[Any]:
    """What makes a thing what it is."""
    if isinstance(thing, types.FunctionType):
        yield from _of_function(thing)
    elif isinstance(thing, type):
        yield from thing.__bases__
        yield from _of_class(thing)
    elif isinstance(thing, types.CodeType):
        yield from _of_code(thing, thing.co_consts)
    elif isinstance(thing, tuple | list):
        yield from thing
    elif isinstance(thing, set | frozenset):
        yield from sorted(thing, key=repr)
    elif isinstance(thing, dict | types.MappingProxyType):
        for pair in thing.items():
            yield from pair
    else:
        yield from _of_object(thing)


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    code = function.__code__
    documented = code.co_consts[:1] == (function.__doc__,)
    yield from _of_code(code, code.co_consts[1:] if documented else code.co_consts)
    yield function.__defaults__
    yield function.__kwdefaults__
    yield {name: value for name, value in vars(function).items() if name != CARRIED}
    for cell in function.__closure__ or ():
        yield cell.cell_contents
    named, attributes = _names(code)
    for name in sorted(named & function.__globals__.keys()):
        value = function.__globals__[name]
        yield value
        if isinstance(value, types.ModuleType) and not is_library(value):
            yield from _used(value, attributes)


def _used(module: types.ModuleType, names: set[str]) -> Iterator[Any]:
    """The functions and classes that code of these names may take from a module, and from modules inside it."""
    for name in sorted(names & vars(module).keys()):
        value = vars(module)[name]
        if isinstance(value, types.FunctionType | type | types.BuiltinFunctionType | PLAIN):
            yield value
        elif isinstance(value, types.ModuleType) and not is_library(value) and value is not module:
            yield from _used(value, names)


def _of_code(code: types.CodeType, constants: tuple[Any, ...]) -> Iterator[Any]:
    yield from (code.co_code, code.co_exceptiontable, code.co_flags, code.co_names, code.co_varnames)
    yield from (code.co_freevars, code.co_cellvars, constants)


def _names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """The globals that code reads, functions inside it too, and all names in it."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    every = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            below = _names(inner)
            found, every = found | below[0], every | below[1]
    return found, every


def _of_class(cls: type) -> Iterator[Any]:
    for name, value in sorted(vars(cls).items()):
        if name == "__dataclass_fields__":
            for field in value.values():
                yield (field.name, field.init, field.compare, dict(field.metadata))
                given = (field.default, field.default_factory)
                yield from (each for each in given if not isinstance(each, type(dataclasses.MISSING)))
        elif isinstance(value, types.FunctionType):
            if not is_generated(value) and name != "__repr__":
                yield (name, value)
        elif not isinstance(value, _SLOTS) and not name.startswith("__") and name != "_abc_impl":
            yield (name, value)


def _of_object(thing: Any) -> Iterator[Any]:
    """A value that is neither plain nor code. Raises InputError for one whose content cannot be told."""
    if isinstance(thing, staticmethod | classmethod | types.MethodType):
        yield from (thing.__func__, getattr(thing, "__self__", None))
    elif isinstance(thing, property):
        yield from (thing.fget, thing.fset)
    elif isinstance(thing, cached_property):
        yield thing.func
    elif isinstance(thing, partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif callable(inner := getattr(thing, "__wrapped__", None)):
        yield inner
    elif dataclasses.is_dataclass(thing):
        yield type(thing)
        yield from (getattr(thing, field.name) for field in dataclasses.fields(thing))
    elif hasattr(thing, "tolist"):  # arrays and tensors
        yield from (str(thing.dtype), thing.tolist())
    elif inspect.isroutine(thing):
        yield f"{getattr(thing, '__module__', None)}.{thing.__qualname__}"
    elif type(thing).__module__ == "typing" or not (
        hasattr(thing, "__dict__") or type(thing).__repr__ is object.__repr__
    ):
        yield repr(thing)  # as of torch.float32 and torch.device("cpu")
    else:
        raise InputError(
            f"A part that is defined outside any file, as in a notebook, leans on a {type(thing).__name__}, whose "
            f"content cannot be part of a run's key. Put the part into a file and import it."
        )


@cache
def is_library(module: types.ModuleType | None) -> bool:
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
