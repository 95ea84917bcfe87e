"""`windtunnel check FILE.py` for a file with a variable `setup`: every check of wt.checks on the user's own ladder.

    setup = wt.checks.Setup(...)     # the training loop
    sizes = (64, 128, 256)           # widths, or (width, depth) pairs
    steps = 200                      # optional, the length of a run: then the dearer checks too, which train

A newcomer would stop at the first green line. Whether the learning rate transfers is the last line's question, and only
with `steps`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from windtunnel.cli.shared import print_json
from windtunnel.errors import InputError


@dataclass(frozen=True)
class LeftOut:
    """A check that this training loop has nothing for, and why."""

    check: str
    why: str

    def __str__(self) -> str:
        return f"{self.check}: left out. {self.why}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def is_setup(module: ModuleType) -> bool:
    """Whether a file states a training loop to be checked."""
    from windtunnel.scaling.checks import Setup

    return isinstance(getattr(module, "setup", None), Setup)


def execute(module: ModuleType, path: str, machine: dict[str, Any] | None) -> int:
    """Run every check that the file gives enough for; 2 if one fails, else 0. Raises InputError for missing sizes.

    With a machine, what is found is printed as one JSON object that holds it.
    """
    sizes = getattr(module, "sizes", None)
    if not isinstance(sizes, tuple | list) or len(sizes) < 2:
        raise InputError(
            f"{path} has a `setup` and no `sizes`; add the sizes to compare, as in sizes = (64, 128, 256)."
        )
    steps = getattr(module, "steps", None)
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise InputError(f"{path} has steps = {steps!r}; give the number of steps of a run, as in steps = 200.")
    results, verdicts = {}, []
    for name, ask in _asked(module.setup, tuple(sizes), steps):
        found, ok = ask()
        results[name] = found.to_json()
        verdicts += [] if isinstance(found, LeftOut) else [ok]
        if machine is None:
            print(f"{found}\n", flush=True)
    passed = False not in verdicts
    if machine is None:
        print(_last(verdicts, steps))
    else:
        print_json({"file": path, "passed": passed, "checks": results, "machine": machine})
    return 0 if passed else 2


def _asked(setup: Any, sizes: tuple[Any, ...], steps: int | None) -> Iterator[tuple[str, Callable[[], Any]]]:
    from windtunnel.scaling import checks
    from windtunnel.transfers import transfer_check

    def own(check: Callable[..., Any], *args: Any, **more: Any) -> Callable[[], Any]:
        def ask() -> Any:
            found = check(*args, **more)
            return found, found.ok

        return ask

    def floor() -> Any:
        try:
            return own(checks.epsilon_floor, setup, sizes, report=_counted)()
        except InputError as error:  # the optimizer has no epsilon; what else may be wrong, the checks before it said
            return LeftOut("epsilon_floor", str(error)), None

    def transfer() -> Any:
        found = transfer_check(setup, sizes, steps=steps or 1, report=_counted)
        verdict = found.rules[0].verdict if found.rules else "cannot tell"
        return found, {"transfers": True, "does not transfer": False}.get(verdict)

    yield "coordinates", own(checks.coordinates, setup, sizes, report=_counted)
    yield "updates", own(checks.updates, setup, sizes, report=_counted)
    yield "epsilon_floor", floor
    if isinstance(sizes[0], tuple) and len({size[1] for size in sizes}) > 1:
        yield "linearisation_distance", own(checks.linearisation_distance, setup, sizes, report=_counted)
    if steps is None:
        return
    if setup.weight_decay:
        yield "decay_timescale", own(checks.decay_timescale, checks.groups_at(setup, sizes), steps=steps)
    at = sorted({max(1, steps // 4), max(1, steps // 2), steps})
    yield "wider_is_better", own(checks.wider_is_better, setup, sizes, steps=at, report=_counted)
    yield "transfer_check", transfer


def _counted(progress: Any) -> None:
    """How far a check is, on a terminal."""
    if sys.stderr.isatty():
        end = "\r" if progress.size is not None else "\r\033[K"
        print(f"{progress.check}: run {progress.done + 1} of {progress.runs}", end=end, file=sys.stderr, flush=True)


def _last(verdicts: list[bool | None], steps: int | None) -> str:
    counts = {True: "passed", False: "failed", None: "cannot tell"}
    said = ", ".join(f"{verdicts.count(ok)} {word}" for ok, word in counts.items() if ok in verdicts)
    more = "" if steps else "; add steps = ... to ask whether the learning rate transfers"
    return f"{len(verdicts)} checks: {said}{more}"
