"""What a part means that no file holds, as one of a notebook's cell: its code, and the values it leans on as they are.

Nothing is read but what is in memory: the instructions of functions, the attributes of classes, the state of objects as
pickle would take it, and every global that code names, followed into each other. So a changed constant of another cell
counts at once, and what has no state that says all of it (a lock, a random generator in use) is refused. A newcomer
would ask `inspect` for the source: it has none of a class in a notebook. Instructions differ between versions of
Python, hence so do these keys; those of parts in files do not.
"""

from __future__ import annotations

import builtins
import copyreg
import enum
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pickle import whichmodule  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

from windtunnel.errors import InputError
from windtunnel.instructions import imports, reads, spelled
from windtunnel.libraries import found_in, is_followed, is_library, is_own, name_in_library, own_module

PLAIN = {bool, int, float, complex, str, bytes, type(None), type(...)}
CARRIED = "__windtunnel__"  # the attribute under which a part of `__main__` carries its meaning to other processes
_WRITTEN_BY_PYTHON = {
    CARRIED, "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__", "__dict__", "__doc__",
    "__firstlineno__", "__module__", "__slotnames__", "__static_attributes__", "__weakref__", "_abc_impl",
    "_hashable_values_", "_member_map_", "_member_names_", "_unhashable_values_", "_unhashable_values_map_",
    "_value2member_map_", "_backward_cls",  # the last by torch.autograd.Function, with a count of those made
}  # fmt: skip
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_RANDOM = {"random.Random", "numpy.Generator", "numpy.RandomState", "numpy.BitGenerator", "torch.Generator"}
_UNSEEN = {"globals", "eval", "exec"}  # with them code may lean on any name


