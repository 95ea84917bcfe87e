"""What verbs share: the flags that say where and how, and loading a study from a Python file."""

from __future__ import annotations

import argparse
import errno
import hashlib
import importlib.util
import json
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from windtunnel.errors import InputError
from windtunnel.places import Local
from windtunnel.store import Store

if TYPE_CHECKING:
    from windtunnel.study import Result

DEFAULT_STORE = "windtunnel-store"


def add_store(parser: argparse.ArgumentParser) -> None:
    """--store and --json."""
    parser.add_argument(
        "--store",
        default=DEFAULT_STORE,
        metavar="PLACE",
        help=f"folder or URL where runs and forecasts live ({DEFAULT_STORE})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_study(parser: argparse.ArgumentParser) -> None:
    """The study file, and the shared flags of a verb on it."""
    parser.add_argument("study", metavar="STUDY.py", help="a Python file with a variable `study`")
    add_store(parser)


def add_where(parser: argparse.ArgumentParser) -> None:
    """--on and --devices."""
    parser.add_argument("--on", choices=(*LAUNCHERS, "torchrun"), default="here", help="where packs are trained (here)")
    parser.add_argument(
        "--devices", type=_positive, metavar="N",
        help="packs trained at once (default: here one a GPU, else one a CPU core; on a cluster all it has room for)",
    )  # fmt: skip
    parser.add_argument(
        "--slurm", type=_setting, action="append", default=[], metavar="KEY=VALUE",
        help="with --on slurm, a word of sbatch: partition=learn, time=60 (minutes), gpus_per_node=1; may be repeated",
    )  # fmt: skip


@contextmanager
def launcher_of(args: Any) -> Iterator[Any]:
    """What --on and --devices name, for as long as a study lasts; its libraries are imported only now."""
    if args.slurm and args.on != "slurm":
        raise InputError(f"--slurm is for --on slurm, and this is --on {args.on}; leave one out.")
    launcher = LAUNCHERS[args.on](args)
    with launcher if hasattr(launcher, "__enter__") else nullcontext():
        yield launcher


def _here(args: Any) -> Any:
    from windtunnel.launch.here import Here

    return Here(devices=args.devices)


def _ray(args: Any) -> Any:
    from windtunnel.launch.ray import Ray

    return Ray(devices=args.devices)


def _slurm(args: Any) -> Any:
    from windtunnel.launch.slurm import Slurm

    return Slurm(devices=args.devices, settings=dict(args.slurm))


LAUNCHERS = {"here": _here, "ray": _ray, "slurm": _slurm}


def load_study(path: str, *, also: Callable[[Any], bool] = lambda found: False) -> Any:
    """The variable `study` of a Python file: a Study, or what `also` says may stand there instead.

    Raises InputError if there is none; a study file is code and is run.
    """
    from windtunnel.study import Study

    found = getattr(load_module(path), "study", None)
    if not isinstance(found, Study) and not also(found):
        what = "has no variable `study`" if found is None else f"has a `study` that is a {type(found).__name__}"
        raise InputError(f"{path} {what}; end it with study = wt.Study(...).")
    return found


def load_module(path: str) -> ModuleType:
    """Run a Python file as a module that workers can import too. Raises InputError with the file's own line."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path} does not exist or is not a file; give the path of a Python file.")
    name, folder = file.stem, str(file.resolve().parent)
    if not name.isidentifier():
        raise InputError(f"{path} cannot be imported: its name must be letters, digits and underscores, then .py.")
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != str(file.resolve()):
        raise InputError(f"{path} has the name of another module ({name}); rename the file.")
    if folder not in sys.path:
        sys.path.insert(0, folder)  # its neighbours can be imported, as when Python runs it
    return _executed(name, file)


def load_anew(path: str) -> ModuleType:
    """Run a loaded file again, its neighbours with it, as another process would; what was loaded stays loaded."""
    file = Path(path).resolve()

    def neighbours() -> dict[str, ModuleType]:
        files = {name: Path(getattr(module, "__file__", None) or ".") for name, module in sys.modules.items()}
        return {name: sys.modules[name] for name, at in files.items() if at.parent == file.parent and at.suffix}

    loaded = neighbours()
    for name in loaded:
        del sys.modules[name]
    try:
        return _executed(file.stem, file)
    finally:
        for name in neighbours():
            del sys.modules[name]
        sys.modules.update(loaded)


def _executed(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(file))
    if file.suffix == ".py":
        spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        compile(file.read_bytes(), str(file), "exec")
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{file} is not Python that can be read: {error}.") from None
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        from windtunnel.cli.mistakes import suggestion

        near = suggestion(error, file)
        if isinstance(error, ImportError) and "relative import" in str(error):
            near = (
                " A study file is run by itself, in no package: import a neighbour without the dots, or by the "
                "package's name with the folder above it in PYTHONPATH."
            )
        raise InputError(f"{file} stopped while it was loaded, {_where(error, file)}: {error!r}.{near}") from error
    return module


def _where(error: BaseException, file: Path) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file.resolve()]
    return f"at line {lines[-1]}" if lines else "in a module it imports"


def open_store(args: Any) -> Store:
    """The store of the command line. Raises InputError for one that would be gone when the command ends."""
    store = Store(args.store)
    if store.in_memory:
        raise InputError(f"The store {store.where} would be gone when this command ends; give --store a folder or URL.")
    return store


def existing_store(args: Any) -> Store:
    """The store of the command line, which must exist."""
    store = Store(args.store)
    if not store.exists():
        raise InputError(
            f"There is no store at {store.where}; name one with --store, or make one with `windtunnel run`."
        )
    return store


def write_page(result: Result, args: Any) -> tuple[Path, str]:
    """Write the report beside the runs, or here where the store is a URL or may not be written; its path, the command.

    The command repeats the run.
    """
    command = command_of(result, args)
    name = page_name(result.study.name)
    folder = result.store.path if isinstance(result.store.place, Local) else Path()
    try:
        return result.report(folder / name, command=command, study_file=args.study), command
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        print(f"windtunnel: {folder} cannot be written, so the report is written here", file=sys.stderr)
        return result.report(Path(name), command=command, study_file=args.study), command


def command_of(result: Result, args: Any) -> str:
    """The command that repeats a study, with the options that are not the usual ones; its runs know their precision."""
    usual = {"on": "here", "devices": None}
    given = [(name, value) for name, before in usual.items() if (value := getattr(args, name, before)) != before]
    trained = [run for kind in (result.tried, result.ladder, result.targets) for runs in kind.values() for run in runs]
    known = {run.cost.precision for run in trained} | {getattr(args, "precision", "float32")}
    given += [("precision", "bfloat16")] if "bfloat16" in known else []
    settings = [("slurm", f"{key}={value}") for key, value in getattr(args, "slurm", ())]
    how = "".join(f" --{name} {shlex.quote(str(value))}" for name, value in given + settings)
    return f"windtunnel run {shlex.quote(args.study)} --store {shlex.quote(args.store)}{how}"


def page_name(study: str) -> str:
    """The file name of a study's report; what cannot stand in one is made up for by a hash, so that no two share it."""
    plain = re.sub(r"[^\w.-]", "-", study).lstrip(".")
    if plain and plain == study:
        return f"{plain}.html"
    return f"{plain}-{hashlib.sha256(study.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}.html".lstrip("-")


def print_json(data: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(data, indent=1, default=str))


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"{text} is not KEY=VALUE, as partition=learn")
    return name, value
