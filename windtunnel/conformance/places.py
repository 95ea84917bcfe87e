"""Where in the user's code something happened: of an error, a definition, a return, a call.

A traceback through vmap has a hundred frames of torch; the one that matters is the last in the idea's own file. If
there is none, the last outside installed libraries and this engine is taken.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from windtunnel.conformance.finding import Place

_PACKAGE = Path(__file__).resolve().parents[1]
_OTHERS = tuple(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def place(file: str | Path, line: int) -> Place:
    """A place with its line of code; the path is shortened if it lies below the working folder."""
    shown = os.path.relpath(file)
    shown = str(file) if shown.startswith("..") else shown
    return Place(shown, line, linecache.getline(str(file), line).strip())


def place_of_error(error: BaseException, file: Path) -> Place | None:
    """The last line of the idea's file that an error passed through, or of other code that is not a library's."""
    frames = [f for e in (error, error.__cause__) if e is not None for f in traceback.extract_tb(e.__traceback__)]
    own = [f for f in frames if _same(f.filename, file)] or [f for f in frames if is_user(f.filename)]
    return place(own[-1].filename, own[-1].lineno or 1) if own else None


def place_of(thing: Any) -> Place | None:
    """Where a function or class is defined; an object's is its class's."""
    thing = getattr(thing, "__func__", thing)
    if not (inspect.isroutine(thing) or inspect.isclass(thing)):
        thing = type(thing)
    try:
        lines, first = inspect.getsourcelines(thing)
        file = inspect.getsourcefile(thing)
    except (OSError, TypeError):
        return None
    named = next((i for i, line in enumerate(lines) if line.lstrip().startswith(("class ", "def ", "async "))), 0)
    return place(file, first + named) if file else None


def is_user(filename: str) -> bool:
    """Whether a file is an idea's or a part's, as opposed to a library's or the engine's."""
    path = Path(filename).resolve()
    if not path.is_file() or any(path.is_relative_to(folder) for folder in _OTHERS):
        return False
    engine = path.is_relative_to(_PACKAGE) and path.relative_to(_PACKAGE).parts[0] not in ("parts", "ideas")
    return not engine


def is_ours(where: Place) -> bool:
    """Whether a place lies in windtunnel, as a stock part's does."""
    return Path(where.file).resolve().is_relative_to(_PACKAGE)


def user_line() -> Place | None:
    """The innermost line of user code that is running now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_user(frame.f_code.co_filename):
        frame = frame.f_back
    return place(frame.f_code.co_filename, frame.f_lineno) if frame else None


@contextmanager
def watching_returns(function: Callable[..., Any]) -> Iterator[dict[str, Place]]:
    """Record under "return" the line of the last return that `function` takes."""
    code: CodeType | None = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    seen: dict[str, Place] = {}

    def listen(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and frame.f_code is code:
            seen["return"] = place(frame.f_code.co_filename, frame.f_lineno)

    before = sys.getprofile()
    sys.setprofile(listen)
    try:
        yield seen
    finally:
        sys.setprofile(before)


def first_call(file: Path, begins: tuple[str, ...], parts: Iterable[Any] = ()) -> Place | None:
    """The first call in a file whose dotted name begins with one of these: in the code of a part, else anywhere."""
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func).startswith(begins)]
    lines = sorted(n.lineno for n in calls)
    own = [line for line in lines if any(line in code for code in map(partial(_lines, file), parts))]
    return place(file, (own or lines)[0]) if lines else None


def _lines(file: Path, part: Any) -> range:
    """The lines of a file that a part's class or function takes."""
    thing = part if inspect.isroutine(part) or inspect.isclass(part) else type(part)
    with suppress(OSError, TypeError):
        lines, first = inspect.getsourcelines(thing)
        if _same(inspect.getsourcefile(thing) or "", file):
            return range(first, first + len(lines))
    return range(0)


def _same(filename: str, file: Path) -> bool:
    return os.path.realpath(filename) == str(file)