class Tracer:
    """Tells things as nested lists of text that change with what they do.

    `held` says what a class or function means by its file, None where no file holds it; `written` what the file of one
    of the user's own modules says of a name in it, or of all names, None where it says nothing. `values` are the
    digests of the globals met that are neither code nor a module, by name.
    """

    def __init__(self, held: Callable[[Any], str | None], written: Callable[..., str | None]) -> None:
        self._held, self._written = held, written
        self._seen: dict[int, tuple[int, Any]] = {}
        self.path: tuple[str, ...] = ()  # where an error was met
        self.values: dict[str, str] = {}

    def trace(self, thing: Any, *steps: str) -> Any:
        """`thing`, found by these steps from what is traced now; raises InputError for what cannot be read."""
        before, self.path = self.path, (*self.path, *steps)
        found = self._told(thing)
        self.path = before
        return found

    def _told(self, thing: Any) -> Any:
        if type(thing) in PLAIN:
            return repr(thing)
        if (name := name_in_library(thing)) is not None:
            return name
        if isinstance(thing, types.ModuleType):
            return [thing.__name__, self._written(thing, None) if is_own(thing) else None]
        if not isinstance(thing, tuple | frozenset | types.CodeType):  # Python may share equal ones, or not
            if id(thing) in self._seen:
                return f"again {self._seen[id(thing)][0]}"
            self._seen[id(thing)] = (len(self._seen), thing)
        if isinstance(thing, types.FunctionType | type) and (known := self._held(thing)) is not None:
            return known
        return [type(thing).__name__, *self._inside(thing)]

    def _inside(self, thing: Any) -> Iterator[Any]:
        """What makes a thing what it is."""
        kind = type(thing)
        if kind in (tuple, list):
            yield from map(self.trace, thing)
        elif kind in (dict, types.MappingProxyType):
            yield from ((self.trace(key), self.trace(value)) for key, value in thing.items())
        elif isinstance(thing, set | frozenset):
            yield from (self.trace(kind), self._unordered(thing))
        elif isinstance(thing, types.CodeType):
            yield from (self.trace(part) for part in spelled(thing))
        elif isinstance(thing, types.FunctionType):
            yield from self._of_function(thing)
        elif isinstance(thing, type):
            yield from self._of_class(thing)
        elif isinstance(thing, staticmethod | classmethod | types.MethodType):
            yield from (self.trace(thing.__func__), self.trace(getattr(thing, "__self__", None)))
        elif isinstance(thing, property):
            yield from map(self.trace, (thing.fget, thing.fset, thing.fdel))
        elif isinstance(thing, cached_property):
            yield self.trace(thing.func)
        elif isinstance(thing, enum.Enum):
            yield from map(self.trace, (kind, thing.name, thing.value))
        elif (found := _bytes_of(thing)) is not None:
            yield from (self.trace(kind), *map(self.trace, found))
        else:
            yield from self._of_object(thing)

    def _unordered(self, things: Iterable[Any]) -> list[str]:
        """Each told as if it were the only one, in the order of what is told: Python's own differs by process."""
        found, seen = [], self._seen
        for thing in things:
            self._seen = seen if type(thing) in PLAIN else dict(seen)
            found.append(repr(self.trace(thing)))
        self._seen = seen
        return sorted(found)

    def _of_function(self, function: types.FunctionType) -> Iterator[Any]:
        held = {name: value for name, value in vars(function).items() if name != CARRIED}
        home = str(function.__globals__.get("__name__"))
        if home.startswith("torch._dynamo"):  # of torch.compile: what it wraps
            yield self.trace(held.get("_torchdynamo_orig_callable", held.get("__wrapped__")))
            return
        if home == "functools" and "registry" in held:  # of singledispatch, which also keeps what it dispatched
            yield self.trace(held["registry"])
            return
        module = sys.modules.get(home)
        if module is not None and not is_followed(module):
            yield f"{home}.{function.__code__.co_qualname}"
        else:
            yield from self._of_code(function)
        yield from map(self.trace, (function.__defaults__, function.__kwdefaults__, held))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not yet filled
                continue
            yield (name, self.trace(value, name))

    def _of_code(self, function: types.FunctionType) -> Iterator[Any]:
        code, around = function.__code__, function.__globals__
        yield self.trace(code)
        for name, *attributes in sorted(reads(code)):
            if name in around:
                yield (name, self._taken(around[name], name, attributes))
            elif name in _UNSEEN and hasattr(builtins, name):
                raise self.refused(f"calls {name}()", "with which code may lean on anything; name what it reads")
        for name, names in sorted(imports(code)):
            module = own_module(name, str(around.get("__package__") or ""))
            if module is not None:
                yield from (self._taken(module, name, [each]) for each in names)
                yield None if names else self.trace(module, name)

    def _taken(self, value: Any, name: str, attributes: list[str]) -> Any:
        """A global, or what code takes from one that is a module of the user's own, or from a module inside it."""
        if isinstance(value, types.ModuleType) and is_own(value) and attributes:
            inside = _member(value, attributes[0])  # of `hlp.table.shape` the first; classes are followed whole
            if isinstance(inside, types.ModuleType):
                return self._taken(inside, f"{name}.{attributes[0]}", attributes[1:])
            return self._of_module(value, f"{name}.{attributes[0]}", inside)
        found = self.trace(value, name)
        if not isinstance(value, types.FunctionType | type | types.ModuleType):
            self.values[name] = hashlib.sha256(repr(found).encode()).hexdigest()
        return found

    def _of_module(self, module: types.ModuleType, name: str, value: Any) -> Any:
        """A name of the user's own module: what its file says, and its value where that can be read."""
        said, path = self._written(module, name.rpartition(".")[2]), self.path
        try:
            return [said, self._taken(value, name, [])]
        except InputError:
            if said is None:
                raise
            self.path = path
            return [said]

    def _of_class(self, cls: type) -> Iterator[Any]:
        yield from map(self.trace, (type(cls), *cls.__bases__))
        for name, value in sorted(vars(cls).items()):
            if name == "__dataclass_fields__":
                for field in value.values():
                    yield self.trace((field.name, field.init, field.compare, dict(field.metadata)))
                    yield from (self.trace(field.default, field.name), self.trace(field.default_factory, field.name))
            elif name not in _WRITTEN_BY_PYTHON and not isinstance(value, _SLOTS) and not is_generated(value):
                yield (name, self.trace(value, name))

    def _of_object(self, thing: Any) -> Iterator[Any]:
        """A value by its class and its state, as pickle takes them."""
        kind = type(thing)
        library = kind.__module__.partition(".")[0]
        if library == "torch" and hasattr(thing, "_orig_mod"):  # of torch.compile: what it wraps
            yield self.trace(thing._orig_mod)
        elif "__wrapped__" in getattr(thing, "__dict__", {}):  # of functools.cache, without what it keeps
            yield from (f"{kind.__module__}.{kind.__qualname__}", self.trace(vars(thing)))
        elif any(f"{each.__module__.partition('.')[0]}.{each.__name__}" in _RANDOM for each in kind.__mro__):
            what = f"is a random generator ({library}'s {kind.__name__})"
            raise self.refused(what, "whose state changes as it is used; make it inside the function from a seed")
        elif (found := _state_of(thing)) is None:
            what = f"is a {kind.__name__} of {kind.__module__}"
            raise self.refused(what, "whose content cannot be read; make it inside the function")
        elif isinstance(found, str):
            yield found
        else:
            make, given, kept, *items = (*found, None, None, None)[:5]
            yield from (self.trace(make), self.trace(given), self._of_state(thing, kept))
            yield from (self.trace(list(each)) for each in items if each is not None)

    def _of_state(self, thing: Any, state: Any) -> Any:
        """Attributes by their names, but for what `cached_property` keeps."""
        if not isinstance(state, dict):
            return self.trace(state)
        kept = [n for n in state if not isinstance(inspect.getattr_static(type(thing), str(n), None), cached_property)]
        return [(repr(name), self.trace(state[name], str(name))) for name in kept]

    def refused(self, what: str, why: str) -> InputError:
        """The error of a value on the way that is traced now, with the way to it."""
        return InputError(
            f"{' -> '.join(self.path)} {what}, {why}, or put the part into a file and import it: a part that no file "
            f"holds, as one of a notebook, is told apart by its code and the values that it leans on."
        )


