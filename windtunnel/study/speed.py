"""How fast packs of a study will train: from runs in the store, from steps done here and now, or a stated guess.

A newcomer would take one speed for all sizes. On one core a model of ten thousand parameters trains at a third of the
FLOP/s of one of a million, so speeds are kept by size and read off in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from windtunnel.ladder import Rung, Size
from windtunnel.launch.here import device_of
from windtunnel.study.stages import Ask, Stages
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.pack import Pack
from windtunnel.train.timing import Timing, timed

# FLOPs per second of one CPU core on packs of these small models (measured, width 16 to 64: 4e9 to 1.5e10).
GUESSED = 6e9
# A shape of which one step would take longer than this is not timed but read off the others (chosen).
TIMED_SECONDS = 3.0


@dataclass(frozen=True)
class Speeds:
    """FLOP/s of one device by parameters: known at some sizes, read off on a log scale between them, level outside."""

    params: tuple[float, ...]
    flops_per_second: tuple[float, ...]
    source: str

    def at(self, size: Size) -> float:
        """FLOP/s for a model of this size."""
        found = np.interp(math.log(max(size.params, 1)), np.log(self.params), np.log(self.flops_per_second))
        return float(np.exp(found))


def guessed() -> Speeds:
    """One speed for all, where nothing is known."""
    return Speeds((1.0,), (GUESSED,), "a guess: no run in the store yet")


def by_size(known: Sequence[tuple[float, float]], source: str) -> Speeds:
    """Pairs of parameters and FLOP/s, the median taken at each size; a guess where there are none."""
    found: dict[float, list[float]] = {}
    for params, speed in known:
        found.setdefault(max(float(params), 1.0), []).append(speed)
    sizes = sorted(found)
    return Speeds(tuple(sizes), tuple(median(found[size]) for size in sizes), source) if found else guessed()


def stored(rows: Sequence[dict[str, Any]]) -> Speeds:
    """The speeds of a store's finished runs."""
    finished = [r for r in rows if r["outcome"] == "finished" and r["seconds"] > 0 and r["spent_flops"] > 0]
    known = [(row["params"], row["spent_flops"] / row["seconds"]) for row in finished]
    return by_size(known, f"the medians of {len(finished)} runs in the store, by size")


# recipe, rung, runs, most of them in a pack, size -> device seconds to train them
Seconds = Callable[[str, Rung, int, int, Size], float | None]


def timed_here(stages: Stages) -> Seconds:
    """Device seconds of runs, by a few steps of a pack of that shape on this machine's first device.

    Gives None for a shape that does not fit or cannot be packed, and for one whose step would take seconds.
    """
    known: dict[Any, Any] = {}
    reached = [GUESSED]

    def seconds(name: str, rung: Rung, runs: int, together: int, size: Size) -> float | None:
        members = math.ceil(runs / math.ceil(runs / together))
        values, settled = stages.tuning(name).values, stages.recipes[name].settled(rung)
        asks = [Ask(name, "timing", stages.spec(name, rung, values, seed)) for seed in stages.study.seeds(members)]
        pack = stages.packed(asks)
        shape = (name, settled.but(tokens=1), members)
        if shape not in known:
            flops = size.training_flops(pack.tokens_per_step())
            known[shape] = tried = None if members * flops / max(reached) > TIMED_SECONDS else _tried(pack)
            if tried is not None:
                reached.append(tried[1] * flops / tried[0].step)
        if known[shape] is None:
            return None
        timing, rows = known[shape]
        return timing.pack_seconds(pack) * runs / rows

    return seconds


def _tried(pack: Pack) -> tuple[Timing, int] | None:
    """How long a pack's steps take, or as many of its rows as memory holds."""
    if pack.recipe.phases is not None:  # stretches of several shapes and horizons
        return None
    rows = len(pack.specs)
    try:
        return timed(pack, device_of(0)), rows
    except Exception as error:  # the run itself will say what is wrong with it
        if not (short := is_out_of_memory(error)) and not isinstance(error, (RuntimeError, ValueError, TypeError)):
            raise
    return _tried(pack.part(range(rows // 2))) if short and rows > 1 else None
