"""A run of ours in flight: its curve so far, from the newest good checkpoint of its pack under the store's packs/.

Read without torch, so that watching costs nothing where training runs. What a checkpoint must hold for this is little:
state.json with `members` (run keys in the order of the columns), `step`, `judged_steps` and, where known, `horizons`
(steps of each member); in state.safetensors the arrays `train_loss` (steps, members) and `judged.<i>` (loss and
accuracy, members). A newcomer would load the file: only the few kilobytes of the curves are read, not the weights.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.files import RECORD_BYTES, json_of, seal_of

HEADER = 64 * 2**20  # bytes a safetensors header may have: more is no header of ours
_STEP = re.compile(r"step-\d{9}")
_WRONG = (InputError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error)
_KINDS = {"F64": "<f8", "F32": "<f4", "I64": "<i8"}


@dataclass(frozen=True, eq=False)
class Flight:
    """One run so far: training loss of each step, and the judge's losses; `retired` says why it stopped.

    `horizon` is its number of steps, None where the checkpoint does not say.
    """

    key: str
    train_loss: np.ndarray
    judged_steps: np.ndarray
    judged_loss: np.ndarray
    horizon: int | None = None
    retired: str = ""


def in_flight(packs: Path, key: str) -> Flight | None:
    """The run whose key begins with `key`, from the newest good checkpoint that holds it; None where there is none.

    Raises InputError where several runs in flight begin so.
    """
    found: dict[str, Flight] = {}
    for folder in sorted(packs.glob("*/")) if packs.is_dir() else []:
        for flight in _of_pack(folder, key):
            before = found.get(flight.key)
            if before is None or len(flight.train_loss) > len(before.train_loss):
                found[flight.key] = flight
    if len(found) > 1:
        raise InputError(
            f"{len(found)} runs in flight begin with {key!r}: {', '.join(sorted(found))}; give more of it."
        )
    return next(iter(found.values()), None)


def _of_pack(folder: Path, key: str) -> list[Flight]:
    for state in _states(folder):
        try:
            facts = _facts(state)
            members = [str(each) for each in facts["members"]]
            places = [place for place, each in enumerate(members) if each.startswith(key)]
            if places:
                arrays = _curves(state.with_name("state.safetensors"))
                return [_flight(facts, members[place], place, arrays) for place in places]
        except _WRONG:
            continue  # being written or removed, or damaged: an older one will do
    return []


def _states(folder: Path) -> list[Path]:
    """The state files of a pack's checkpoints, the newest first; those that were set aside as damaged are not among."""
    found = [state for state in folder.rglob("state.json") if _STEP.fullmatch(state.parent.name)]
    return sorted(found, key=lambda state: state.parent.name, reverse=True)


def _facts(state: Path) -> dict[str, Any]:
    with open(state, "rb") as file:
        facts = json_of(file.read(RECORD_BYTES), str(state), "It is not used.")
    if "seal" in facts and facts["seal"] != seal_of(facts):
        raise ValueError("not as it was written")
    return facts


def _flight(facts: Mapping[str, Any], key: str, place: int, arrays: Mapping[str, np.ndarray]) -> Flight:
    train = arrays["train_loss"][:, place].astype(float) if "train_loss" in arrays else np.zeros(0)
    finite = np.flatnonzero(np.isfinite(train))
    train = train[: int(finite[-1]) + 1 if len(finite) else 0]  # NaN once a member is gone from its pack
    steps = [int(step) for step in facts.get("judged_steps", ())]
    judged = np.array([arrays[f"judged.{index}"][0, place] for index in range(len(steps))], float)
    horizons = facts.get("horizons")
    horizon = int(horizons[place]) if horizons else None
    return Flight(
        key, train, np.array(steps, float), judged, horizon, str(facts.get("retired", {}).get(str(place), ""))
    )


def _curves(path: Path) -> dict[str, np.ndarray]:
    """The arrays of curves in a safetensors file: 8 bytes of length, a JSON header, then the data."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if not 0 < length <= min(HEADER, size):
            raise ValueError("no safetensors header")
        header = json.loads(file.read(length))
        found = {}
        for name, about in header.items():
            if (name == "train_loss" or name.startswith("judged.")) and about.get("dtype") in _KINDS:
                start, end = about["data_offsets"]
                if not 0 <= start <= end <= size - 8 - length:
                    raise ValueError("an array that lies outside its file")
                file.seek(8 + length + start)
                data = file.read(end - start)
                found[name] = np.frombuffer(data, _KINDS[about["dtype"]]).reshape(about["shape"])
        return found


def flying(packs: Path) -> list[str]:
    """Keys of all runs that have a checkpoint, sorted."""
    keys: set[str] = set()
    for state in _states(packs) if packs.is_dir() else []:
        try:
            keys |= {str(each) for each in _facts(state)["members"]}
        except _WRONG:
            continue
    return sorted(keys)