def is_generated(function: Any) -> bool:
    """Whether `dataclass` wrote a function: its fields say the same."""
    return isinstance(function, types.FunctionType) and "__create_fn__" in inspect.unwrap(function).__code__.co_qualname


def _member(module: types.ModuleType, name: str) -> Any:
    """What a module has under a name, or a module inside it that was not imported yet; None if it has neither."""
    if not hasattr(module, name) and hasattr(module, "__path__"):
        return own_module(f"{module.__name__}.{name}", "")
    return getattr(module, name, None)


def _state_of(thing: Any) -> Any:
    """How pickle would make a thing anew; of what it finds under a name, as numpy.tanh, that; None where it cannot."""
    reduce = copyreg.dispatch_table.get(type(thing))
    try:
        found = reduce(thing) if reduce is not None else thing.__reduce_ex__(4)
    except Exception:  # whatever a library says of its own
        return None
    if not isinstance(found, str):
        return found
    home = sys.modules.get(whichmodule(thing, found))
    library = is_library(sys.modules.get(type(thing).__module__))
    return found if library and home is not None and found_in(home, found) is thing else None


def _bytes_of(thing: Any) -> tuple[str, ...] | None:
    """Type, shape and hash of an array or tensor; None for anything else, and for an array of objects."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if isinstance(thing, memoryview):
        return thing.format, str(thing.shape), hashlib.sha256(thing.tobytes()).hexdigest()
    if torch is not None and isinstance(thing, torch.Tensor):
        said = (str(thing.dtype), str(tuple(thing.shape)))
        if thing.is_meta:
            return said
        plain = thing.detach().cpu().to_dense() if thing.layout != torch.strided else thing.detach().cpu()
        held = plain.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
        return (*said, hashlib.sha256(held).hexdigest())
    if numpy is not None and isinstance(thing, numpy.ndarray) and not thing.dtype.hasobject:
        held = numpy.ascontiguousarray(thing).reshape(-1).view(numpy.uint8)
        return str(thing.dtype), str(thing.shape), hashlib.sha256(held).hexdigest()
    return None
