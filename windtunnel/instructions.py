"""What compiled code says: its instructions, the globals it reads and the attributes it takes of them, its imports.

Places in the tables of a code object are no part of what it says, so a docstring that is added changes nothing; nor are
line numbers. A newcomer would hash `co_code` and `co_consts`: there both do.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType
from typing import Any

_READS = ("LOAD_GLOBAL", "LOAD_NAME")
_TAKES = ("LOAD_ATTR", "LOAD_METHOD")
_HAS_DOCSTRING = 0x4000000  # a flag of Python 3.13 and later
_OF_CLASSES = {"__doc__", "__firstlineno__", "__module__", "__qualname__", "__static_attributes__"}


def spelled(code: CodeType) -> Iterator[Any]:
    """How code is called, then each instruction's name and what it names; constants as they are, code among them."""
    yield (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~_HAS_DOCSTRING)
    yield (code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], code.co_freevars, code.co_exceptiontable)
    steps = _steps(code)
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if _writes_of_class(step) or (following is not None and _writes_of_class(following)):
            continue
        named = step.opcode in {*dis.hasconst, *dis.hasname, *dis.haslocal, *dis.hasfree}
        yield (step.opname, step.argval if named else step.arg)


def reads(code: CodeType) -> set[tuple[str, ...]]:
    """The globals that code reads, functions inside it too, each with the attributes taken from it at once."""
    found, steps = set(), _steps(code)
    for place, step in enumerate(steps):
        if step.opname in _READS:
            path = [step.argval]
            for following in steps[place + 1 :]:
                if following.opname not in _TAKES:
                    break
                path.append(following.argval)
            found.add(tuple(path))
    return found.union(*map(reads, _within(code)))


def imports(code: CodeType) -> set[tuple[str, tuple[str, ...]]]:
    """The modules that code imports, with a dot for each level of a relative import, and the names taken of each."""
    found, steps = set(), _steps(code)
    for place, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, names = steps[place - 2].argval, steps[place - 1].argval
            found.add(("." * level + step.argval, names or ()))
    return found.union(*map(imports, _within(code)))


def _steps(code: CodeType) -> list[dis.Instruction]:
    return [each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG"]


def _within(code: CodeType) -> list[CodeType]:
    return [each for each in code.co_consts if isinstance(each, CodeType)]


def _writes_of_class(step: dis.Instruction) -> bool:
    """Whether an instruction of a class's body stores its docstring, its name or its place."""
    return step.opname == "STORE_NAME" and step.argval in _OF_CLASSES
