"""A pack that memory cannot hold is trained in parts: split before it starts where the count says so, halved when it
runs out all the same. Members do not influence each other, so parts are the same runs. A single run that does not fit
takes its steps in pieces, half as many examples at a time.

What was learned is remembered for packs of the same shape: rows by this process, pieces by the store. A newcomer would
look for a setting: how many members a pack has is a matter of speed, and changes no number.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from windtunnel.launch.pieces import Pieces
from windtunnel.train.memory import is_out_of_memory, pack_bytes
from windtunnel.train.pack import Pack
from windtunnel.train.rows import first_rows

USABLE = 0.8  # of what is free: other processes live here too (guess)
_MEMORY = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
_most_rows: dict[str, int] = {}  # shape -> rows that the last pack of this shape was cut down to


def in_parts(pack: Pack, train: Callable[[Pack], None], *, free: float | None, pieces: Pieces) -> None:
    """Call `train` with the pack, or with parts of it that fit into `free` bytes (None: unknown), down to a single run
    whose steps are taken in pieces.

    Raises InputError when a single run does not fit, one example at a time.
    """
    waiting = _fitting(pack, free) if pieces.known() == 1 else [pack.part([m]) for m in range(len(pack.specs))]
    while waiting:
        part = waiting.pop(0)
        if len(part.specs) == 1:
            part = replace(part, pieces=max(part.pieces, pieces.known()))
        try:
            train(part)
            if part.pieces > pieces.known():  # not before: what ran out for once, or cannot be cut, is no reason
                pieces.remember(part.pieces)
            continue
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(part.specs) == 1:
            waiting = [replace(part, pieces=pieces.more(part.pieces)), *waiting]
            continue
        rows = len(first_rows(part.alike()))
        _most_rows[_shape(pack)] = max(1, rows // 2)
        waiting = _split(part, max(1, rows // 2)) + waiting


def free_bytes(device: torch.device, packs_at_once: int = 1) -> float | None:
    """Bytes that one of several packs trained at once may take, None where the system does not say."""
    if device.type == "cuda":
        return USABLE * torch.cuda.mem_get_info(device)[0]
    free = _free_on_host()
    return None if free is None else USABLE * free / packs_at_once


def _fitting(pack: Pack, free: float | None) -> list[Pack]:
    rows = len(first_rows(pack.alike()))
    most = _most_rows.get(_shape(pack), rows)
    needed = pack_bytes(pack) if free is not None and rows > 1 else None
    if needed is not None and free is not None:
        most = min(most, max(1, int(rows * free / needed)))
    return [pack] if most >= rows else _split(pack, most)


def _split(pack: Pack, most: int) -> list[Pack]:
    """Parts of at most `most` rows, nearly equal; a trunk is cut only where it is all there is."""
    rows = first_rows(pack.alike())
    if len(rows) == 1:
        rows = [(member,) for member in rows[0]]
        most = max(1, len(rows) // 2)
    count = -(-len(rows) // most)
    edges = [round(i * len(rows) / count) for i in range(count + 1)]
    return [pack.part(m for row in rows[a:b] for m in row) for a, b in pairwise(edges)]


def _shape(pack: Pack) -> str:
    return f"{pack.recipe!r} {pack.rung.but(tokens=1)}, {pack.rung.batch} examples"


def _free_on_host() -> float | None:
    """The least of what the machine and the container have left."""
    facts, limit, used = _MEMORY
    found = []
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in facts.read_text().splitlines())
        found.append(1024.0 * int(lines["MemAvailable"].split()[0]))
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        found.append(float(limit.read_text()) - float(used.read_text()))
    return min(found, default=None)
