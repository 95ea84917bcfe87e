"""What a wrong name in a study file was meant to be: Python says that it is unknown, this names the nearest known one.

Names are looked up in what the file's own line could see when it failed; nothing of the file is run again. A newcomer
would check keywords in every part: a frozen dataclass refuses an unknown one by itself, and only the sentence is ours.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any

from windtunnel.errors import meant

_KEYWORD = re.compile(
    r"([\w.<>]+)\(\) got (?:an unexpected keyword argument|some positional-only arguments .*) '(\w+)'"
)
HORIZONS = ("epochs", "samples", "examples", "images", "steps", "iterations")  # what others state a horizon in
_IMPORT = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


def suggestion(error: BaseException, file: Path) -> str:
    """` Did you mean X?` for an unknown keyword, attribute, name or import; nothing where no known name is near."""
    given, known = _unknown(error, file)
    if given in HORIZONS and "tokens" in known:
        return " Did you mean tokens? They are predictions: examples times those of one, and an image is one."
    return meant(given, known) if given else ""


def _unknown(error: BaseException, file: Path) -> tuple[str, Iterable[str]]:
    """The name that is not known, and those that are."""
    last = _last(error.__traceback__)
    if isinstance(error, TypeError) and last is not None and (found := _KEYWORD.search(str(error))):
        return found[2], _keywords(last, found[1], found[2])
    if isinstance(error, ImportError) and (found := _IMPORT.search(str(error))):
        return found[1], _names(sys.modules.get(found[2]))
    if isinstance(error, AttributeError) and error.name and "Did you mean" not in str(error):
        return error.name, _names(error.obj)
    if isinstance(error, NameError) and error.name and last is not None:
        return error.name, [*last.tb_frame.f_locals, *last.tb_frame.f_globals, *dir(builtins)]
    return "", ()


def _names(thing: Any) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("_")]


def _last(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback


def _keywords(where: TracebackType, called: str, given: str) -> list[str]:
    """The keywords of what was called: by the expression that called it, else by its name."""
    thing = _called(where, given)
    if thing is None:
        thing = _named(where.tb_frame, called.removesuffix(".__init__").split("."))
    try:
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [name for name, p in inspect.signature(thing).parameters.items() if p.kind in kinds]
    except (TypeError, ValueError):
        return []


def _called(where: TracebackType, given: str) -> Any:
    """What the failing call calls, where that is a name or names joined by dots."""
    code = where.tb_frame.f_code
    first, last, begin, end = next(islice(code.co_positions(), where.tb_lasti // 2, None), (None,) * 4)
    try:
        tree = ast.parse(Path(code.co_filename).read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None
    for node in ast.walk(tree):
        at = (getattr(node, "lineno", 0), getattr(node, "end_lineno", 0), getattr(node, "col_offset", 0))
        if isinstance(node, ast.Call) and (*at, node.end_col_offset) == (first, last, begin, end):
            return _value(node.func, where.tb_frame)
    return None


def _value(node: ast.expr, frame: FrameType) -> Any:
    if isinstance(node, ast.Name):
        return {**vars(builtins), **frame.f_globals, **frame.f_locals}.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, frame)
        if isinstance(owner, ModuleType):
            return getattr(owner, node.attr, None)  # modules of ours find their names when they are asked
        return None if owner is None else inspect.getattr_static(owner, node.attr, None) and getattr(owner, node.attr)
    return None


def _named(frame: FrameType, pieces: list[str]) -> Any:
    """A class or function of this name, of those that the line could see or that windtunnel defines."""
    modules = [vars(module) for name, module in list(sys.modules.items()) if name.startswith("windtunnel") and module]
    for names in (frame.f_locals, frame.f_globals, *modules):
        thing: Any = names.get(pieces[0])
        for piece in pieces[1:]:
            thing = getattr(thing, piece, None)
        if thing is not None:
            return thing
    return None
